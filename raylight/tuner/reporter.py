"""TrialReporter: what a trial of a search tells, without a line of the user's."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import torch

from raylight.callbacks.base import Callback
from raylight.config.messages import Report, TrainerFn
from raylight.utilities.exceptions import MetricNotLoggedError, TunerExit

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView

CHECKPOINT_NAME = "trial.ckpt"
"""Of the file in each of Ray Tune's checkpoint folders."""
REPORTS_KEY = "raylight_trial_reports"


class TrialReporter(Callback):
    """Reports all metrics, with a checkpoint, after each validation; after each epoch where nothing is validated.

    A validation at the end of an epoch is reported when the epoch has ended, with what training logged of it.

    Args:
        metric: Name of the metric that the search goes by.
        checkpoint: Path of the file that each report's checkpoint is written to; None writes none.
    """

    _comes_last = True

    def __init__(self, metric: str, checkpoint: str | None) -> None:
        self.metric = metric
        self.checkpoint = checkpoint
        self.reports = 0
        """Reports so far, also before the trial was continued from a checkpoint."""
        self._due = False
        """A validation awaits the end of its epoch."""
        self._reported = False
        self._without_metric: dict[str, float] | None = None
        """What had been logged when a report was due, but without the metric."""

    # Under a key of its own, not among the callbacks' states: whoever trains on without a search need not know of it.
    def on_save_checkpoint(self, trainer: TrainerView, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[REPORTS_KEY] = self.reports

    def on_load_checkpoint(self, trainer: TrainerView, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.reports = checkpoint.get(REPORTS_KEY, 0)

    def on_validation_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._due = trainer.is_last_batch
        if not self._due:
            self._report(trainer)

    def on_train_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if self._due or not trainer.enable_validation:
            self._due = False
            self._report(trainer)
        if self._without_metric is not None and not self._reported:
            raise _not_logged(self.metric, self._without_metric)

    def on_train_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if not self._reported and not self.reports:
            raise _not_logged(self.metric, _numbers(trainer.callback_metrics))

    def _report(self, trainer: TrainerView) -> None:
        values = _numbers(trainer.callback_metrics)
        if self.metric not in values:
            self._without_metric = values
            return
        self._reported = True
        self.reports += 1
        values.update(epoch=trainer.current_epoch, step=trainer.global_step, reports=self.reports)
        if self.checkpoint is not None:
            trainer.save_checkpoint(self.checkpoint)
        if not trainer.report(Report(values, self.checkpoint)):
            raise TunerExit


def _not_logged(metric: str, logged: dict[str, float]) -> MetricNotLoggedError:
    close = difflib.get_close_matches(metric, logged, n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    names = ", ".join(sorted(logged)) or "nothing"
    return MetricNotLoggedError(f"metric={metric!r} was not logged{guess}; logged was: {names}.")


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if not _is_array(value)}


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() != 1
