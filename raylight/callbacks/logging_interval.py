"""When callbacks that log on their own may do so."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raylight.worker.trainer_view import TrainerView


def log_is_due(trainer: TrainerView) -> bool:
    """Whether the training step at work is one of every ``log_every_n_steps``, or the last one."""
    return _is_due(trainer, trainer.logger_step + 1)


def log_is_due_in_evaluation(trainer: TrainerView, limits: list[float], batch_idx: int, dataloader_idx: int) -> bool:
    """As ``log_is_due`` for a batch of an evaluation; ``limits`` are the batches of each of its loaders."""
    return _is_due(trainer, sum(limits[:dataloader_idx]) + batch_idx + 1)


def _is_due(trainer: TrainerView, step: float) -> bool:
    every = trainer.log_every_n_steps
    return bool(every) and (step % every == 0 or trainer.should_stop)
