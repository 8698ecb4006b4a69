"""ModelCheckpoint without a Trainer: arguments, names, state and ranking equal Lightning's."""

from __future__ import annotations

import os
import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint as LightningCheckpoint

from raylight.callbacks import Checkpoint, ModelCheckpoint
from raylight.utilities.exceptions import MisconfigurationException

METRICS = {
    "epoch": torch.tensor(3),
    "epoch_test": torch.tensor(8),
    "step": torch.tensor(120),
    "val_loss": torch.tensor(0.123456),
    "val/acc": torch.tensor(0.987),
    "a.b": torch.tensor(2.5),
}

TEMPLATES = [
    None,
    "{epoch}",
    "{epoch:03d}",
    "{epoch}-{val_loss:.2f}",
    "{epoch_test}-{epoch}-{epoch}",
    "model-{val/acc:.3f}",
    "{a.b:.1f}_{missing:d}",
    "fixed name",
    "e={epoch}/s={step:06d}",
]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("insert", [True, False])
@pytest.mark.parametrize("extra", [{}, {"ver": 3}, {"prefix": "best"}, {"prefix": "best", "ver": 1}])
def test_names_are_lightnings(tmp_path: Path, template: str | None, insert: bool, extra: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"dirpath": tmp_path, "filename": template, "auto_insert_metric_name": insert}
    ours = ModelCheckpoint(**arguments).format_checkpoint_name(METRICS, **extra)
    assert ours == LightningCheckpoint(**arguments).format_checkpoint_name(dict(METRICS), **extra)


def test_name_with_other_constants() -> None:
    class Custom(ModelCheckpoint):
        CHECKPOINT_JOIN_CHAR = "_"
        CHECKPOINT_EQUALS_CHAR = ":"
        FILE_EXTENSION = ".weights"

    assert Custom().format_checkpoint_name(METRICS, ver=2) == "epoch:3_step:120_v2.weights"


def test_naming_leaves_the_metrics_alone() -> None:
    metrics: dict[str, Any] = {"epoch": 1}
    assert ModelCheckpoint().format_checkpoint_name(metrics, "{epoch}-{other}") == "epoch=1-other=0.ckpt"
    assert metrics == {"epoch": 1}


def test_name_behind_a_uri() -> None:
    checkpoint = ModelCheckpoint("s3://bucket/run/")
    assert checkpoint.format_checkpoint_name(METRICS) == "s3://bucket/run/epoch=3-step=120.ckpt"


INVALID: list[dict[str, Any]] = [
    {"mode": "best"},
    {"save_top_k": -2},
    {"save_top_k": 3},
    {"every_n_train_steps": -1},
    {"every_n_epochs": -1},
    {"every_n_train_steps": 1, "every_n_epochs": 1},
    {"every_n_train_steps": 1, "train_time_interval": timedelta(seconds=1)},
    {"every_n_epochs": 1, "train_time_interval": timedelta(seconds=1)},
]


@pytest.mark.parametrize("arguments", INVALID, ids=str)
def test_invalid_arguments_have_lightnings_message(arguments: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException) as ours:
        ModelCheckpoint(**arguments)
    with pytest.raises(Exception, match=".") as lightnings:
        LightningCheckpoint(**arguments)
    first_words = str(lightnings.value).removesuffix(".")[:60]
    assert str(ours.value).startswith(first_words)


VALID: list[dict[str, Any]] = [
    {},
    {"monitor": "val_loss", "mode": "max", "save_top_k": 3},
    {"every_n_train_steps": 5},
    {"every_n_epochs": 0},
    {"every_n_train_steps": 0, "every_n_epochs": 2},
    {"train_time_interval": timedelta(minutes=5)},
    {"dirpath": "relative/../folder", "save_last": "link"},
    {"dirpath": "~/folder"},
    {"dirpath": Path("relative")},
    {"dirpath": ""},
]


@pytest.mark.parametrize("arguments", VALID, ids=str)
def test_state_is_lightnings(arguments: dict[str, Any]) -> None:
    ours, lightnings = ModelCheckpoint(**arguments), LightningCheckpoint(**arguments)
    assert ours.state_key == lightnings.state_key
    assert ours.state_dict() == lightnings.state_dict()
    assert list(ours.state_dict()) == list(lightnings.state_dict())
    assert ours.every_n_epochs == lightnings.every_n_epochs


def make_state(dirpath: str | None) -> dict[str, Any]:
    return {
        **LightningCheckpoint(monitor="val_loss").state_dict(),
        "dirpath": dirpath,
        "best_model_path": "/former/best.ckpt",
        "best_model_score": torch.tensor(0.5),
        "best_k_models": {"/former/best.ckpt": torch.tensor(0.5)},
        "last_model_path": "/former/last.ckpt",
        "kth_best_model_path": "/former/best.ckpt",
        "kth_value": torch.tensor(0.5),
        "current_score": torch.tensor(0.5),
    }


def test_state_is_taken_back(tmp_path: Path) -> None:
    state = make_state(os.path.realpath(tmp_path))
    checkpoint, reference = (
        ModelCheckpoint(tmp_path, monitor="val_loss"),
        LightningCheckpoint(tmp_path, monitor="val_loss"),
    )
    checkpoint.load_state_dict(state)
    reference.load_state_dict(state)
    assert checkpoint.state_dict() == reference.state_dict()
    assert checkpoint.last_model_path == "/former/last.ckpt"


def test_state_of_another_folder(tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path, monitor="val_loss")
    with pytest.warns(UserWarning, match="Only `best_model_path` will be reloaded"):
        checkpoint.load_state_dict(make_state("/former"))
    assert checkpoint.best_model_path == "/former/best.ckpt"
    assert checkpoint.best_k_models == {}
    assert checkpoint.last_model_path == ""


def test_uri_stays_as_it_is() -> None:
    assert ModelCheckpoint("s3://bucket/folder").dirpath == "s3://bucket/folder"
    assert ModelCheckpoint(Path("s3://bucket/folder")).dirpath == "s3://bucket/folder"


@pytest.mark.parametrize(("mode", "save_top_k"), [("min", 2), ("max", 2), ("min", 1), ("max", 1), ("min", -1)])
def test_ranking(mode: str, save_top_k: int) -> None:
    checkpoint = ModelCheckpoint(monitor="m", mode=mode, save_top_k=save_top_k)
    sign = 1 if mode == "min" else -1
    kept: dict[str, float] = {}
    for index, value in enumerate([3.0, 5.0, 1.0, 4.0, 0.0]):
        if len(checkpoint.best_k_models) == save_top_k:
            worst = max(kept, key=lambda path: sign * kept[path])
            assert checkpoint.kth_best_model_path == worst
            del checkpoint.best_k_models[worst], kept[worst]
        checkpoint._rank(f"{index}", torch.tensor(value))
        kept[f"{index}"] = value
        assert checkpoint.best_model_path == min(kept, key=lambda path: sign * kept[path])
        assert checkpoint.best_model_score == kept[checkpoint.best_model_path]
        assert checkpoint.current_score == value
    assert {path: score.item() for path, score in checkpoint.best_k_models.items()} == kept


def test_yaml_of_the_best(tmp_path: Path) -> None:
    for cls, folder in ((ModelCheckpoint, tmp_path / "ours"), (LightningCheckpoint, tmp_path / "lightnings")):
        folder.mkdir()
        checkpoint = cls(folder, monitor="val_loss", save_top_k=2)
        checkpoint.best_k_models = {"a.ckpt": torch.tensor(0.5), "b.ckpt": torch.tensor(0.25)}
        checkpoint.to_yaml()
    content = (tmp_path / "ours" / "best_k_models.yaml").read_text()
    assert content == (tmp_path / "lightnings" / "best_k_models.yaml").read_text()
    assert yaml.safe_load(content) == {"a.ckpt": 0.5, "b.ckpt": 0.25}
    checkpoint = ModelCheckpoint(tmp_path)
    checkpoint.to_yaml(tmp_path / "elsewhere" / "best.yaml")
    assert (tmp_path / "elsewhere" / "best.yaml").read_text() == "{}\n"


@pytest.mark.parametrize(
    ("template", "found"),
    [("last", {"last.ckpt", "last-v1.ckpt"}), ("{epoch}-last", {"epoch=3-last.ckpt", "epoch=3-last-v1.ckpt"})],
)
def test_find_last_checkpoints(tmp_path: Path, template: str, found: set[str]) -> None:
    for name in ("last.ckpt", "last-v1.ckpt", "epoch=3-last.ckpt", "epoch=3-last-v1.ckpt", "epoch=3.ckpt", "last.txt"):
        (tmp_path / name).touch()
    checkpoint = ModelCheckpoint(tmp_path)
    checkpoint.CHECKPOINT_NAME_LAST = template
    trainer: Any = None  # not asked when dirpath is given
    assert {os.path.basename(path) for path in checkpoint.find_last_checkpoints(trainer)} == found


def test_find_last_checkpoints_without_folder(tmp_path: Path) -> None:
    trainer: Any = None
    assert ModelCheckpoint(tmp_path / "none").find_last_checkpoints(trainer) == set()


def test_travels_to_workers() -> None:
    checkpoint = ModelCheckpoint(monitor="val_loss", train_time_interval=timedelta(seconds=3))
    checkpoint.best_k_models = {"a": torch.tensor(1.0)}
    copy = pickle.loads(pickle.dumps(checkpoint))
    assert isinstance(copy, Checkpoint)
    assert copy.state_dict() == checkpoint.state_dict()
    assert copy.state_key == checkpoint.state_key
