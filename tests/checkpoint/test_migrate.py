"""Single changes between versions; whole files of each version are in tests/parity/test_old_files.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raylight.checkpoint import migrate, progress
from raylight.checkpoint.format import LIGHTNING_VERSION
from raylight.checkpoint.migrate import migrate_checkpoint


def test_file_of_today_stays_as_it_is() -> None:
    today = {"pytorch-lightning_version": LIGHTNING_VERSION, "state_dict": {}, "callbacks": {}}

    assert migrate_checkpoint(checkpoint := dict(today))[1] == {}
    assert checkpoint == today
    assert migrate_checkpoint({"state_dict": {}})[1] == {}  # who wrote it is not known


def test_newer_file_is_warned_about(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "pytorch-lightning_version": "99.0.0"}, tmp_path / "a.ckpt")

    with pytest.warns(UserWarning, match=r"produced with Lightning v99\.0\.0, which is newer than your current"):
        checkpoint = migrate.load(tmp_path / "a.ckpt")

    assert checkpoint["pytorch-lightning_version"] == "99.0.0"


@pytest.mark.parametrize(
    ("version", "first"),
    [
        ("0.9.0", "0.10.0"), ("1.5.0rc1", "1.5.0"), ("1.5.0", "1.6.0"), ("1.6.0.dev0", "1.6.0"), ("1.6.0", "1.6.5"),
        ("1.6.5", "1.9.0"), ("1.9.0", "2.0.0"), ("2.0.0", "2.1.0"), ("2.0.9.post0", "2.1.0"),
    ],
)  # fmt: skip
def test_changes_since(version: str, first: str) -> None:
    checkpoint = {"pytorch-lightning_version": version, "state_dict": {}, "epoch": 2, "global_step": 6}

    assert next(iter(migrate_checkpoint(checkpoint)[1])) == first

    assert checkpoint["legacy_pytorch-lightning_version"] == version
    assert checkpoint["pytorch-lightning_version"] == LIGHTNING_VERSION


@pytest.mark.parametrize("version", ["2.1.0", "2.5.1"])
def test_only_the_version_is_raised(version: str) -> None:
    checkpoint: dict[str, Any] = {"pytorch-lightning_version": version, "state_dict": {}}

    assert migrate_checkpoint(checkpoint)[1] == {}
    assert checkpoint["legacy_pytorch-lightning_version"] == version


@pytest.mark.parametrize("version", ["1.2.0", "2.6.6"])
def test_position_without_loops(version: str) -> None:
    checkpoint = {"pytorch-lightning_version": version, "state_dict": {}, "epoch": 2, "global_step": 6}
    migrate_checkpoint(checkpoint)

    position = progress.from_checkpoint(checkpoint)

    assert (position.epoch, position.global_step, position.logger_step) == (2, 6, 6)
    assert not position.epoch_is_open


def test_apex_is_dropped() -> None:
    checkpoint = {"pytorch-lightning_version": "1.9.0", "state_dict": {}, "amp_scaling_state": {"loss_scale": 2}}

    with pytest.warns(UserWarning, match="contains apex AMP data, but apex support has been removed"):
        migrate_checkpoint(checkpoint)

    assert "amp_scaling_state" not in checkpoint


@pytest.mark.parametrize("key", ["native_amp_scaling_state", "NativeMixedPrecisionPlugin", "MixedPrecisionPlugin"])
def test_scaler_state_is_found(key: str) -> None:
    checkpoint = {"pytorch-lightning_version": "1.9.0", "state_dict": {}, key: {"scale": 2.0}}
    migrate_checkpoint(checkpoint)
    assert checkpoint["MixedPrecision"] == {"scale": 2.0}


def test_class_objects_as_keys() -> None:
    class Mine: ...

    checkpoint = {"pytorch-lightning_version": "1.4.0", "state_dict": {}, "callbacks": {Mine: {"a": 1}}}
    migrate_checkpoint(checkpoint)
    assert checkpoint["callbacks"] == {Mine.__qualname__: {"a": 1}}


def test_keys_of_model_checkpoints() -> None:
    def key(monitor: str, end: str) -> str:
        return f"ModelCheckpoint{{'monitor': '{monitor}', 'train_time_interval': None{end}}}"

    yes, no = ", 'save_on_train_epoch_end': True", ", 'save_on_train_epoch_end': False"
    unlike = {key("a", yes): 1, key("b", no): 2, "T": 3}
    checkpoint: dict[str, Any] = {"pytorch-lightning_version": "1.8.0", "state_dict": {}, "callbacks": unlike}
    migrate_checkpoint(checkpoint)
    assert checkpoint["callbacks"] == {key("a", ""): 1, key("b", ""): 2, "T": 3}

    alike = {key("a", yes): 1, key("a", no): 2}
    checkpoint = {"pytorch-lightning_version": "1.8.0", "state_dict": {}, "callbacks": alike}
    with pytest.warns(UserWarning, match="state keys that would end up colliding"):
        migrate_checkpoint(checkpoint)
    assert checkpoint["callbacks"] == alike


def test_state_of_a_batch_loop_of_the_users_own_is_kept() -> None:
    fit_loop = {"epoch_loop.batch_loop.state_dict": {"mine": 1}, "epoch_loop.state_dict": {}}
    checkpoint = {"pytorch-lightning_version": "1.9.0", "state_dict": {}, "loops": {"fit_loop": fit_loop}}
    migrate_checkpoint(checkpoint)
    assert fit_loop == {"epoch_loop.state_dict": {"old_batch_loop_state_dict": {"mine": 1}}}


def test_upgrade_is_told_with_the_command(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"state_dict": {}, "pytorch-lightning_version": "1.9.0"}, tmp_path / "a.ckpt")

    with caplog.at_level("INFO", logger="raylight"):
        migrate.load(tmp_path / "a.ckpt")

    assert f"upgraded from Lightning v1.9.0 to v{LIGHTNING_VERSION}" in caplog.text
    assert f"`raylight ckpt upgrade {tmp_path / 'a.ckpt'}`" in caplog.text
