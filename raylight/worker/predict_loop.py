"""``trainer.predict_loop``: what predicting has made, under the names that Lightning scripts use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylight.callbacks.prediction_writer import BasePredictionWriter
from raylight.checkpoint.prediction_files import as_table
from raylight.utilities import tree
from raylight.worker.sharing import OwnShare, turns_of

if TYPE_CHECKING:
    from raylight.strategies.base import Strategy
    from raylight.worker.data import EvalData, IndexRecord
    from raylight.worker.sharing import Turns


class PredictLoop:
    """Predictions of this rank, and the samples that they are of. The loop itself is ``raylight.worker.evaluation``."""

    def __init__(self) -> None:
        self.return_predictions = True
        self.current_batch_indices: list[int] = []
        """Samples of the batch at work; only where a BasePredictionWriter wants them, and they are known."""
        self.epoch_batch_indices: list[list[list[int]]] = []
        """By loader and batch, for a BasePredictionWriter that writes at the end."""
        self.keeps_predictions = False
        """They are returned, or written at the end."""
        self.watches = False
        """A BasePredictionWriter wants to know which samples a batch is made of."""
        self._predictions: list[list[Any]] = []
        self._records: list[IndexRecord | None] = []
        self._writes_at_end = False
        self._turns: list[Turns] = []
        """By loader: which of its batches are this rank's."""
        self._become_rows: list[bool] = []
        """By loader: its predictions are returned as tables, of which the driver makes a Dataset."""

    @property
    def predictions(self) -> list[Any]:
        """Batches, tensors on the CPU; with several loaders a list of such lists."""
        return self._predictions[0] if self.num_dataloaders == 1 else self._predictions

    @property
    def by_loader(self) -> list[list[Any]]:
        """The same, always a list for each loader."""
        return self._predictions

    @property
    def num_dataloaders(self) -> int:
        return len(self._predictions)

    def start(self, predicted: EvalData, callbacks: list[Any], return_predictions: bool, strategy: Strategy) -> None:
        """Begin a call; loaders are watched only where a callback writes predictions."""
        writers = [callback for callback in callbacks if isinstance(callback, BasePredictionWriter)]
        self._writes_at_end = any(writer.interval.on_epoch for writer in writers)
        self.return_predictions = return_predictions
        self.keeps_predictions = return_predictions or self._writes_at_end
        self._predictions = [[] for _ in predicted.combined.flattened]
        self.epoch_batch_indices = [[] for _ in predicted.combined.flattened]
        loaders = predicted.combined.flattened
        self._turns = [turns_of(loader, strategy.world_size, strategy.global_rank) for loader in loaders]
        self._become_rows = [return_predictions and isinstance(loader, OwnShare) for loader in loaders]
        self.watches = bool(writers)
        self._records = predicted.record_indices() if writers else []

    def start_batch(self, dataloader_idx: int) -> None:
        """A batch of this loader is at work; to be called where the loop ``watches``."""
        record = self._records[dataloader_idx]
        self.current_batch_indices = record.next_batch() if record is not None else []
        if self._writes_at_end and record is not None:
            self.epoch_batch_indices[dataloader_idx].append(self.current_batch_indices)

    def keep(self, dataloader_idx: int, output: Any) -> None:
        """Keep what ``predict_step`` returned."""
        if self._become_rows[dataloader_idx] and not self._predictions[dataloader_idx]:
            as_table(output)  # a mistake shows at the first batch
        self._predictions[dataloader_idx].append(tree.to_cpu(output))

    def end(self) -> list[list[tuple[int, Any]]]:
        """All hooks that may read it are over: for each loader ``(index, output)`` of what is to be returned.

        The index is that of the batch among those of all ranks.
        """
        self.epoch_batch_indices = []
        if not self.return_predictions:
            self._predictions = []
        return [
            [
                (index, as_table(output) if become_rows else output)
                for index, output in zip(turns.indices(), outputs, strict=False)
            ]
            for outputs, turns, become_rows in zip(self._predictions, self._turns, self._become_rows, strict=False)
        ]
