"""When a checkpoint may be due, as far as the Trainer's flags decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raylight.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from datetime import timedelta

    from raylight.worker.trainer_view import TrainerView


def check_triggers(every_n_train_steps: int, every_n_epochs: int, train_time_interval: timedelta | None) -> None:
    """Raise MisconfigurationException unless one trigger at most is set; 0 and None are not set."""
    for name, value in (("every_n_train_steps", every_n_train_steps), ("every_n_epochs", every_n_epochs)):
        if value < 0:
            raise MisconfigurationException(f"Invalid value for {name}={value}. Must be >= 0")
    if (every_n_train_steps > 0) + (every_n_epochs > 0) + (train_time_interval is not None) > 1:
        raise MisconfigurationException(
            f"Combination of parameters every_n_train_steps={every_n_train_steps}, every_n_epochs={every_n_epochs} and "
            f"train_time_interval={train_time_interval} should be mutually exclusive. Use one ModelCheckpoint for each."
        )


def saves_on_train_epoch_end(trainer: TrainerView) -> bool:
    """Whether the end of the training epoch is the moment to save, rather than the end of validation."""
    validates_by_time = not isinstance(trainer.val_check_interval, int | float)
    if validates_by_time or trainer.check_val_every_n_epoch != 1:
        return False
    return not has_validation_batches(trainer) or trainer.val_check_interval == 1.0


def validates_after_batch(trainer: TrainerView) -> bool:
    """Whether validation follows the batch at work because it is the last of its epoch."""
    if not trainer.is_last_batch or not trainer.enable_validation or not has_validation_batches(trainer):
        return False
    every_n_epochs = trainer.check_val_every_n_epoch
    return every_n_epochs is None or (trainer.current_epoch + 1) % every_n_epochs == 0


def has_validation_batches(trainer: TrainerView) -> bool:
    return sum(trainer.num_val_batches) > 0
