"""A logger seen from a worker: what it knows, and what the driver does with what it was told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle

import raylight as pl
from raylight.engine.actor import Outbox
from raylight.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from raylight.trainer import _logger_info
from raylight.worker.remote_logger import RemoteLogger


class Recorder(TensorBoardLogger):
    """A user's logger: a run on a server, media, and an experiment."""

    run_id = "abc"

    def __init__(self, save_dir: Path) -> None:
        super().__init__(save_dir)
        self.calls: list[Any] = []
        self.board: dict[str, Any] = {}

    @property
    def experiment(self) -> Any:
        return self

    @property
    def broken(self) -> Any:
        raise RuntimeError("not now")

    def log_image(self, key: str, images: Any, **kwargs: Any) -> None:
        self.calls.append((key, images, kwargs))

    def log_artifact(self, run_id: str, path: str) -> None:
        self.calls.append((run_id, path))

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self.calls.append((type(checkpoint_callback), checkpoint_callback.best_model_path))


class Line:
    """From a worker to the driver, without Ray: events are pickled when the driver asks for them."""

    def __init__(self, *loggers: Any) -> None:
        self.outbox = Outbox()
        self.trainer = pl.Trainer(logger=list(loggers), launcher="local", accelerator="cpu")
        infos = cloudpickle.loads(cloudpickle.dumps([_logger_info(logger) for logger in loggers]))
        self.remote = [RemoteLogger(index, info, self.outbox.put) for index, info in enumerate(infos)]

    def deliver(self) -> None:
        self.outbox.close()
        for event in cloudpickle.loads(cloudpickle.dumps(self.outbox.take(0))):
            self.trainer._take_event(event)


def test_plain_attributes_and_the_class_are_known(tmp_path: Path) -> None:
    logger = Recorder(tmp_path)
    remote: Any = Line(logger).remote[0]
    assert (remote.name, remote.version, remote.run_id) == ("lightning_logs", 0, "abc")
    assert (remote.save_dir, remote.log_dir) == (str(tmp_path), logger.log_dir)
    assert isinstance(remote, TensorBoardLogger)
    assert isinstance(remote, Logger)
    assert not isinstance(remote, CSVLogger)
    assert repr(remote) == "<Recorder on the driver>"


def test_a_logger_that_is_no_logger_of_ours() -> None:
    class Duck:
        name, version = "duck", "a"

    remote: Any = Line(Duck()).remote[0]
    assert (remote.name, remote.version, remote.save_dir) == ("duck", "a", None)
    assert not isinstance(remote, Logger)


def test_calls_are_made_on_the_driver_in_order(tmp_path: Path) -> None:
    logger = Recorder(tmp_path)
    line = Line(logger)
    remote: Any = line.remote[0]
    remote.log_image("x", [torch.ones(2, requires_grad=True)], caption=["a"])
    remote.experiment.log_artifact(remote.run_id, "a.png")
    remote.experiment.board["best"] = 3
    assert logger.calls == []
    line.deliver()
    (key, images, kwargs), artifact = logger.calls
    assert (key, kwargs, artifact) == ("x", {"caption": ["a"]}, ("abc", "a.png"))
    assert torch.equal(images[0], torch.ones(2))
    assert not images[0].requires_grad
    assert logger.board == {"best": 3}


def test_a_call_keeps_what_it_was_given(tmp_path: Path) -> None:
    logger = Recorder(tmp_path)
    line = Line(logger)
    weight, notes = torch.zeros(2), {"seen": [1]}
    line.remote[0].log_image("weight", weight, notes=notes)
    weight += 1
    notes["seen"].append(2)
    line.deliver()
    ((_, images, kwargs),) = logger.calls
    assert images.tolist() == [0, 0]
    assert kwargs == {"notes": {"seen": [1]}}


def test_what_cannot_travel_is_refused_where_it_is_said(tmp_path: Path) -> None:
    remote: Any = Line(Recorder(tmp_path)).remote[0]
    with pytest.raises(TypeError, match="pickle"):
        remote.log_image("stream", (each for each in ()))


def test_checkpoints_are_announced_as_they_are(tmp_path: Path) -> None:
    logger = Recorder(tmp_path)
    line = Line(logger)
    callback = pl.callbacks.ModelCheckpoint(tmp_path)
    for name in ("first", "second"):
        callback.best_model_path = name
        line.remote[0].after_save_checkpoint(callback)
    line.deliver()
    assert logger.calls == [(pl.callbacks.ModelCheckpoint, "first"), (pl.callbacks.ModelCheckpoint, "second")]


def test_a_checkpoint_written_by_a_worker_is_uploaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    logger = MLFlowLogger("exp", save_dir=str(tmp_path / "runs"), log_model=True)
    line = Line(logger)
    remote: Any = line.remote[0]
    assert remote.run_id == logger.run_id
    callback = pl.callbacks.ModelCheckpoint(tmp_path)
    for name in ("first.ckpt", "second.ckpt"):  # the second takes the place of the first
        (tmp_path / name).touch()
        callback.best_model_path = str(tmp_path / name)
        remote.after_save_checkpoint(callback)
    remote.experiment.log_text(remote.run_id, "said", "note.txt")
    line.deliver()
    logger.finalize("success")
    found = [entry.path for entry in logger.experiment.list_artifacts(logger.run_id)]
    assert sorted(found) == ["note.txt", "second"]


def test_other_ranks_are_silent(tmp_path: Path) -> None:
    remote: Any = RemoteLogger(0, _logger_info(Recorder(tmp_path)), None)
    remote.log_image("x", [])
    remote.experiment.board["best"] = 3
