"""``trainer.fit_loop``: training's limits and position under the names that Lightning scripts use."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from raylight.checkpoint.progress import to_loops

if TYPE_CHECKING:
    from raylight.worker.trainer_view import TrainerView


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
    def done(self) -> bool:
        """Whether no further epoch begins."""
        state = self._trainer.state
        enough_epochs = not self.min_epochs or state.epoch + int(state.epoch_is_over) >= self.min_epochs
        enough_steps = not self.min_steps or state.global_step >= self.min_steps
        stops = state.should_stop and enough_epochs and enough_steps
        return why_done(self._trainer) is not None or stops

    @property
    def skip(self) -> bool:
        """Whether ``fit`` has nothing to train."""
        return self.done or self._trainer.limit_train_batches == 0

    @property
    def val_loop(self) -> EvaluationLoop:
        """Validation inside fit."""
        return EvaluationLoop(self._trainer, "val", "epoch_loop.val_loop.batch_progress")

    def state_dict(self) -> dict[str, Any]:
        """All counters, as they stand in a checkpoint."""
        loops: dict[str, dict[str, Any]] = self._loops
        return loops["fit_loop"]

    @property
    def epoch_loop(self) -> FitLoop:
        """The same: Lightning divides these names between two objects."""
        return self

    @property
    def epoch_progress(self) -> Any:
        """Epochs: ``total`` and ``current``, each with ``ready``, ``started``, ``processed``, ``completed``."""
        return self._counters("epoch_progress")

    @property
    def batch_progress(self) -> Any:
        """Batches: the same, over all epochs (``total``) and in this one (``current``)."""
        return self._counters("epoch_loop.batch_progress")

    @property
    def scheduler_progress(self) -> Any:
        """Steps of schedulers: ``total.completed``."""
        return self._counters("epoch_loop.scheduler_progress")

    @property
    def automatic_optimization(self) -> Any:
        """``optim_progress.optimizer.step.total.completed``, and ``.optimizer_steps``."""
        progress = self._counters("epoch_loop.automatic_optimization.optim_progress")
        progress.optimizer_steps = progress.optimizer.step.total.completed
        return SimpleNamespace(optim_progress=progress)

    @property
    def manual_optimization(self) -> Any:
        """``optim_step_progress.total.completed``."""
        return SimpleNamespace(optim_step_progress=self._counters("epoch_loop.manual_optimization.optim_step_progress"))

    @property
    def _batches_that_stepped(self) -> int:
        return self._trainer.logger_step

    def _counters(self, name: str) -> Any:
        return _namespace(self._loops["fit_loop"][name])

    @property
    def _loops(self) -> dict[str, Any]:
        return _loops(self._trainer)


class EvaluationLoop:
    """Reads how much a trainer's evaluation has to do. The loop itself is ``raylight.worker.evaluation``.

    Args:
        trainer: Whose.
        prefix: "val" or "test".
        counters: Where its counters stand in a checkpoint: in "fit_loop", or the loop's own name.
    """

    def __init__(self, trainer: TrainerView, prefix: str, counters: str) -> None:
        self._trainer = trainer
        self._prefix = prefix
        self._counters = counters

    @property
    def max_batches(self) -> list[float]:
        """Batches to take of each loader on this worker; inf for one without length."""
        batches: list[float] = getattr(self._trainer, f"num_{self._prefix}_batches")
        return batches

    @property
    def num_dataloaders(self) -> int:
        return len(self.max_batches)

    @property
    def batch_progress(self) -> Any:
        """Batches: ``total`` and ``current``, each with ``ready``, ``started``, ``processed``, ``completed``."""
        loops = _loops(self._trainer)
        found = loops["fit_loop"].get(self._counters) or loops[self._counters]["batch_progress"]
        return _namespace(found)

    def state_dict(self) -> dict[str, Any]:
        """All counters, as they stand in a checkpoint."""
        loops: dict[str, dict[str, Any]] = _loops(self._trainer)
        return loops[self._counters]


def why_done(trainer: TrainerView) -> str | None:
    """The limit that training has reached; None where it has not."""
    state = trainer.state
    if state.num_training_batches == 0:
        return "No training batches."
    if trainer.max_steps != -1 and state.global_step >= trainer.max_steps:
        return f"`max_steps={trainer.max_steps!r}` reached."
    if trainer.max_epochs not in (-1, None) and state.epoch >= trainer.max_epochs:
        return f"`max_epochs={trainer.max_epochs!r}` reached."
    return None


def _loops(trainer: TrainerView) -> dict[str, Any]:
    module = trainer.lightning_module
    return to_loops(trainer.state.position(), module is None or module.automatic_optimization)


def _namespace(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**{name: _namespace(inner) for name, inner in value.items()})
    return value
