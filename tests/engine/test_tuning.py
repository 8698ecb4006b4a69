"""Searches and Lightning 1.x's hooks on two workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import raylight as pl
from raylight.tuner import Tuner

pytestmark = pytest.mark.ray


class Model(pl.LightningModule):
    def __init__(self, batch_size: int = 1, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, 1)
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return (self.layer(batch[0]) - 1).pow(2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])

    def train_dataloader(self) -> Any:
        data = TensorDataset(torch.linspace(-1, 1, 128).reshape(-1, 2))
        return DataLoader(data, batch_size=self.hparams["batch_size"])


def test_range_test(two_workers: Callable[..., pl.Trainer]) -> None:
    model, trainer = Model(batch_size=6), two_workers()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = Tuner(trainer).lr_find(model, num_training=40, early_stop_threshold=None)
    assert found is not None
    assert model.hparams["lr"] == found.suggestion() != 0.1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert trainer.global_step == 0
    trainer.fit(model)
    assert trainer.global_step == 6  # 32 samples a worker
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_gradients_are_averaged_within_a_search_and_after_it(two_workers: Callable[..., pl.Trainer]) -> None:
    class Gathering(Model):
        def on_train_end(self) -> None:
            self.seen = self.all_gather(self.layer.weight.detach()).tolist()

    model = Gathering(batch_size=4)
    finder = pl.callbacks.LearningRateFinder(num_training_steps=20, update_attr=False)
    two_workers(callbacks=[finder], accumulate_grad_batches=2).fit(model)
    assert finder.optimal_lr is not None
    assert model.seen[0] == model.seen[1]  # each has other data


@pytest.mark.filterwarnings("ignore:.*Lightning 1.x:DeprecationWarning")
def test_outputs_of_the_workers_own_batches(two_workers: Callable[..., pl.Trainer]) -> None:
    class Old(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": super().training_step(batch, batch_idx), "count": len(batch[0])}

        def training_epoch_end(self, outputs: Any) -> None:
            self.seen = [output["count"] for output in outputs]
            self.log("samples", float(sum(self.seen)), reduce_fx="sum")

    model = Old(batch_size=5)
    trainer = two_workers()
    trainer.fit(model)
    assert model.seen == [5] * 6 + [2]
    assert trainer.callback_metrics["samples"] == 64
