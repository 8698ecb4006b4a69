"""StochasticWeightAveraging by itself; what it does to numbers is compared with Lightning in tests/parity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import raylight
from raylight.callbacks import StochasticWeightAveraging
from raylight.utilities.exceptions import MisconfigurationException


class Normed(raylight.LightningModule):
    """Counts its gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.num_backward: dict[int, int] = {}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch).square().mean()

    def on_after_backward(self) -> None:
        self.num_backward[self.current_epoch] = self.num_backward.get(self.current_epoch, 0) + 1

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Stream(IterableDataset[Any]):
    """Twelve samples, of which nobody knows the number."""

    def __iter__(self) -> Iterator[Any]:
        return iter(torch.arange(48.0).reshape(12, 4) / 48)


def stream() -> DataLoader[Any]:
    return DataLoader(Stream(), batch_size=4)


@pytest.mark.parametrize(
    ("start", "epochs", "expected"), [(0.8, 10, 7), (1, 4, 0), (3, 4, 2), (0.0, 4, 0), (1.0, 4, 3)]
)
def test_first_and_last_epoch(in_raylight: Any, start: int | float, epochs: int, expected: int) -> None:
    callback = StochasticWeightAveraging(0.1, swa_epoch_start=start)
    in_raylight.trainer(callback, max_epochs=epochs, limit_train_batches=1).fit(in_raylight.model())
    assert (callback.swa_start, callback.swa_end) == (expected, epochs - 1)
    assert int(callback.n_averaged) == epochs - expected  # type: ignore[arg-type]


def test_batch_norm_epoch_of_a_stream(in_raylight: Any) -> None:
    """Its length need not be known; batches only go forward, and their statistics are the plain mean."""
    model, callback = Normed(), StochasticWeightAveraging(0.05, swa_epoch_start=2)
    trainer = in_raylight.trainer(callback, max_epochs=3)
    trainer.fit(model, stream())
    assert model.num_backward == {0: 3, 1: 3, 2: 3}
    assert (trainer.current_epoch, trainer.max_epochs, trainer.accumulate_grad_batches) == (4, 3, 1)
    norm: Any = model.layer[1]
    assert (int(norm.num_batches_tracked), norm.momentum) == (3, 0.1)
    averaged: Any = callback._average_model
    with torch.no_grad():
        means = torch.stack([averaged.layer[0](batch).mean(0) for batch in stream()])
    torch.testing.assert_close(norm.running_mean, means.mean(0))


def test_another_fit_averages_anew(in_raylight: Any) -> None:
    callback = StochasticWeightAveraging(0.05, swa_epoch_start=0.5)
    trainer = in_raylight.trainer(callback, max_epochs=4)
    model = in_raylight.model()
    trainer.fit(model)
    assert int(callback.n_averaged) == 3  # type: ignore[arg-type]
    trainer.max_epochs = 8
    trainer.fit(model)
    assert callback.swa_start == 3
    assert int(callback.n_averaged) == 4  # type: ignore[arg-type]
    assert trainer.optimizers[0].param_groups[0]["swa_lr"] == 0.05


def test_the_copy_has_no_trainer_and_no_data(in_raylight: Any) -> None:
    copies = []

    class Copying(StochasticWeightAveraging):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            super().setup(trainer, pl_module, stage)
            copies.append((pl_module, self._average_model))

    model = in_raylight.model()
    in_raylight.trainer(Copying(0.01), fast_dev_run=True).fit(model, DataLoader(torch.zeros(2, 1, 4)))
    (original, copy) = copies[0]
    assert copy is not original
    assert copy._trainer is None
    assert copy.train_dataloader.__self__ is copy


def test_subclass_may_replace_the_steps(in_raylight: Any) -> None:
    calls: list[str] = []

    class Counting(StochasticWeightAveraging):
        def update_parameters(self, *args: Any) -> None:  # type: ignore[override]
            calls.append("update")
            StochasticWeightAveraging.update_parameters(*args)

        def transfer_weights(self, *args: Any) -> None:  # type: ignore[override]
            calls.append("transfer")
            StochasticWeightAveraging.transfer_weights(*args)

    in_raylight.trainer(Counting(0.1, swa_epoch_start=2), max_epochs=3).fit(in_raylight.model())
    assert calls == ["update", "update", "transfer"]


def test_rates_of_several_groups(in_raylight: Any) -> None:
    model = Normed()
    groups = [{"params": model.layer[0].parameters(), "lr": 0.1}, {"params": model.layer[2].parameters(), "lr": 0.2}]
    model.configure_optimizers = lambda: torch.optim.SGD(groups)  # type: ignore[method-assign]
    callback = StochasticWeightAveraging([0.3, 0.4], swa_epoch_start=1, annealing_epochs=1)
    trainer = in_raylight.trainer(callback, max_epochs=3)
    trainer.fit(model, stream())
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == pytest.approx([0.3, 0.4])


def test_unknown_annealing() -> None:
    with pytest.raises(MisconfigurationException, match="annealing_strategy should be 'cos' or 'linear'"):
        StochasticWeightAveraging(0.1, annealing_strategy="sudden")


def test_no_gradient_steps_are_skipped_afterwards(in_raylight: Any) -> None:
    """The switch of the batch-norm epoch is off again for the next fit."""
    model, callback = Normed(), StochasticWeightAveraging(0.05, swa_epoch_start=1)
    trainer = in_raylight.trainer(callback, max_epochs=1)
    trainer.fit(model, stream())
    assert trainer.fit_loop._skip_backward is False
    trainer.max_epochs = 4
    trainer.fit(model, stream())
    assert model.num_backward == {0: 3, 2: 3, 3: 3}
