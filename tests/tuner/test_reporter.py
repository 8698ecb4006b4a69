"""When a trial reports, and what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import raylight as pl
from raylight.config.messages import Report
from raylight.tuner.reporter import TrialReporter
from raylight.utilities.exceptions import MetricNotLoggedError

BATCHES = 8


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch[0]).pow(2).mean()
        self.log("train_loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(BATCHES, 1)))


class Validated(Model):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch[0]).pow(2).mean())

    val_dataloader = Model.train_dataloader


def run(model: Any, metric: str, checkpoint: str | None = None, stop_after: int = 99, **flags: Any) -> list[Report]:
    quiet: dict[str, Any] = {
        "launcher": "local", "accelerator": "cpu", "max_epochs": 2, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    trainer = pl.Trainer(**{**quiet, **flags}, callbacks=[TrialReporter(metric, checkpoint)])
    reports: list[Report] = []

    def judge(report: Report) -> bool:
        reports.append(report)
        return len(reports) < stop_after

    trainer.judge = judge
    trainer.fit(model)
    return reports


def when(reports: list[Report]) -> list[tuple[float, float, float]]:
    return [tuple(report.values[name] for name in ("epoch", "step", "reports")) for report in reports]  # type: ignore


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_after_each_validation() -> None:
    assert when(run(Validated(), "val_loss")) == [(0, 8, 1), (1, 16, 2)]
    assert when(run(Validated(), "val_loss", val_check_interval=0.5)) == [(0, 4, 1), (0, 8, 2), (1, 12, 3), (1, 16, 4)]
    assert when(run(Validated(), "val_loss", check_val_every_n_epoch=2, max_epochs=4)) == [(1, 16, 1), (3, 32, 2)]
    assert when(run(Validated(), "val_loss", max_steps=12, max_epochs=-1, val_check_interval=4)) == [
        (0, 4, 1), (0, 8, 2), (1, 12, 3),
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_after_each_epoch_where_nothing_is_validated() -> None:
    reports = run(Model(), "train_loss")
    assert when(reports) == [(0, 8, 1), (1, 16, 2)]
    assert set(reports[0].values) == {
        "train_loss", "train_loss_step", "train_loss_epoch", "epoch", "step", "reports",
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_a_metric_of_the_epoch_skips_validations_within() -> None:
    assert when(run(Validated(), "train_loss_epoch", val_check_interval=0.5)) == [(0, 8, 1), (1, 12, 2), (1, 16, 3)]


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_an_answer_ends_the_call_there(tmp_path: Path) -> None:
    file = tmp_path / "trial.ckpt"
    reports = run(Validated(), "val_loss", str(file), stop_after=1, max_epochs=9)
    assert when(reports) == [(0, 8, 1)]
    assert reports[0].checkpoint == str(file)
    assert torch.load(file, weights_only=True)["global_step"] == 8


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_a_metric_that_is_not_logged() -> None:
    with pytest.raises(
        MetricNotLoggedError, match="logged was: train_loss, train_loss_epoch, train_loss_step, val_loss"
    ):
        run(Validated(), "accuracy", max_epochs=50)
    with pytest.raises(MetricNotLoggedError, match=r"did you mean 'train_loss'\?"):
        run(Model(), "train_los")
