"""Predictions written by the workers that made them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raylight.callbacks.base import Callback
from raylight.config.messages import StrEnum
from raylight.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView


class WriteInterval(StrEnum):
    """When predictions are written."""

    BATCH = "batch"
    EPOCH = "epoch"
    BATCH_AND_EPOCH = "batch_and_epoch"

    @property
    def on_batch(self) -> bool:
        return self in (WriteInterval.BATCH, WriteInterval.BATCH_AND_EPOCH)

    @property
    def on_epoch(self) -> bool:
        return self in (WriteInterval.EPOCH, WriteInterval.BATCH_AND_EPOCH)


class BasePredictionWriter(Callback):
    """Base of callbacks that write what ``predict_step`` returns. Every worker writes the batches that it had.

    A subclass overrides ``write_on_batch_end``, ``write_on_epoch_end`` or both. Give ``return_predictions=False`` to
    ``Trainer.predict`` where the predictions are too many to be returned as well.

    >>> class Writer(BasePredictionWriter):
    ...     def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):
    ...         torch.save((predictions, batch_indices), f"predictions_{trainer.global_rank}.pt")

    Args:
        write_interval: "batch", "epoch" or "batch_and_epoch". For "epoch", a worker keeps its predictions until the
            end, on the CPU.

    Raises:
        MisconfigurationException: There is no such interval.
    """

    def __init__(self, write_interval: str = "batch") -> None:
        if write_interval not in list(WriteInterval):
            raise MisconfigurationException(
                f"`write_interval` should be one of {[each.value for each in WriteInterval]}. Got {write_interval!r}."
            )
        self.interval = WriteInterval(write_interval)

    def write_on_batch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write one batch.

        Args:
            batch_indices: Which samples of the dataset the batch is made of; empty where this is unknown, as for an
                iterable dataset.
            batch_idx: Counted from 0 on each worker.
        """
        raise NotImplementedError

    def write_on_epoch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Write all batches of this worker.

        Args:
            predictions: A list of batches; with several loaders, a list of those.
            batch_indices: By loader, with one loader too, and batch: which samples of the dataset it is made of.
        """
        raise NotImplementedError

    def setup(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        if "dataloader_iter" in inspect.signature(pl_module.predict_step).parameters:
            raise NotImplementedError(
                "The `PredictionWriterCallback` does not support using `dataloader_iter`: let predict_step take "
                "(batch, batch_idx)."
            )

    def on_predict_batch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self.interval.on_batch:
            indices = trainer.predict_loop.current_batch_indices
            self.write_on_batch_end(trainer, pl_module, outputs, indices, batch, batch_idx, dataloader_idx)

    def on_predict_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if self.interval.on_epoch:
            loop = trainer.predict_loop
            self.write_on_epoch_end(trainer, pl_module, loop.predictions, loop.epoch_batch_indices)
