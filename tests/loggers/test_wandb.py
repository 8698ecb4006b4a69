"""W&B offline, for real: what a run's own directory, config and summary hold afterwards."""

from __future__ import annotations

import copy
import os
import pickle
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import raylight
from raylight.loggers import WandbLogger
from raylight.utilities.exceptions import MisconfigurationException

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from pytorch_lightning.loggers import WandbLogger as LightningWandbLogger


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """W&B's own folders: it has a process of its own for the module, told that nothing leaves this machine."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        for name in ("DATA", "CACHE", "CONFIG", "ARTIFACT"):
            patch.setenv(f"WANDB_{name}_DIR", str(folder / name.lower()))
        import wandb

        wandb.setup()
        yield folder
        wandb.teardown()


@pytest.fixture(autouse=True)
def wandb(data: Path) -> Iterator[Any]:
    """The package; the test's run is ended."""
    import wandb

    yield wandb
    wandb.finish()


def test_a_run_starts_with_the_first_use(tmp_path: Path, wandb: Any) -> None:
    logger = WandbLogger(save_dir=tmp_path, version="abc", project="mine", name="shown")
    assert (logger.name, logger.version, logger.save_dir) == ("mine", "abc", str(tmp_path))
    assert (logger.log_dir, logger.root_dir) == (None, None)
    logger.finalize("success")
    assert wandb.run is None
    run = logger.experiment
    assert run is wandb.run is logger.experiment
    assert (run.id, run.project, run.name) == ("abc", "mine", "shown")
    assert Path(run.dir).is_relative_to(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"save_dir": None, "dir": "elsewhere"},
        {"id": "abc", "project": "mine"},
        {"version": "v", "id": "lost"},
        {"name": "shown", "prefix": "p"},
    ],
    ids=str,
)
def test_properties_are_lightnings(settings: dict[str, Any]) -> None:
    lightning, ours = LightningWandbLogger(**settings), WandbLogger(**settings)
    for name in ("name", "version", "save_dir", "root_dir", "log_dir", "group_separator"):
        assert getattr(ours, name) == getattr(lightning, name)
    assert ours._wandb_init == lightning._wandb_init


def test_the_project_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    assert WandbLogger().name == "theirs"


def test_numbers_steps_and_hyperparameters(tmp_path: Path) -> None:
    def with_default(size: int = 3) -> int:
        return size

    def needs_one(size: int) -> int:
        return size

    hparams = {
        "lr": 0.1,
        "nested": {"depth": 2},
        "layer": torch.nn.ReLU,
        "default": with_default,
        "needs_one": needs_one,
        "factory": lambda: needs_one,
        "path": Path("a"),
    }
    logger = WandbLogger(save_dir=tmp_path, prefix="p")
    logger.log_hyperparams(hparams)
    logger.log_hyperparams(Namespace(lr=0.2))
    assert dict(logger.experiment.config) == {
        "lr": 0.2,
        "nested": {"depth": 2},
        "layer": "ReLU",
        "default": 3,
        "needs_one": "needs_one",
        "factory": "<lambda>",
        "path": "a",
    }
    logger.log_metrics({"loss": 1.0}, step=3)
    logger.log_metrics({"unstepped": 2.0})
    summary = logger.experiment.summary
    assert (summary["p-loss"], summary["trainer/global_step"], summary["p-unstepped"]) == (1.0, 3, 2.0)


def test_media(tmp_path: Path) -> None:
    logger = WandbLogger(save_dir=tmp_path)
    logger.log_image("image", [torch.zeros(3, 4, 4), torch.full((3, 4, 4), 255.0)], step=1, caption=["a", "b"])
    logger.log_table("table", columns=["x", "y"], data=[[1, 2]])
    logger.log_text("text", columns=["said"], data=[["yes"]])
    media = Path(logger.experiment.dir) / "media"
    assert len(list((media / "images").iterdir())) == 2
    assert len(list((media / "table").iterdir())) == 2
    assert logger.experiment.summary["image"]["captions"] == ["a", "b"]


@pytest.mark.parametrize(("method", "argument"), [("image", "images"), ("audio", "audios"), ("video", "videos")])
def test_media_must_be_lists_of_one_length(method: str, argument: str) -> None:
    log = getattr(WandbLogger(), f"log_{method}")
    with pytest.raises(TypeError, match=f'Expected a list as "{argument}", found'):
        log("key", "not a list")
    with pytest.raises(ValueError, match="Expected 2 items but only found 1 for caption"):
        log("key", ["a", "b"], caption=["one"])


def test_watch_and_unwatch(tmp_path: Path) -> None:
    logger, model = WandbLogger(save_dir=tmp_path), torch.nn.Linear(2, 1)
    logger.watch(model, log="all", log_freq=1, log_graph=False)
    model(torch.ones(1, 2)).sum().backward()
    logger.log_metrics({"loss": 1.0}, 0)
    assert "gradients/weight" in logger.experiment.summary.keys()  # noqa: SIM118 - no plain dict
    logger.unwatch(model)
    assert not model._forward_hooks


def test_offline_and_uploads_contradict_each_other() -> None:
    with pytest.raises(MisconfigurationException, match="checkpoints cannot be uploaded in offline mode"):
        WandbLogger(offline=True, log_model=True)


def test_offline_tells_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    run = WandbLogger(save_dir=tmp_path, offline=True).experiment
    assert run.settings._offline
    assert os.environ["WANDB_MODE"] == "dryrun"


def test_a_run_in_progress_is_used_with_a_warning(tmp_path: Path) -> None:
    first, second = WandbLogger(save_dir=tmp_path), WandbLogger(save_dir=tmp_path)
    run = first.experiment
    with pytest.warns(UserWarning, match="already in progress"):
        assert second.experiment is run
    assert WandbLogger(experiment=run).experiment is run


@pytest.mark.parametrize("again", [copy.deepcopy, lambda logger: pickle.loads(pickle.dumps(logger))])
def test_a_copy_goes_on_with_the_same_run(again: Any, tmp_path: Path) -> None:
    logger = WandbLogger(save_dir=tmp_path)
    duplicate = again(logger)
    assert (duplicate.name, duplicate.version) == (logger.name, logger.experiment.id)
    with pytest.warns(UserWarning, match="already in progress"):
        assert duplicate.experiment.id == logger.experiment.id


class Model(raylight.LightningModule):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(width, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch).sum()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.ones(4, 2), batch_size=2)


def fit(logger: Any, tmp_path: Path, **checkpoint: Any) -> None:
    trainer = raylight.Trainer(
        logger=logger,
        max_epochs=2,
        launcher="local",
        accelerator="cpu",
        log_every_n_steps=1,
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[raylight.callbacks.ModelCheckpoint(monitor="loss", **checkpoint)],
    )
    trainer.fit(Model())


@pytest.mark.parametrize(
    ("log_model", "checkpoint", "uploads"),
    [
        (False, {}, 0),
        (True, {}, 1),  # the best one, in the end
        ("all", {}, 2),
        (True, {"save_top_k": -1}, 2),
    ],
)
def test_checkpoints_of_a_fit(
    log_model: Any, checkpoint: Any, uploads: int, tmp_path: Path, wandb: Any, data: Path, wait_until: Any
) -> None:
    staged = data / "data" / "artifacts" / "staging"
    before = set(staged.glob("*"))
    logger = WandbLogger(save_dir=tmp_path, project="mine", version="abc", log_model=log_model)
    fit(logger, tmp_path, **checkpoint)
    assert (tmp_path / "mine" / "abc" / "checkpoints").is_dir()
    assert logger.experiment.config["width"] == 2
    assert logger.experiment.summary["trainer/global_step"] == 3
    wandb.finish()
    records = next(tmp_path.glob("wandb/offline-run-*/run-abc.wandb"))

    def all_are_written() -> bool:  # by W&B's process, which finish() does not wait for when offline
        return records.read_bytes().count(b"model-abc") >= uploads

    wait_until(all_are_written)
    assert records.read_bytes().count(b"model-abc") == uploads
    assert len(set(staged.glob("*")) - before) == uploads


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match=r"WandbLogger requires `wandb`.*pip install raylight\[wandb\]"):
        WandbLogger()
