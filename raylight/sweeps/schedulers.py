"""When trials of a sweep end early, pause, or take over from better ones."""

from __future__ import annotations

from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, HyperBandScheduler, PopulationBasedTraining, TrialScheduler

from raylight.sweeps.expressions import is_searched
from raylight.sweeps.record import OVER, SweepRecord
from raylight.utilities.exceptions import MisconfigurationException

TIME = "reports"
"""What schedulers count: a trial's reports, one per validation; goes on where a resumed trial does."""
UNBOUNDED = 10**6
REPORTS_OF_HYPERBAND = 81
CHECKPOINTS_OF_POPULATION = 3
"""Kept per trial while others may still take over from them."""
NAMES = ("asha", "pbt", "hyperband")


def make_scheduler(
    scheduler: Any,
    space: dict[str, Any],
    metric: str,
    mode: str,
    grace_period: int,
    reduction_factor: float,
    max_reports: int | None,
) -> TrialScheduler | None:
    """The scheduler that ``sweep(scheduler=...)`` names.

    Args:
        scheduler: "asha", "pbt", "hyperband", None, or a scheduler of Ray Tune's.
        space: What population-based training may change.
        metric: What trials are compared by.
        mode: "min" or "max".
        grace_period: Reports before which no trial is ended; for "pbt" between two takeovers.
        reduction_factor: Of so many trials one survives a rung.
        max_reports: Reports of a trial that is not ended early; None where that is not known.

    Raises:
        MisconfigurationException: There is no such scheduler, or it cannot work on this space.
    """
    if isinstance(scheduler, TrialScheduler):
        scheduler.set_search_properties(metric, mode)  # unless it has its own
    if scheduler is None or isinstance(scheduler, TrialScheduler):
        return scheduler
    if scheduler == "asha":  # its trials end by themselves
        return AsyncHyperBandScheduler(
            TIME, metric, mode, max_t=UNBOUNDED, grace_period=grace_period, reduction_factor=reduction_factor
        )
    if scheduler == "hyperband":
        longest = max(max_reports or REPORTS_OF_HYPERBAND, 2)
        return HyperBandScheduler(TIME, metric, mode, max_t=longest, reduction_factor=reduction_factor)
    if scheduler == "pbt":
        mutations = {name: _mutation(value) for name, value in space.items() if is_searched(value)}
        if not mutations:
            raise MisconfigurationException(
                'scheduler="pbt" changes what is searched, but the space has only constants.'
            )
        return PopulationBasedTraining(
            TIME, metric, mode, perturbation_interval=grace_period, hyperparam_mutations=mutations
        )
    raise MisconfigurationException(
        f"scheduler={scheduler!r} must be one of {', '.join(map(repr, NAMES))}, None, or a scheduler of Ray Tune's."
    )


def _mutation(value: Any) -> Any:
    return value["grid_search"] if isinstance(value, dict) else value


def checkpoint_config(scheduler: Any, metric: str, mode: str) -> tune.CheckpointConfig:
    """The best and the last of each trial."""
    population = isinstance(scheduler, PopulationBasedTraining)
    return tune.CheckpointConfig(
        num_to_keep=CHECKPOINTS_OF_POPULATION if population else 1,
        checkpoint_score_attribute=metric,
        checkpoint_score_order=mode,
        checkpoint_at_end=False,
    )


def replay(scheduler: Any, record: SweepRecord) -> None:
    """Let successive halving know what the trials of an earlier run have reached, so that it judges new ones by it."""
    if not isinstance(scheduler, AsyncHyperBandScheduler):
        return
    for name, trial in record.trials.items():
        if trial.status in OVER and trial.reports:
            past: Any = _PastTrial(name)
            controller: Any = None  # it is not asked for anything
            scheduler.on_trial_add(controller, past)
            for report in trial.reports:
                scheduler.on_trial_result(controller, past, report)
            scheduler.on_trial_complete(controller, past, trial.reports[-1])


class _PastTrial:
    """What successive halving asks of a trial."""

    def __init__(self, name: str) -> None:
        self.trial_id = name
