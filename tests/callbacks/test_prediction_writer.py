"""What a prediction writer is given: predictions, and the samples that they are of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, TensorDataset

import raylight
from raylight.callbacks import BasePredictionWriter
from raylight.callbacks.prediction_writer import WriteInterval
from raylight.utilities.exceptions import MisconfigurationException

COUNT = 10


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from torch.arange(COUNT).float().unsqueeze(1)


def numbers() -> TensorDataset:
    """Sample i is [i]."""
    return TensorDataset(torch.arange(COUNT).float().unsqueeze(1))


def writer(pl: Any, interval: str) -> Any:
    """A writer that keeps what it was given in ``batches`` and ``epochs``."""

    class Writer(pl.callbacks.BasePredictionWriter):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__(interval)
            self.batches: list[Any] = []
            self.epochs: list[Any] = []

        def write_on_batch_end(
            self, trainer: Any, module: Any, prediction: Any, indices: Any, batch: Any, batch_idx: int, loader_idx: int
        ) -> None:
            self.batches.append((prediction.tolist(), list(indices), batch_idx, loader_idx))

        def write_on_epoch_end(self, trainer: Any, module: Any, predictions: Any, batch_indices: Any) -> None:
            self.epochs.append((str(predictions), str(batch_indices)))

    return Writer()


def make(pl: Any) -> Any:
    class Model(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return (batch[0] if isinstance(batch, list) else batch).flatten()

    return Model()


def shuffled() -> DataLoader[Any]:
    return DataLoader(numbers(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(1))


LOADERS = {
    "plain": lambda: DataLoader(numbers(), batch_size=4),
    "worker processes": lambda: DataLoader(numbers(), batch_size=2, num_workers=1),
    "shuffled": shuffled,
    "batch sampler": lambda: DataLoader(numbers(), batch_sampler=BatchSampler(SequentialSampler(numbers()), 3, True)),
    "several": lambda: [DataLoader(numbers(), batch_size=4), DataLoader(numbers(), batch_size=5)],
}


@pytest.mark.parametrize("returned", [True, False])
@pytest.mark.parametrize("interval", ["batch", "epoch", "batch_and_epoch"])
@pytest.mark.parametrize("loaders", ["plain", "several"])
def test_intervals(same_in_both: Any, loaders: str, interval: str, returned: bool) -> None:
    def run(program: Any) -> Any:
        written = writer(program.pl, interval)
        trainer = program.trainer(written, limit_predict_batches=2)
        predictions = trainer.predict(make(program.pl), LOADERS[loaders](), return_predictions=returned)
        loop = trainer.predict_loop
        left = (str(loop.predictions), loop.epoch_batch_indices, loop.return_predictions)
        return written.batches, written.epochs, str(predictions), left

    batches, epochs, predictions, _ = same_in_both(run)
    assert bool(batches) == (interval != "epoch")
    assert bool(epochs) == (interval != "batch")
    assert (predictions == "None") != returned


@pytest.mark.filterwarnings("ignore:Your `predict_dataloader`'s sampler has shuffling enabled")
@pytest.mark.parametrize("loaders", list(LOADERS))
def test_indices_are_of_the_samples(in_raylight: Any, loaders: str) -> None:
    written = writer(raylight, "batch_and_epoch")
    in_raylight.trainer(written).predict(make(raylight), LOADERS[loaders]())
    assert all(prediction == indices for prediction, indices, *_ in written.batches)
    predictions, indices = written.epochs[0]
    numbers_of = predictions.replace("tensor(", "").replace(")", "").replace(".", "")
    assert numbers_of == (indices if loaders == "several" else indices[1:-1])


def test_a_loader_without_batches(in_raylight: Any) -> None:
    written = writer(raylight, "batch")
    in_raylight.trainer(written).predict(make(raylight), DataLoader(numbers(), batch_size=None))
    assert [indices for _, indices, *_ in written.batches] == [[index] for index in range(COUNT)]


@pytest.mark.filterwarnings("ignore:Couldn't infer the batch indices")
def test_unknown_indices(same_in_both: Any) -> None:
    def run(program: Any) -> Any:
        written = writer(program.pl, "batch_and_epoch")
        loaders = [DataLoader(Stream(), batch_size=4), DataLoader(numbers(), batch_size=5)]
        program.trainer(written).predict(make(program.pl), loaders[0])
        return written.batches, written.epochs

    same_in_both(run)


@pytest.mark.parametrize("loader", [DataLoader(Stream(), batch_size=4), [torch.zeros(2, 1)]])
def test_a_warning_of_unknown_indices(in_raylight: Any, loader: Any) -> None:
    with pytest.warns(UserWarning, match="Couldn't infer the batch indices fetched from your dataloader: `"):
        in_raylight.trainer(writer(raylight, "batch")).predict(make(raylight), loader)


def test_nothing_is_watched_without_a_writer(in_raylight: Any) -> None:
    trainer = in_raylight.trainer()
    loader = DataLoader(numbers(), batch_size=4)
    assert len(trainer.predict(make(raylight), loader)) == 3
    assert trainer.predict_dataloaders is loader
    assert trainer.predict_loop.current_batch_indices == []


def test_predictions_may_be_changed_at_the_end(same_in_both: Any) -> None:
    def run(program: Any) -> Any:
        class Halving(program.pl.Callback):  # type: ignore[misc, name-defined]
            def on_predict_epoch_end(self, trainer: Any, pl_module: Any) -> None:
                predictions = trainer.predict_loop.predictions
                predictions[:] = [prediction / 2 for prediction in predictions[:2]]

        return str(program.trainer(Halving()).predict(make(program.pl), LOADERS["plain"]()))

    same_in_both(run)


def test_an_interval_that_there_is_not() -> None:
    with pytest.raises(MisconfigurationException, match=r"`write_interval` should be one of \['batch', 'epoch'"):
        BasePredictionWriter("something")


def test_intervals_by_name() -> None:
    assert [each.value for each in WriteInterval] == ["batch", "epoch", "batch_and_epoch"]
    assert WriteInterval.BATCH_AND_EPOCH.on_batch
    assert WriteInterval.BATCH_AND_EPOCH.on_epoch
    assert not WriteInterval.EPOCH.on_batch
    assert BasePredictionWriter("epoch").interval == "epoch"


def test_a_step_that_takes_an_iterator(in_raylight: Any) -> None:
    class Model(raylight.LightningModule):
        def predict_step(self, dataloader_iter: Any) -> Any: ...

    with pytest.raises(NotImplementedError, match="does not support using `dataloader_iter`"):
        in_raylight.trainer(BasePredictionWriter()).predict(Model(), LOADERS["plain"]())


def test_methods_to_be_filled_in(in_raylight: Any) -> None:
    for interval in ("batch", "epoch"):
        with pytest.raises(NotImplementedError):
            in_raylight.trainer(BasePredictionWriter(interval)).predict(make(raylight), LOADERS["plain"]())
