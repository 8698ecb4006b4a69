"""``trainer.fit_loop``: training's limits and position under the names that Lightning scripts use."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raylight.worker.state import TrainerView


class FitLoop:
    """Reads, and sets the limits of, a trainer's training. The loop itself is ``raylight.worker.fitting``."""

    def __init__(self, trainer: TrainerView) -> None:
        self._trainer = trainer

    @property
    def max_epochs(self) -> int | None:
        """May be raised to train on with another ``fit``."""
        return self._trainer.max_epochs

    @max_epochs.setter
    def max_epochs(self, epochs: int | None) -> None:
        self._trainer.max_epochs = epochs

    @property
    def min_epochs(self) -> int | None:
        return self._trainer.min_epochs

    @property
    def max_steps(self) -> int:
        return self._trainer.max_steps

    @property
    def min_steps(self) -> int | None:
        return self._trainer.min_steps

    @property
    def max_batches(self) -> float:
        """Batches per epoch and worker; inf for a loader without length."""
        return self._trainer.num_training_batches

    @property
    def _skip_backward(self) -> bool:
        """Set it when an epoch starts: its batches only go forward, as for statistics of batch-norm layers."""
        return self._trainer.state.skip_backward

    @_skip_backward.setter
    def _skip_backward(self, skip: bool) -> None:
        self._trainer.state.skip_backward = skip

    @property
    def batch_idx(self) -> int:
        """Of the batch at work in its epoch."""
        return self._trainer.state.batch_idx

    @property
    def total_batch_idx(self) -> int:
        """Of the batch at work, over all epochs."""
        return self._trainer.state.total_batches - 1

    @property
    def global_step(self) -> int:
        return self._trainer.global_step

    @property
    def epoch_loop(self) -> FitLoop:
        """The same: Lightning divides these names between two objects."""
        return self

    @property
    def _batches_that_stepped(self) -> int:
        return self._trainer.logger_step
