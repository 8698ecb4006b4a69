"""What changes during a run: stages, counters and metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import Tensor

from raylight.checkpoint.progress import Position
from raylight.config.messages import RunningStage, TrainerFn, TrainerStatus
from raylight.utilities import tree
from raylight.utilities.exceptions import MisconfigurationException

PROGRESS = (
    "epoch",
    "global_step",
    "logger_step",
    "total_batches",
    "scheduler_steps",
    "first_step",
    "first_scheduler_step",
    "max_epochs",
    "num_training_batches",
    "num_sanity_val_batches",
    "num_val_batches",
    "num_test_batches",
    "num_predict_batches",
)
"""Counters that one call hands on to the next."""


@dataclass
class TrainState:
    """Counters, stages and metrics of a run. Written by the loops; read by everyone else."""

    # Stage
    fn: TrainerFn | None = None
    status: TrainerStatus = TrainerStatus.INITIALIZING
    stage: RunningStage | None = None
    should_stop: bool = False
    """Stop after this batch, once min_epochs and min_steps are reached."""

    # Which worker
    world_size: int = 1
    num_nodes: int = 1
    global_rank: int = 0
    local_rank: int = 0
    node_rank: int = 0
    device_type: str = "cpu"

    # Training's position
    epoch: int = 0
    """Epochs completed: the index of the epoch at work."""
    epoch_is_over: bool = False
    """All batches of the epoch at work are done; its end hooks are running."""
    global_step: int = 0
    """Optimizer steps taken, of all optimizers."""
    logger_step: int = 0
    """Batches in which an optimizer stepped: the loggers' x axis."""
    epoch_is_open: bool = False
    """The start hooks of the epoch at work are done."""
    batch_idx: int = -1
    """Of the batch at work in this epoch; -1 before the first."""
    batches_trained: int = 0
    """Batches of this epoch that the model was trained on."""
    batches_done: int = 0
    """Those of them whose hooks are over."""
    total_batches: int = 0
    """Batches started, over all epochs."""
    scheduler_steps: int = 0
    first_step: int = 0
    """``global_step`` when the epoch at work began."""
    first_scheduler_step: int = 0
    """Likewise."""
    is_last_batch: bool = False
    """The batch at work is the last of its epoch."""
    val_batches: int = 0
    """Batches of the last validation within fit."""
    epoch_val_batches: int = 0
    """Batches of all validations of the epoch at work, or the last one."""
    is_accumulating: bool = False
    """The batch at work ends without an optimizer step."""

    skip_backward: bool = False
    """Batches only go forward, for the statistics of batch-norm layers."""

    # Limits in force
    max_epochs: int | None = None
    min_epochs: int | None = None
    accumulate_grad_batches: int = 1
    """Batches of this worker for each optimizer step."""
    shares: Fraction = Fraction(1)
    """Workers of the largest number that each of these stands for, where the global batch stays the same."""
    val_check_batch: float = math.inf
    """Validate whenever this many batches are done; inf: at the epoch's end."""
    num_training_batches: float = math.inf
    num_sanity_val_batches: list[float] = field(default_factory=list)
    num_val_batches: list[float] = field(default_factory=list)
    num_test_batches: list[float] = field(default_factory=list)
    num_predict_batches: list[float] = field(default_factory=list)
    enable_validation: bool = False

    # Metrics, as of the last time they were read or reduced
    callback_metrics: dict[str, Tensor] = field(default_factory=dict)
    logged_metrics: dict[str, Tensor] = field(default_factory=dict)
    progress_bar_metrics: dict[str, float] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """The last call ended as it should."""
        return self.status == TrainerStatus.FINISHED

    @property
    def stopped(self) -> bool:
        """No call is running."""
        return self.status in (TrainerStatus.FINISHED, TrainerStatus.INTERRUPTED)

    def position(self) -> Position:
        """Where training stands, for a checkpoint."""
        return Position(
            epoch=self.epoch,
            epoch_is_open=self.epoch_is_open,
            epoch_is_over=self.epoch_is_over,
            batches_done=self.batches_trained,
            batch_is_open=self.epoch_is_open and self.batches_done < self.batches_trained,
            is_last_batch=self.is_last_batch,
            total_batches=self.total_batches - max(0, self.batch_idx + 1 - self.batches_trained),
            global_step=self.global_step,
            logger_step=self.logger_step,
            epoch_steps=self.global_step - self.first_step,
            scheduler_steps=self.scheduler_steps,
            epoch_scheduler_steps=self.scheduler_steps - self.first_scheduler_step,
            batches_begun=max(0, self.batch_idx + 1 - self.batches_trained) if self.epoch_is_open else 0,
            is_accumulating=self.is_accumulating,
            window_is_open=self.epoch_is_open and not self.epoch_is_over and self._window_is_open,
            val_batches=self.val_batches,
            epoch_val_batches=self.epoch_val_batches,
        )

    @property
    def _window_is_open(self) -> bool:
        """Gradients are there that no optimizer has stepped with."""
        at_end = self.is_last_batch and self.batches_trained == self.batch_idx + 1
        return not at_end and self.batches_trained % self.accumulate_grad_batches != 0

    def progress(self) -> dict[str, Any]:
        """The counters that the next call goes on from."""
        return {name: getattr(self, name) for name in PROGRESS}

    def take(self, values: dict[str, Any]) -> None:
        """Set several fields, such as another call's ``progress``."""
        for name, value in values.items():
            setattr(self, name, value)

    def accumulate(self, batches: int) -> None:
        """Step after so many batches of each worker, or of each that there would be of the largest number.

        Raises:
            MisconfigurationException: The workers that are there cannot make up for those that are not.
        """
        mine = batches * self.shares
        if mine.denominator != 1:
            raise MisconfigurationException(
                f"{self.world_size} workers cannot share {batches * self.shares * self.world_size} batches of an "
                f"optimizer step evenly, which is what accumulate_grad_batches={batches} and num_workers=(min, max) "
                "ask for. Use a number that all allowed numbers of workers divide, or elastic='local_batch'."
            )
        self.accumulate_grad_batches = int(mine)

    def metrics_to_cpu(self) -> None:
        """Bring all metrics to the CPU, so that they outlive the device's process."""
        self.callback_metrics = tree.map_leaves(_to_cpu, self.callback_metrics)
        self.logged_metrics = tree.map_leaves(_to_cpu, self.logged_metrics)


def scalars(metrics: dict[str, Any]) -> dict[str, Any]:
    """Python numbers of one-element tensors, in dicts of them too. Waits for the device."""
    numbers: dict[str, Any] = tree.map_leaves(lambda v: v.item() if isinstance(v, Tensor) else v, metrics)
    return numbers


def _to_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value
