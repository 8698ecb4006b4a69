"""When learning-rate schedulers step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from raylight.utilities.types import LRSchedulerConfig
    from raylight.worker.run import Run


def step_after_batch(run: Run) -> None:
    """Those that need no monitored value: after an optimizer step, and at the end of an epoch's batches."""
    if not run.state.is_accumulating:
        step_schedulers(run, "step", plateau=False)
    if run.state.is_last_batch:
        step_schedulers(run, "epoch", plateau=False)


def step_schedulers(run: Run, interval: str, plateau: bool) -> None:
    """Step the schedulers of this interval: those that need a monitored value (``plateau``), or the others."""
    if not run.model.automatic_optimization:
        return
    index = run.state.batch_idx if interval == "step" else run.state.epoch
    for config in run.lr_scheduler_configs:
        if config.interval != interval or config.reduce_on_plateau != plateau or (index + 1) % config.frequency:
            continue
        if run.frequencies and not run.is_active(config.scheduler.optimizer):
            continue
        value = _monitored(run, config) if plateau else None
        if plateau and value is None:
            continue
        run.calls.lr_scheduler_step(config.scheduler, value)
        run.state.scheduler_steps += 1


def _monitored(run: Run, config: LRSchedulerConfig) -> Any:
    value = run.trainer.callback_metrics.get(str(config.monitor))
    if value is not None:
        return value
    message = f"ReduceLROnPlateau conditioned on metric {config.monitor} which is not available"
    if config.strict:
        raise MisconfigurationException(
            f"{message}. Available metrics are: {list(run.trainer.callback_metrics)}. Condition can be set using "
            "`monitor` key in lr scheduler dict"
        )
    rank_zero_warn(f"{message} but strict is set to `False`. Skipping learning rate update.", category=RuntimeWarning)
    return None
