"""``fit(ckpt_path="auto")``: a script that was killed goes on when it is started again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import raylight as pl
from raylight import trainer as trainer_module
from raylight.utilities.exceptions import CheckpointError, MisconfigurationException


class Killed(BaseException):
    """Nothing of raylight's handles it: the process is gone."""


class Model(pl.LightningModule):
    def __init__(self, killed_at: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5))
        self.killed_at = killed_at
        self.seen: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == self.killed_at:
            raise Killed
        self.seen.append(self.trainer.global_step)
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.1)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fit(monkeypatch: pytest.MonkeyPatch, killed_at: int | None = None, **flags: Any) -> tuple[pl.Trainer, Model]:
    """As the first such call of a process."""
    monkeypatch.setattr(trainer_module, "_resumable_fits", iter(range(10)))
    pl.seed_everything(1, verbose=False)
    model = Model(killed_at)
    trainer = pl.Trainer(
        launcher="local", accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, max_epochs=3, **flags,
    )  # fmt: skip
    trainer.fit(model, DataLoader(torch.randn(4, 1), batch_size=1, shuffle=True), ckpt_path="auto")
    return trainer, model


def test_a_script_that_was_killed_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = fit(monkeypatch)
    assert os.listdir() == []
    with pytest.raises(Killed):
        fit(monkeypatch, killed_at=6)
    assert os.listdir() == ["resume-0-a.ckpt"]
    trainer, rest = fit(monkeypatch)
    assert rest.seen == list(range(4, 12))
    assert all(torch.equal(value, rest.state_dict()[name]) for name, value in whole.state_dict().items())
    assert os.listdir() == []
    assert [type(callback).__name__ for callback in trainer.callbacks] == []


def test_ctrl_c_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupts(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 6:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(monkeypatch, callbacks=[Interrupts()])
    assert sorted(os.listdir()) == ["resume-0-a.ckpt", "resume-0-b.ckpt"]
    _, rest = fit(monkeypatch)
    assert rest.seen == list(range(6, 12))


def test_every_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raylight.callbacks.resume_file.SECONDS_BETWEEN_SAVES", 0.0)
    with pytest.raises(Killed):
        fit(monkeypatch, killed_at=6)
    _, rest = fit(monkeypatch)
    assert rest.seen == list(range(6, 12))


def test_the_one_before_where_the_newest_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        fit(monkeypatch, killed_at=9)
    os.utime("resume-0-a.ckpt", (1, 1))
    damage(Path("resume-0-b.ckpt"))
    with pytest.warns(UserWarning, match=r"resume-0-b.ckpt is damaged.* An older checkpoint is tried"):
        _, rest = fit(monkeypatch)
    assert rest.seen == list(range(4, 12))


@pytest.mark.parametrize("place", ["tensor", "index"])
def test_last_falls_back_too(place: str) -> None:
    loader = DataLoader(torch.randn(4, 1))
    trainer = pl.Trainer(
        launcher="local", accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[pl.callbacks.ModelCheckpoint("files", every_n_train_steps=3, save_last=True)], max_steps=6,
    )  # fmt: skip
    trainer.fit(Model(), loader)
    damage(Path("files/last.ckpt"), place)
    with pytest.warns(UserWarning, match="last.ckpt is damaged"):
        trainer.validate(ValidModel(), loader, ckpt_path="last", verbose=False)
    with pytest.raises(CheckpointError, match="last.ckpt is damaged"):
        trainer.validate(ValidModel(), loader, ckpt_path="files/last.ckpt")


class ValidModel(Model):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch).square().mean())


def test_only_fit_is_resumed() -> None:
    trainer = pl.Trainer(launcher="local", logger=False)
    with pytest.raises(MisconfigurationException, match='ckpt_path="auto" resumes `fit`'):
        trainer.validate(ValidModel(), DataLoader(torch.ones(1, 1)), ckpt_path="auto")


def damage(path: Path, place: str = "tensor") -> None:
    """Change one bit: of a tensor, so that only the checksum shows it, or of the index, which calls it encrypted."""
    content = bytearray(path.read_bytes())
    content[content.index(b"/data/0") + 200 if place == "tensor" else content.rindex(b"PK\1\2") + 8] ^= 1
    path.write_bytes(content)
