"""What changes with the epochs, and what ends with the time."""

from __future__ import annotations

import time
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

from raylight.callbacks.base import Callback
from raylight.callbacks.shared_deadline import SharedDeadline
from raylight.core.module import LightningModule
from raylight.utilities.durations import parse_duration
from raylight.utilities.enums import LightningEnum
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_info, rank_zero_warn

if TYPE_CHECKING:
    from raylight.worker.trainer_view import TrainerView


class GradientAccumulationScheduler(Callback):
    """Change ``accumulate_grad_batches`` from epoch to epoch.

    Args:
        scheduling: ``{epoch: factor}``, epochs counted from 0; each factor holds until the next epoch listed.
            Epoch 0 has factor 1 unless it is listed.

    Raises:
        TypeError: ``scheduling`` is empty.
        MisconfigurationException: An epoch is negative, a factor is below 1, or one of them is no int; or, when
            training starts, the Trainer's ``accumulate_grad_batches`` is not 1.
        RuntimeError: Training starts with a model that optimizes manually.
    """

    def __init__(self, scheduling: dict[int, int]) -> None:
        if not scheduling:
            raise TypeError("Empty dict cannot be interpreted correct: give at least one {epoch: factor}.")
        if any(not isinstance(epoch, int) or epoch < 0 for epoch in scheduling):
            raise MisconfigurationException(
                f"Epoch should be an int greater than or equal to 0. Got {list(scheduling)}."
            )
        if any(not isinstance(factor, int) or factor < 1 for factor in scheduling.values()):
            raise MisconfigurationException(
                f"Accumulation factor should be an int greater than 0. Got {list(scheduling.values())}."
            )
        self.scheduling = {0: 1, **scheduling}
        self.epochs = sorted(self.scheduling)

    def going_to_accumulate_grad_batches(self) -> bool:
        """Whether any epoch accumulates at all."""
        return any(factor > 1 for factor in self.scheduling.values())

    def get_accumulate_grad_batches(self, epoch: int) -> int:
        """The factor of ``epoch``."""
        return self.scheduling[max(start for start in self.epochs if start <= epoch)]

    def on_train_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if not pl_module.automatic_optimization:
            raise RuntimeError(
                "Automatic gradient accumulation and the `GradientAccumulationScheduler` is not supported for manual "
                "optimization. Please remove the callback or switch to automatic optimization."
            )
        if trainer.accumulate_grad_batches != 1:
            raise MisconfigurationException(
                "You have set `accumulate_grad_batches` and are using the `GradientAccumulationScheduler` callback. "
                "Either remove `accumulate_grad_batches` from the Trainer or remove the callback."
            )
        overridden = [
            hook
            for hook in ("optimizer_step", "optimizer_zero_grad")
            if getattr(type(pl_module), hook) is not getattr(LightningModule, hook)
        ]
        if overridden and self.going_to_accumulate_grad_batches():
            rank_zero_warn(
                "When using `Trainer(accumulate_grad_batches != 1)` and overriding "
                "`LightningModule.optimizer_{step,zero_grad}`, the hooks will not be called on every batch "
                "(rather, they are called on every optimization step)."
            )

    def on_train_epoch_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        trainer.accumulate_grad_batches = self.get_accumulate_grad_batches(trainer.current_epoch)


class Interval(LightningEnum):
    """When ``Timer`` looks at the clock."""

    step = "step"
    epoch = "epoch"


STAGES = ("train", "sanity_check", "validate", "test", "predict")


class Timer(Callback):
    """Measure the time of training, validation and test, and stop training when its time is over.

    Args:
        duration: Limit of the training time: "DD:HH:MM:SS", a timedelta, or a dict of timedelta's arguments.
            None: only measure.
        interval: "step" or "epoch": when to look at the clock.
        verbose: Tell when the limit is reached.

    Raises:
        MisconfigurationException: ``duration`` or ``interval`` cannot be read.

    The clock is that of rank 0. The training time of earlier runs counts when a checkpoint is resumed.
    """

    _of_this_process = ("_start_time", "_end_time", "_offset", "_deadline")

    def __init__(
        self,
        duration: str | timedelta | dict[str, int] | None = None,
        interval: str = "step",
        verbose: bool = True,
    ) -> None:
        if interval not in ("step", "epoch"):
            raise MisconfigurationException(
                f"Unsupported parameter value `Timer(interval={interval})`. Possible choices are: step, epoch"
            )
        self._duration = None if duration is None else parse_duration(duration, "duration").total_seconds()
        self._interval = interval
        self._verbose = verbose
        self._start_time: dict[str, float | None] = dict.fromkeys(STAGES)
        self._end_time: dict[str, float | None] = dict.fromkeys(STAGES)
        self._offset = 0.0
        self._deadline = SharedDeadline()

    def start_time(self, stage: str = "train") -> float | None:
        """When ``stage`` ("train", "validate", "test") began, on a clock without a meaningful zero; None: not yet."""
        return self._start_time[_stage(stage)]

    def end_time(self, stage: str = "train") -> float | None:
        """When ``stage`` ended, on the clock of ``start_time``; None: not yet."""
        return self._end_time[_stage(stage)]

    def time_elapsed(self, stage: str = "train") -> float:
        """Seconds that ``stage`` has taken."""
        start, end = self.start_time(stage), self.end_time(stage)
        offset = self._offset if _stage(stage) == "train" else 0.0
        if start is None:
            return offset
        return (time.monotonic() if end is None else end) - start + offset

    def time_remaining(self, stage: str = "train") -> float | None:
        """Seconds of ``duration`` that are left; None without a ``duration``."""
        return None if self._duration is None else self._duration - self.time_elapsed(stage)

    def on_fit_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """The time of a run that is resumed may be over already."""
        self._deadline.restart()
        if self._duration is not None:
            self._stop_if(trainer, self._time_is_over(trainer))

    def on_train_batch_end(
        self, trainer: TrainerView, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._duration is not None and self._interval == "step":
            self._stop_if(trainer, self._deadline.reached(trainer, self._duration - self.time_elapsed()))

    def on_train_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if self._duration is not None and self._interval == "epoch":
            self._stop_if(trainer, self._time_is_over(trainer))

    def _time_is_over(self, trainer: TrainerView) -> bool:
        """Rank 0's answer. Collective."""
        assert self._duration is not None
        return bool(trainer.strategy.broadcast(self.time_elapsed() >= self._duration))

    def _stop_if(self, trainer: TrainerView, time_is_over: bool) -> None:
        if not time_is_over:
            return
        trainer.should_stop = True
        if self._verbose:
            elapsed = timedelta(seconds=int(self.time_elapsed()))
            rank_zero_info(f"Time limit reached. Elapsed time is {elapsed}. Signaling Trainer to stop.")

    def on_train_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._begin("train")

    def on_train_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._end("train")

    def on_validation_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._begin("validate")

    def on_validation_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._end("validate")

    def on_test_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._begin("test")

    def on_test_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._end("test")

    def on_exception(self, trainer: TrainerView, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop the clocks: what they show must not depend on when, and on which machine, it is asked."""
        for stage in STAGES:
            if self._start_time[stage] is not None and self._end_time[stage] is None:
                self._end(stage)

    def _begin(self, stage: str) -> None:
        self._start_time[stage] = time.monotonic()
        self._end_time[stage] = None

    def _end(self, stage: str) -> None:
        self._end_time[stage] = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"time_elapsed": {stage: self.time_elapsed(stage) for stage in STAGES}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._offset = state_dict.get("time_elapsed", {}).get("train", 0.0)


def _stage(stage: str) -> str:
    """The plain name of a stage, which may be given as an enum; ValueError when there is none such."""
    name = str(stage.value) if isinstance(stage, Enum) else stage
    if name not in STAGES:
        raise ValueError(f"{name!r} is not a stage. Possible choices are: {', '.join(STAGES)}")
    return name
