"""What all progress bars share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylight.callbacks.base import Callback
from raylight.utilities.rank_zero import rank_zero_deprecation, rank_zero_warn

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView


class ProgressBar(Callback):
    """Base of progress bars: knows the numbers of a run, and draws nothing.

    A bar of one's own overrides ``enable``, ``disable`` and the hooks in which it draws.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is ProgressBar and (args or kwargs):  # in Lightning 1.x it was the bar of today's name TQDMProgressBar
            from raylight.callbacks.progress.tqdm_progress import TQDMProgressBar

            rank_zero_deprecation("`ProgressBar(refresh_rate=...)` is Lightning 1.x: write `TQDMProgressBar(...)`.")
            return super().__new__(TQDMProgressBar)
        return super().__new__(cls)

    _trainer: TrainerView | None = None
    _current_eval_dataloader_idx: int | None = None
    _OF_THIS_PROCESS: tuple[str, ...] = ("_trainer",)
    """Attributes that neither travel to another process nor come back from there."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self._OF_THIS_PROCESS}

    @property
    def trainer(self) -> TrainerView:
        """The Trainer.

        Raises:
            TypeError: No call has started yet.
        """
        if self._trainer is None:
            raise TypeError(f"The `{type(self).__name__}._trainer` reference has not been set yet.")
        return self._trainer

    # What stands before the bar

    @property
    def sanity_check_description(self) -> str:
        return "Sanity Checking"

    @property
    def train_description(self) -> str:
        return "Training"

    @property
    def validation_description(self) -> str:
        return "Validation"

    @property
    def test_description(self) -> str:
        return "Testing"

    @property
    def predict_description(self) -> str:
        return "Predicting"

    # How long it is, in batches; inf when this is not known

    @property
    def total_train_batches(self) -> int | float:
        """Batches of the epoch at work, or those left until ``max_steps`` if only this limits the training."""
        trainer = self.trainer
        if trainer.max_epochs == -1 and trainer.max_steps > 0:
            return min(trainer.num_training_batches, trainer.max_steps - trainer.global_step)
        return trainer.num_training_batches

    @property
    def total_val_batches(self) -> int | float:
        """Batches of all validation loaders; 0 in an epoch that does not validate."""
        every = self.trainer.check_val_every_n_epoch
        validates = every is None or (self.trainer.current_epoch + 1) % every == 0
        return sum(self.trainer.num_val_batches) if validates and self.trainer.enable_validation else 0

    @property
    def total_val_batches_current_dataloader(self) -> int | float:
        return self._total_of_loader(self.trainer.num_val_batches)

    @property
    def total_test_batches_current_dataloader(self) -> int | float:
        return self._total_of_loader(self.trainer.num_test_batches)

    @property
    def total_predict_batches_current_dataloader(self) -> int | float:
        return self._total_of_loader(self.trainer.num_predict_batches)

    def _total_of_loader(self, batches: list[float]) -> int | float:
        assert self._current_eval_dataloader_idx is not None
        return batches[self._current_eval_dataloader_idx]

    def has_dataloader_changed(self, dataloader_idx: int) -> bool:
        """Whether this loader is another one than that of the last call."""
        former, self._current_eval_dataloader_idx = self._current_eval_dataloader_idx, dataloader_idx
        return former != dataloader_idx

    def reset_dataloader_idx_tracker(self) -> None:
        """The evaluation is over: the next loader is a new one."""
        self._current_eval_dataloader_idx = None

    # What a kind of bar must be able to do

    def disable(self) -> None:
        """Show nothing until ``enable``; called on all ranks but 0."""
        raise NotImplementedError

    def enable(self) -> None:
        """Show the bar again."""
        raise NotImplementedError

    def print(self, *args: Any, **kwargs: Any) -> None:
        """``print`` beside the bar."""
        print(*args, **kwargs)

    def setup(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer
        if not trainer.is_global_zero:
            self.disable()

    def get_metrics(
        self, trainer: TrainerView, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """What stands beside the bar: the loggers' version as "v_num", then the metrics. Override to change it."""
        standard = get_standard_metrics(trainer)
        metrics = trainer.progress_bar_metrics
        for name in standard.keys() & metrics.keys():
            rank_zero_warn(
                f"The progress bar already tracks a metric with the name(s) '{name}' and `self.log('{name}', ..., "
                "prog_bar=True)` will overwrite this value. If this is undesired, change the name or override "
                "`get_metrics()` in the progress bar callback."
            )
        return {**standard, **metrics}


def get_standard_metrics(trainer: TrainerView) -> dict[str, int | str]:
    """The loggers' version under "v_num", of a long text its last four characters; nothing without a version."""
    versions = [logger.version for logger in trainer.loggers]
    version = versions[0] if len(versions) == 1 else "_".join(dict.fromkeys(map(str, versions)))
    if version is None or version == "":
        return {}
    return {"v_num": version[-4:] if isinstance(version, str) else version}
