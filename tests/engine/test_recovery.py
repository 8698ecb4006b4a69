"""A run outlives its workers, and ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from small_models import QUIET
from torch.utils.data import DataLoader, Dataset

import raylight as pl
from raylight.engine import pool
from raylight.utilities.exceptions import WorkerError

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]
SAMPLES, BATCH = 48, 2


class Noisy(Dataset[Any]):
    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> torch.Tensor:
        noise = 0.1 * random.random() + 0.1 * float(np.random.rand()) + 0.1 * torch.rand(())
        return torch.tensor([index / SAMPLES, 1.0]) + noise


class Model(pl.LightningModule):
    """Dropout, noise in the data, and a counter of its own."""

    def __init__(self, num_workers: int = 0) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.3))
        self.head = torch.nn.Linear(4, 1)
        self.num_workers = num_workers
        self.losses: list[float] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.head(self.layers(batch)).square().mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.losses.append(float(loss))
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.head(self.layers(batch)).square().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20), "interval": "step"}
        ]

    def train_dataloader(self) -> Any:
        return DataLoader(Noisy(), batch_size=BATCH, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self) -> Any:
        return DataLoader(torch.ones(8, 2), batch_size=2)


class Kill(pl.Callback):
    """Kills the process of a rank, once for each batch that is named; ``hook`` says when in it."""

    def __init__(self, rank: int, *batches: int, hook: str = "on_train_batch_start", how: int = signal.SIGKILL) -> None:
        self.rank, self.batches, self.hook, self.how = rank, batches, hook, how

    def _maybe(self, trainer: Any, hook: str) -> None:
        batch = trainer.fit_loop.total_batch_idx
        mark = Path(f"killed-{batch}")
        if hook == self.hook and trainer.global_rank == self.rank and batch in self.batches and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), self.how)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._maybe(trainer, "on_train_batch_start")

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self._maybe(trainer, "on_after_backward")

    def on_validation_batch_end(self, trainer: Any, *args: Any) -> None:
        self._maybe(trainer, "on_validation_batch_end")


class Rows(pl.loggers.CSVLogger):
    """Remembers what was logged, on the driver."""

    def __init__(self) -> None:
        super().__init__("rows")
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.rows.append((int(step or 0), {name: float(value) for name, value in metrics.items()}))


def train(workers: int, *callbacks: Any, processes: int = 0, **flags: Any) -> tuple[pl.Trainer, Model, Rows]:
    pl.seed_everything(7, verbose=False)
    model, rows = Model(processes), Rows()
    settings = {"num_workers": workers, "max_epochs": 3, "snapshot_every_n_steps": 3, "log_every_n_steps": 2}
    trainer = pl.Trainer(**{**QUIET, **settings, "callbacks": list(callbacks), "logger": rows, **flags})
    trainer.fit(model)
    return trainer, model, rows


def assert_same(left: tuple[pl.Trainer, Model, Rows], right: tuple[pl.Trainer, Model, Rows]) -> None:
    for name, value in left[1].state_dict().items():
        assert torch.equal(value, right[1].state_dict()[name]), name
    assert left[1].losses == right[1].losses
    assert left[2].rows == right[2].rows
    for name, value in left[0].callback_metrics.items():
        assert torch.equal(value, right[0].callback_metrics[name]), name
    assert left[0].global_step == right[0].global_step


@pytest.fixture
def whole(ray_cluster: str) -> Callable[..., tuple[pl.Trainer, Model, Rows]]:
    """``whole(workers, **flags)``: the undisturbed run."""
    return lambda workers, **flags: train(workers, **flags)


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_worker(rank: int, whole: Any, caplog: pytest.LogCaptureFixture) -> None:
    undisturbed = whole(2)
    survivors = [info.pid for r, info in enumerate(pool._pool.infos) if r != rank]
    disturbed = train(2, Kill(rank, 17))
    assert_same(undisturbed, disturbed)
    (incident,) = disturbed[0].incidents
    assert incident.rank == rank
    assert incident.step in range(3, 18, 3), "a snapshot's step, the last one that the driver had"
    assert "Training went on from step" in caplog.text
    assert set(survivors) < {info.pid for info in pool._pool.infos}


@pytest.mark.slow
def test_killed_in_the_backward_of_a_trained_batch(whole: Any) -> None:
    """With DataLoader processes, and an open window of accumulated gradients."""
    flags = {"accumulate_grad_batches": 3, "processes": 2}
    undisturbed = whole(2, **flags)
    assert_same(undisturbed, train(2, Kill(1, 20, hook="on_after_backward"), **flags))


def test_killed_in_a_validation(whole: Any) -> None:
    flags = {"val_check_interval": 5}
    undisturbed = whole(2, **flags)
    assert_same(undisturbed, train(2, Kill(0, 14, hook="on_validation_batch_end"), **flags))


@pytest.mark.slow
def test_the_only_worker(whole: Any) -> None:
    flags = {"launcher": "ray"}
    assert_same(whole(1, **flags), train(1, Kill(0, 3, 30), **flags))  # before the first snapshot, and later


@pytest.mark.slow
def test_every_failure_counts(ray_cluster: str) -> None:
    with pytest.raises(WorkerError, match=r"rank 1 .* is gone.*failure 2 of this call \(max_failures=1\)") as raised:
        train(2, Kill(1, 12, 20), max_failures=1)
    assert raised.value.rank == 1
    with pytest.raises(WorkerError, match="is gone"):
        train(2, Kill(1, 13), max_failures=0)


def test_an_exception_of_the_users_is_no_failure(ray_cluster: str) -> None:
    class Raises(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            if trainer.fit_loop.total_batch_idx == 15 and trainer.global_rank == 1:
                Path("raised").open("a").write("x")  # noqa: SIM115
                raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        train(2, Raises())
    assert Path("raised").read_text() == "x"


@pytest.mark.slow
def test_a_hung_worker(whole: Any, caplog: pytest.LogCaptureFixture) -> None:
    undisturbed = whole(2)
    disturbed = train(2, Kill(1, 17, how=signal.SIGSTOP), hang_timeout=3)
    assert_same(undisturbed, disturbed)
    (incident,) = disturbed[0].incidents
    assert incident.rank == 1
    assert "has hung" in incident.what
    assert "Stack of rank 0" in caplog.text


@pytest.mark.slow
def test_a_worker_that_waits_for_ever(whole: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Waits(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, *args: Any) -> None:
            if trainer.global_rank == 0 and trainer.global_step == 17 and not Path("waited").exists():
                Path("waited").touch()
                threading.Event().wait()

    disturbed = train(2, Waits(), hang_timeout=3)
    assert_same(whole(2), disturbed)
    (incident,) = disturbed[0].incidents
    assert incident.rank == 0
    assert "has hung at step 17, in on_before_optimizer_step" in incident.what
    assert "threading.Event().wait()" in caplog.text


@pytest.mark.slow
def test_a_rank_that_is_done_does_not_hang(ray_cluster: str) -> None:
    """Rank 0 has no more to predict; it is not blamed for rank 1, which comes to no end, nor made to begin again."""

    class Waits(pl.Callback):
        def on_predict_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int, *args: Any) -> None:
            if trainer.global_rank == 1 and batch_idx == 1 and not Path("waited").exists():
                Path("waited").touch()
                threading.Event().wait()

    class Predicts(Model):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return batch.sum()

    flags = {"num_workers": 2, "callbacks": [Waits()], "logger": False, "hang_timeout": 3}
    trainer, model = pl.Trainer(**{**QUIET, **flags}), Predicts()
    assert len(trainer.predict(model, model.val_dataloader()) or []) == 4
    (incident,) = trainer.incidents
    assert incident.rank == 1
    assert "has hung" in incident.what


def test_a_spare_worker(whole: Any) -> None:
    undisturbed = whole(2, spare_workers=1)
    ((booting, spare, _),) = pool._pool._places._spares
    pid = ray.get(booting).pid
    disturbed = train(2, Kill(0, 17), spare_workers=1)
    assert_same(undisturbed, disturbed)
    assert pid in {info.pid for info in pool._pool.infos}
    assert disturbed[0].incidents[0].seconds < 5
    disturbed[0].shutdown()


def test_a_spare_worker_that_has_died_is_none(ray_cluster: str, wait_until: Callable[..., Any]) -> None:
    trainer, _, _ = train(2, spare_workers=1, max_epochs=1)
    places, seats = pool._pool._places, pool._pool._seats

    def kill_spare() -> Any:
        ((booting, _, _),) = places._spares
        info = ray.get(booting)
        os.kill(info.pid, signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(info.pid))
        return info

    pid = kill_spare().pid
    places.keep_spares(1, seats)
    successor = kill_spare()
    assert successor.pid != pid
    assert places._take_spare(successor.node_id) is None
    trainer.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(("every", "kept"), [(2, -1), (10, 1)], ids=["all", "the first since the snapshot"])
def test_files_of_the_attempt_that_is_done_again_are_written_again(every: int, kept: int, whole: Any) -> None:
    """Rank 0 is killed after the tenth step; the snapshot is of the ninth, or an earlier one."""

    def checkpoint(folder: str) -> Any:
        return pl.callbacks.ModelCheckpoint(folder, every_n_train_steps=every, save_top_k=kept, save_last=True)

    files, incidents = [], []
    for name, callbacks in (("whole", []), ("disturbed", [Kill(0, 11)])):
        trainer, *_ = train(2, checkpoint(name), *callbacks, enable_checkpointing=True, max_epochs=1)
        files.append({path.name: torch.load(path, weights_only=True) for path in Path(name).iterdir()})
        incidents.append(len(trainer.incidents))
    assert incidents == [0, 1]
    steps = [{name: content["global_step"] for name, content in each.items()} for each in files]
    assert steps[0] == steps[1]
    last = [each["last.ckpt"]["state_dict"] for each in files]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


@pytest.mark.parametrize("call", ["validate", pytest.param("predict", marks=pytest.mark.slow)])
def test_an_evaluation(call: str, ray_cluster: str) -> None:
    class KillOnce(pl.Callback):
        def _maybe(self, trainer: Any) -> None:
            if trainer.global_rank == 1 and not Path("killed").exists():
                Path("killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)

        def on_validation_batch_end(self, trainer: Any, *args: Any) -> None:
            self._maybe(trainer)

        def on_predict_batch_end(self, trainer: Any, *args: Any) -> None:
            self._maybe(trainer)

    class Predicts(Model):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return batch.sum()

    trainer = pl.Trainer(**{**QUIET, "num_workers": 2, "callbacks": [KillOnce()], "logger": False})
    model = Predicts()
    if call == "validate":
        assert set(trainer.validate(model, verbose=False)[0]) == {"val_loss"}
    else:
        assert len(trainer.predict(model, model.val_dataloader()) or []) == 4
    assert len(trainer.incidents) == 1
