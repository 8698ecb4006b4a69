"""A run outlives its workers, and ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20), "interval": "step"}]

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


def train(workers: int, *callbacks: Any, model: Model | None = None, **flags: Any) -> tuple[pl.Trainer, Model, Rows]:
    pl.seed_everything(7, verbose=False)
    torch.manual_seed(7)
    model, rows = model or Model(), Rows()
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


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_worker(rank: int, whole: Any, caplog: pytest.LogCaptureFixture) -> None:
    undisturbed = whole(2)
    survivors = [info.pid for r, info in enumerate(pool._pool._infos) if r != rank]
    disturbed = train(2, Kill(rank, 17))
    assert_same(undisturbed, disturbed)
    (incident,) = disturbed[0].incidents
    assert (incident.rank, incident.step > 10, incident.step <= 17) == (rank, True, True)
    assert "Training went on from step" in caplog.text
    assert set(survivors) < {info.pid for info in pool._pool._infos}
