"""MLflow for real, against its local file store, and once against sqlite."""

from __future__ import annotations

import copy
import logging
import pickle
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import raylight
from raylight.loggers import MLFlowLogger


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow sets the variable, and forgets the address afterwards."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions want this said
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    import mlflow

    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture
def logger(tmp_path: Path) -> MLFlowLogger:
    return MLFlowLogger("exp", save_dir=str(tmp_path / "runs"))


def stored(logger: MLFlowLogger) -> Any:
    return logger.experiment.get_run(logger.run_id)


def artifacts(logger: MLFlowLogger, folder: str | None = None) -> list[str]:
    found = []
    for entry in logger.experiment.list_artifacts(logger.run_id, folder):
        found += artifacts(logger, entry.path) if entry.is_dir else [entry.path]
    return sorted(found)


def test_the_run_starts_with_the_first_use(logger: MLFlowLogger, tmp_path: Path, caplog: Any) -> None:
    logger.finalize("success")
    assert not list((tmp_path / "runs").glob("*/*/meta.yaml"))
    with caplog.at_level(logging.WARNING):
        run_id = logger.run_id
    assert "Experiment with name exp not found. Creating it." in caplog.text
    assert (tmp_path / "runs" / str(logger.experiment_id) / str(run_id) / "meta.yaml").is_file()
    assert (logger.name, logger.version) == (logger.experiment_id, run_id)
    assert (logger.save_dir, logger.log_dir) == (str(tmp_path / "runs"), None)


def test_an_experiment_is_found_again(logger: MLFlowLogger, tmp_path: Path, caplog: Any) -> None:
    first = logger.experiment_id
    caplog.clear()
    second = MLFlowLogger("exp", tracking_uri=f"file:{tmp_path / 'runs'}")
    assert second.experiment_id == first
    assert second.run_id != logger.run_id
    assert "not found" not in caplog.text


def test_a_deleted_experiment_is_not_used(logger: MLFlowLogger, tmp_path: Path) -> None:
    logger.experiment.delete_experiment(logger.experiment_id)
    other = MLFlowLogger("exp", save_dir=str(tmp_path / "runs"))
    with pytest.raises(Exception, match="deleted"):  # by MLflow: the name is taken
        other.experiment  # noqa: B018


def test_a_run_goes_on(logger: MLFlowLogger, tmp_path: Path) -> None:
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.finalize("failed")
    assert stored(logger).info.status == "FAILED"
    again = MLFlowLogger("not asked for", save_dir=str(tmp_path / "runs"), run_id=logger.run_id)
    again.log_metrics({"loss": 0.5}, step=1)
    assert (again.run_id, again.experiment_id) == (logger.run_id, logger.experiment_id)
    history = again.experiment.get_metric_history(again.run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(0, 1.0), (1, 0.5)]


@pytest.mark.parametrize("tags", [None, {"mlflow.runName": "lost", "team": "a"}])
def test_the_run_name_wins_over_a_tag(tags: Any, tmp_path: Path, caplog: Any) -> None:
    given = copy.copy(tags)
    logger = MLFlowLogger("exp", save_dir=str(tmp_path), run_name="shown", tags=tags)
    found = stored(logger).data.tags
    assert found["mlflow.runName"] == "shown"
    assert found.get("team") == (tags or {}).get("team")
    assert ("will be overridden by shown" in caplog.text) == (tags is not None)
    assert tags == given


def test_artifacts_go_where_they_are_told(tmp_path: Path) -> None:
    logger = MLFlowLogger("exp", save_dir=str(tmp_path / "runs"), artifact_location=str(tmp_path / "kept"))
    assert str(tmp_path / "kept") in stored(logger).info.artifact_uri


@pytest.mark.parametrize(
    ("settings", "save_dir"),
    [
        ({}, "./mlruns"),
        ({"save_dir": "logs"}, "logs"),
        ({"tracking_uri": None, "save_dir": "logs"}, "logs"),
        ({"tracking_uri": "file:there", "save_dir": "lost"}, "there"),
        ({"tracking_uri": "http://localhost:1"}, None),
    ],
    ids=str,
)
def test_save_dir(settings: dict[str, Any], save_dir: str | None, tmp_path: Path, monkeypatch: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from pytorch_lightning.loggers import MLFlowLogger as LightningMLFlowLogger
    monkeypatch.chdir(tmp_path)
    assert MLFlowLogger(**settings).save_dir == LightningMLFlowLogger(**settings).save_dir == save_dir


def test_a_second_logger_does_not_take_the_address_of_the_first(logger: MLFlowLogger, tmp_path: Path) -> None:
    assert logger.run_id
    assert MLFlowLogger(save_dir=str(tmp_path / "other")).save_dir == str(tmp_path / "other")


def test_hyperparameters_are_flat_and_cut(logger: MLFlowLogger) -> None:
    logger.log_hyperparams({"model": {"depth": 2, "act": torch.nn.ReLU}, "long": "x" * 300, "none": None})
    logger.log_hyperparams(Namespace(lr=0.1))
    assert stored(logger).data.params == {
        "model/depth": "2",
        "model/act": "<class 'torch.nn.modules.activation.ReLU'>",
        "long": "x" * 250,
        "none": "None",
        "lr": "0.1",
    }


def test_many_hyperparameters(logger: MLFlowLogger) -> None:
    logger.log_hyperparams({f"p{number}": number for number in range(205)})
    assert len(stored(logger).data.params) == 205


def test_metrics(tmp_path: Path, caplog: Any) -> None:
    logger = MLFlowLogger("exp", save_dir=str(tmp_path), prefix="p", synchronous=True)
    logger.log_metrics({"loss": torch.tensor(0.5), "text": "left out"}, step=4)
    logger.log_metrics({"unstepped": 2})
    assert stored(logger).data.metrics == {"p-loss": 0.5, "p-unstepped": 2.0}
    assert logger.experiment.get_metric_history(logger.run_id, "p-loss")[0].step == 4
    assert "Discarding metric with string value p-text=left out." in caplog.text


def test_characters_that_mlflow_does_not_allow(logger: MLFlowLogger) -> None:
    with pytest.warns(RuntimeWarning, match="special characters in metric name. Replacing a[$]b/c with ab/c."):
        logger.log_metrics({"a$b/c": 1.0}, 0)
    assert stored(logger).data.metrics == {"ab/c": 1.0}


@pytest.mark.parametrize(
    ("status", "shown"), [("success", "FINISHED"), ("finished", "FINISHED"), ("failed", "FAILED"), ("KILLED", "KILLED")]
)
def test_statuses(logger: MLFlowLogger, status: str, shown: str) -> None:
    logger.log_metrics({"loss": 1.0}, 0)
    assert stored(logger).info.status == "RUNNING"
    logger.finalize(status)
    assert stored(logger).info.status == shown


class Model(raylight.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch).sum()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.ones(4, 2), batch_size=2)


@pytest.mark.parametrize(
    ("log_model", "checkpoint", "folders"),
    [
        (False, {}, []),
        (True, {}, ["epoch=1-step=4"]),
        ("all", {}, ["epoch=0-step=2", "epoch=1-step=4"]),
        (True, {"save_top_k": -1}, ["epoch=0-step=2", "epoch=1-step=4"]),
    ],
)
def test_checkpoints_of_a_fit(log_model: Any, checkpoint: Any, folders: list[str], tmp_path: Path) -> None:
    logger = MLFlowLogger("exp", save_dir=str(tmp_path), log_model=log_model, checkpoint_path_prefix="model/files")
    trainer = raylight.Trainer(
        logger=logger,
        max_epochs=2,
        launcher="local",
        accelerator="cpu",
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[raylight.callbacks.ModelCheckpoint(monitor="loss", **checkpoint)],
    )
    trainer.fit(Model())
    files = [
        f"model/files/{folder}/{name}"
        for folder in folders
        for name in ("aliases.txt", f"{folder}.ckpt", "metadata.yaml")
    ]
    assert artifacts(logger) == files
    if folders:
        kept = Path(logger.experiment.download_artifacts(logger.run_id, f"model/files/{folders[-1]}"))
        assert (kept / "aliases.txt").read_text() == "['latest', 'best']"
        metadata = yaml.safe_load((kept / "metadata.yaml").read_text())
        assert metadata["original_filename"] == "epoch=1-step=4.ckpt"
        assert metadata["Checkpoint"]["monitor"] == "loss"
        assert metadata["score"] == pytest.approx(trainer.callback_metrics["loss"].item())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda logger: pickle.loads(pickle.dumps(logger))])
def test_a_copy_goes_on_with_the_same_run(again: Any, logger: MLFlowLogger) -> None:
    logger.log_metrics({"loss": 1.0}, 0)
    duplicate = again(logger)
    duplicate.log_metrics({"acc": 2.0}, 0)
    assert stored(logger).data.metrics == {"loss": 1.0, "acc": 2.0}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the database package that MLflow uses
def test_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    monkeypatch.chdir(tmp_path)
    logger = MLFlowLogger("exp", tracking_uri=f"sqlite:///{tmp_path}/runs.db")
    logger.log_hyperparams({"lr": 0.1})
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("success")
    run = stored(logger)
    assert (run.data.params, run.data.metrics, run.info.status) == ({"lr": "0.1"}, {"loss": 1.0}, "FINISHED")
    assert logger.save_dir is None


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ModuleNotFoundError, match=r"MLFlowLogger requires `mlflow`.*pip install raylight\[mlflow\]"):
        MLFlowLogger()
