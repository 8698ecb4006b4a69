"""A profiler and plugins in worker processes: there, and back again."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from ray import cloudpickle
from small_models import Linear, batches

import raylight as pl
from raylight.config.messages import Event, Text
from raylight.engine import homeward
from raylight.plugins import DoublePrecision, TorchCheckpointIO
from raylight.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from raylight.worker.control import StopRequest
from raylight.worker.execute import execute, single_rank


class Marking(TorchCheckpointIO):
    """Leaves a file beside each checkpoint."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        super().save_checkpoint(checkpoint, path, storage_options)
        Path(f"{path}.mark").touch()


class Saving(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: list[str] = []

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        with trainer.profiler.profile("its own"):
            trainer.save_checkpoint(self.folder / "a.ckpt")
        parts = (trainer.profiler, trainer.strategy.checkpoint_io, trainer.precision_plugin, trainer.accelerator)
        self.found = [type(part).__name__ for part in parts] + [str(trainer.strategy.root_device), trainer.precision]


def work_elsewhere(trainer: pl.Trainer) -> list[Event]:
    """Do the trainer's last job once more as a worker would, with copies of everything, and bring home its outcome."""
    run = trainer.run
    assert run is not None
    job = dataclasses.replace(run.job, trainer=None, strategy=None)
    events: list[Event] = []
    worker_job = cloudpickle.loads(cloudpickle.dumps(job))
    worker_run, outcome = execute(worker_job, single_rank(), torch.device("cpu"), events.append, StopRequest())
    assert worker_run.job.profiler is not job.profiler
    homeward.unpack(homeward.pack(worker_run, outcome), job)
    return events


def trained(root: Path, **flags: Any) -> tuple[pl.Trainer, Saving]:
    callback = Saving(root)
    settings = {**small_models.QUIET, "max_epochs": 1, "launcher": "local", "default_root_dir": root, **flags}
    trainer = pl.Trainer(callbacks=callback, **settings)
    trainer.fit(Linear(), batches())
    return trainer, callback


@pytest.mark.parametrize("kind", [SimpleProfiler, AdvancedProfiler, PyTorchProfiler])
def test_profilers_travel_and_their_reports_arrive(
    tmp_path: Path, kind: type[Profiler], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="raylight")  # as in a worker
    trainer, _ = trained(tmp_path, profiler=kind())
    texts = [event.text for event in work_elsewhere(trainer) if isinstance(event, Text)]
    assert len(texts) == 1
    assert texts[0].startswith("FIT Profiler Report")
    assert "_print" not in vars(trainer.profiler)


def test_what_was_recorded_comes_home(tmp_path: Path) -> None:
    profiler = SimpleProfiler(dirpath=tmp_path, filename="report")
    trainer, _ = trained(tmp_path, profiler=profiler)
    assert len(profiler.recorded_durations["its own"]) == 1
    work_elsewhere(trainer)
    assert len(profiler.recorded_durations["its own"]) == 2  # the first travelled along
    assert (tmp_path / "fit-report.txt").read_text().count("FIT Profiler Report") == 2


def test_plugins_travel(tmp_path: Path) -> None:
    trainer, callback = trained(tmp_path, plugins=[Marking(), DoublePrecision()], profiler="simple")
    here, callback.found = callback.found, []
    (tmp_path / "a.ckpt.mark").unlink()
    work_elsewhere(trainer)
    assert (tmp_path / "a.ckpt.mark").exists()
    assert callback.found == here
    assert here == ["SimpleProfiler", "Marking", "DoublePrecision", "CPUAccelerator", "cpu", "64-true"]


@pytest.mark.ray
@pytest.mark.timeout(60)
def test_each_worker_reports(two_workers: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callback = Saving(tmp_path)
    profiler = SimpleProfiler(dirpath=tmp_path, filename="report")
    trainer = two_workers(profiler=profiler, plugins=Marking(), callbacks=callback)
    trainer.fit(Linear(), batches())
    for rank in (0, 1):
        report = (tmp_path / f"fit-report-{rank}.txt").read_text()
        assert "[Strategy]DDPStrategy.training_step" in report
    assert len(profiler.recorded_durations["its own"]) == 1
    assert (tmp_path / "a.ckpt.mark").exists()
    assert callback.found[1] == "Marking"
    two_workers(profiler="simple").fit(Linear(), batches())
    assert capsys.readouterr().out.count("FIT Profiler Report") == 1
