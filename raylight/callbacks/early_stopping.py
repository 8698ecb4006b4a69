"""Stop training when a metric no longer improves."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raylight.callbacks.base import Callback
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from collections.abc import Callable

    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView

log = logging.getLogger("raylight")


class EarlyStoppingReason(Enum):
    """Why ``EarlyStopping`` stopped the training."""

    NOT_STOPPED = 0
    STOPPING_THRESHOLD = 1
    DIVERGENCE_THRESHOLD = 2
    PATIENCE_EXHAUSTED = 3
    NON_FINITE_METRIC = 4


class EarlyStopping(Callback):
    """Stop training when ``monitor`` does not improve.

    Args:
        monitor: Name of a logged metric.
        min_delta: A change of this size or less is no improvement.
        patience: Checks without improvement, not epochs, after which training stops.
        verbose: Tell of every improvement and of the stop.
        mode: "min" or "max": which value is better.
        strict: Whether a missing metric is an error; otherwise the check is left out.
        check_finite: Stop when the metric is NaN or infinite.
        stopping_threshold: Stop as soon as the metric is better than this. None: no such limit.
        divergence_threshold: Stop as soon as the metric is worse than this. None: no such limit.
        check_on_train_epoch_end: Whether to check when the training epoch ends, or when validation ends. None: the
            former if validation runs once per epoch.
        log_rank_zero_only: Whether only rank 0 tells; otherwise every rank does, with its number.

    Attributes:
        stopped_epoch: Epoch at which training was stopped; 0 if it was not.
        stopping_reason: An ``EarlyStoppingReason``.
        stopping_reason_message: The same in words; None if training was not stopped.

    Raises:
        MisconfigurationException: ``mode`` is unknown.
        RuntimeError: ``monitor`` was not logged, with ``strict``.
    """

    mode_dict: Mapping[str, Callable[..., Tensor]] = {"min": torch.lt, "max": torch.gt}
    order_dict: Mapping[str, str] = {"min": "<", "max": ">"}

    def __init__(
        self,
        monitor: str,
        min_delta: float = 0.0,
        patience: int = 3,
        verbose: bool = False,
        mode: str = "min",
        strict: bool = True,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_on_train_epoch_end: bool | None = None,
        log_rank_zero_only: bool = False,
    ) -> None:
        if mode not in self.mode_dict:
            raise MisconfigurationException(f"`mode` can be {', '.join(self.mode_dict)}, got {mode}")
        self.monitor = monitor
        self.min_delta = min_delta if mode == "max" else -min_delta
        self.patience = patience
        self.verbose = verbose
        self.mode = mode
        self.strict = strict
        self.check_finite = check_finite
        self.stopping_threshold = stopping_threshold
        self.divergence_threshold = divergence_threshold
        self.log_rank_zero_only = log_rank_zero_only
        self._check_on_train_epoch_end = check_on_train_epoch_end

        self.wait_count = 0
        self.stopped_epoch = 0
        self.best_score = torch.tensor(float("inf" if mode == "min" else "-inf"))
        self.stopping_reason = EarlyStoppingReason.NOT_STOPPED
        self.stopping_reason_message: str | None = None

    @property
    def monitor_op(self) -> Callable[..., Tensor]:
        """``monitor_op(a, b)``: whether a is better than b."""
        return self.mode_dict[self.mode]

    @property
    def state_key(self) -> str:
        return self._generate_state_key(monitor=self.monitor, mode=self.mode)

    def state_dict(self) -> dict[str, Any]:
        return {
            "wait_count": self.wait_count,
            "stopped_epoch": self.stopped_epoch,
            "best_score": self.best_score,
            "patience": self.patience,
            "stopping_reason": self.stopping_reason.value,
            "stopping_reason_message": self.stopping_reason_message,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.wait_count = state_dict["wait_count"]
        self.stopped_epoch = state_dict["stopped_epoch"]
        self.best_score = state_dict["best_score"]
        self.patience = state_dict["patience"]
        self.stopping_reason = EarlyStoppingReason(state_dict.get("stopping_reason", 0))
        self.stopping_reason_message = state_dict.get("stopping_reason_message")

    def setup(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        if self._check_on_train_epoch_end is None:
            once_per_epoch = trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1
            self._check_on_train_epoch_end = once_per_epoch

    def on_train_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if self._check_on_train_epoch_end:
            self._check(trainer)

    def on_validation_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if not self._check_on_train_epoch_end:
            self._check(trainer)

    def _check(self, trainer: TrainerView) -> None:
        """Collective: every rank must call it; one rank that wants to stop stops all."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.fast_dev_run:
            return
        metrics = trainer.callback_metrics
        if self.monitor not in metrics:
            self._report_missing_metric(metrics)
            return
        should_stop, message = self._evaluate(metrics[self.monitor].detach().squeeze().cpu())
        if trainer.strategy.reduce_boolean_decision(should_stop, all=False):
            trainer.should_stop = True
            self.stopped_epoch = trainer.current_epoch
            self.stopping_reason_message = message
        if message is not None and self.verbose:
            self._tell(trainer, message)

    def _report_missing_metric(self, metrics: Mapping[str, Any]) -> None:
        message = (
            f"Early stopping conditioned on metric `{self.monitor}` which is not available. Pass in or modify your "
            f"`EarlyStopping` callback to use any of the following: `{'`, `'.join(metrics)}`"
        )
        if self.strict:
            raise RuntimeError(message)
        if self.verbose:
            rank_zero_warn(message, category=RuntimeWarning)

    def _evaluate(self, current: Tensor) -> tuple[bool, str | None]:
        """Whether to stop, and what to tell; counts the check."""
        reason, message = self._limit_crossed(current)
        if reason is None and self.monitor_op(current - self.min_delta, self.best_score.cpu()):
            message = self._improvement_message(current)
            self.best_score = current.clone()
            self.wait_count = 0
        elif reason is None:
            self.wait_count += 1
            if self.wait_count >= self.patience:
                reason = EarlyStoppingReason.PATIENCE_EXHAUSTED
                message = (
                    f"Monitored metric {self.monitor} did not improve in the last {self.wait_count} records. "
                    f"Best score: {self.best_score:.3f}. Signaling Trainer to stop."
                )
        if reason is not None:
            self.stopping_reason = reason
        return reason is not None, message

    def _limit_crossed(self, current: Tensor) -> tuple[EarlyStoppingReason | None, str | None]:
        if self.check_finite and not torch.isfinite(current):
            return EarlyStoppingReason.NON_FINITE_METRIC, (
                f"Monitored metric {self.monitor} = {current} is not finite. "
                f"Previous best value was {self.best_score:.3f}. Signaling Trainer to stop."
            )
        order = self.order_dict[self.mode]
        if self.stopping_threshold is not None and self.monitor_op(current, self.stopping_threshold):
            return EarlyStoppingReason.STOPPING_THRESHOLD, (
                f"Stopping threshold reached: {self.monitor} = {current} {order} {self.stopping_threshold}. "
                "Signaling Trainer to stop."
            )
        if self.divergence_threshold is not None and self.monitor_op(-current, -self.divergence_threshold):
            return EarlyStoppingReason.DIVERGENCE_THRESHOLD, (
                f"Divergence threshold reached: {self.monitor} = {current} {order} {self.divergence_threshold}. "
                "Signaling Trainer to stop."
            )
        return None, None

    def _improvement_message(self, current: Tensor) -> str:
        if not torch.isfinite(self.best_score):
            return f"Metric {self.monitor} improved. New best score: {current:.3f}"
        return (
            f"Metric {self.monitor} improved by {abs(self.best_score - current):.3f} >= "
            f"min_delta = {abs(self.min_delta)}. New best score: {current:.3f}"
        )

    def _tell(self, trainer: TrainerView, message: str) -> None:
        if trainer.world_size == 1:
            log.info(message)
        elif trainer.is_global_zero or not self.log_rank_zero_only:
            log.info(f"[rank: {trainer.global_rank}] {message}")
