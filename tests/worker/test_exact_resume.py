"""A run that goes on from a checkpoint ends with the weights of the undisturbed run, to the last bit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

import raylight as pl

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
SAMPLES, BATCH = 24, 2
"""12 batches an epoch."""


class Noisy(Dataset[Any]):
    """Samples with noise of all three libraries."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> torch.Tensor:
        return noisy(index)


class NoisyStream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[torch.Tensor]:
        order = torch.randperm(SAMPLES).tolist()
        return map(noisy, order)


def noisy(index: int) -> torch.Tensor:
    noise = 0.1 * random.random() + 0.1 * float(np.random.rand()) + 0.1 * torch.rand(())
    return torch.tensor([index / SAMPLES, 1.0]) + noise


class Model(pl.LightningModule):
    """Dropout, metrics in progress, a scheduler by epoch and one by step, and a checkpoint in the middle."""

    def __init__(self, loader: Any, save_at: int | None = None, save_in: str = "train") -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Dropout(0.3), torch.nn.Linear(4, 1))
        self.mean = torchmetrics.MeanMetric()
        self.loader = loader
        self.save_at, self.save_in = save_at, save_in
        self.logged: list[tuple[int, float, float]] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.layers(batch).square().mean()
        self.mean(loss)
        self.log("loss", loss, on_step=False, on_epoch=True)
        self.log("mean", self.mean, on_step=False, on_epoch=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.save_in == "train":
            self._save(self.trainer.fit_loop.total_batch_idx)

    def on_train_epoch_end(self) -> None:
        if self.save_in == "epoch_end":
            self._save(self.trainer.current_epoch)

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.layers(batch).square().mean() + torch.rand(()))

    def on_validation_end(self) -> None:
        if self.save_in == "validation" and not self.trainer.sanity_checking:
            self._save(self.trainer.fit_loop.total_batch_idx)

    def _save(self, moment: int) -> None:
        if moment == self.save_at:
            self.trainer.save_checkpoint("middle.ckpt")

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        schedulers = [
            {"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9), "interval": "epoch"},
            {"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20), "interval": "step"},
        ]
        return [optimizer], schedulers

    def train_dataloader(self) -> Any:
        return self.loader() if callable(self.loader) else self.loader

    def val_dataloader(self) -> Any:
        return DataLoader(torch.ones(4, 2), batch_size=2)


class Losses(pl.Callback):
    """The losses of the epochs."""

    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.values.append({name: float(trainer.callback_metrics[name]) for name in ("loss", "mean")})


def run(model: Model, ckpt_path: str | None = None, **flags: Any) -> tuple[pl.Trainer, Losses]:
    losses = Losses()
    trainer = pl.Trainer(
        **{**QUIET, "launcher": "local", "accelerator": "cpu", "max_epochs": 3, "callbacks": [losses], **flags}
    )
    trainer.fit(model, ckpt_path=ckpt_path)
    return trainer, losses


def assert_goes_on(loader: Any, save_at: int, save_in: str = "train", **flags: Any) -> None:
    pl.seed_everything(3, verbose=False)
    whole = Model(loader, save_at, save_in)
    trainer, losses = run(whole, **flags)
    pl.seed_everything(99, verbose=False)
    rest = Model(loader)
    resumed, its_losses = run(rest, "middle.ckpt", **flags)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name
    assert_equal_states(trainer.optimizers[0].state_dict(), resumed.optimizers[0].state_dict())
    assert losses.values[-len(its_losses.values) :] == its_losses.values
    assert resumed.global_step == trainer.global_step


def assert_equal_states(left: Any, right: Any) -> None:
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for name in left:
            assert_equal_states(left[name], right[name])
    else:
        assert left == right


def shuffled(**kwargs: Any) -> Any:
    return lambda: DataLoader(Noisy(), batch_size=BATCH, shuffle=True, **kwargs)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("save_at", [0, 4, 12, 18, 34])
def test_in_the_middle_of_an_epoch(save_at: int, accumulate: int) -> None:
    assert_goes_on(shuffled(), save_at, accumulate_grad_batches=accumulate)


@pytest.mark.parametrize(
    ("save_at", "persistent", "accumulate"), [(0, False, 1), (4, False, 3), (17, False, 1), (18, True, 1)]
)
def test_with_processes(save_at: int, persistent: bool, accumulate: int) -> None:
    loader = shuffled(num_workers=2, persistent_workers=persistent)
    assert_goes_on(loader, save_at, accumulate_grad_batches=accumulate)


@pytest.mark.parametrize("save_at", [0, 1])
def test_at_the_end_of_an_epoch(save_at: int) -> None:
    assert_goes_on(shuffled(), save_at, "epoch_end")


@pytest.mark.parametrize("accumulate", [1, 3])
def test_after_a_validation_within_an_epoch(accumulate: int) -> None:
    assert_goes_on(shuffled(), 16, "validation", val_check_interval=5, accumulate_grad_batches=accumulate)


def test_generator_of_the_loader() -> None:
    assert_goes_on(lambda: shuffled(generator=torch.Generator().manual_seed(5))(), 18)


def test_a_stream() -> None:
    assert_goes_on(lambda: DataLoader(NoisyStream(), batch_size=BATCH), 18)


def test_a_stream_with_processes() -> None:
    assert_goes_on(lambda: DataLoader(NoisyStream(), batch_size=BATCH, num_workers=2), 31)


def test_several_loaders() -> None:
    def loaders() -> Any:
        return [shuffled()(), DataLoader(Subset(Noisy(), range(10)), batch_size=BATCH, shuffle=True)]

    class Two(Model):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return super().training_step(torch.cat(batch), batch_idx)

    pl.seed_everything(3, verbose=False)
    whole = Two(loaders, 17)
    run(whole)
    rest = Two(loaders)
    run(rest, "middle.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name
