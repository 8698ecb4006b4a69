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

    @min_epochs.setter
    def min_epochs(self, epochs: int | None) -> None:
        self._trainer.min_epochs = epochs

    @property
    def max_steps(self) -> int:
        return self._trainer.max_steps

    @max_steps.setter
    def max_steps(self, steps: int) -> None:
        self._trainer.max_steps = steps

    @property
    def min_steps(self) -> int | None:
        return self._trainer.min_steps

    @min_steps.setter
    def min_steps(self, steps: int | None) -> None:
        self._trainer.min_steps = steps

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
