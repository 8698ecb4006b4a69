"""When trials of a sweep end early, pause, or take over from better ones."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
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


@dataclass(frozen=True)
class Rules:
    """What a scheduler goes by."""

    metric: str
    mode: str
    grace_period: int
    """Reports before which no trial is ended; in population-based training, between two takeovers."""
    reduction_factor: float
    """Of so many trials one survives a rung."""
    max_reports: int | None
    """Of a trial that is not ended early; None where that is not known."""


def make_scheduler(scheduler: Any, space: dict[str, Any], rules: Rules) -> TrialScheduler | None:
    """The scheduler that ``sweep(scheduler=...)`` names.

    Args:
        scheduler: "asha", "pbt", "hyperband", None, or a scheduler of Ray Tune's.
        space: What population-based training may change.
        rules: What it goes by; of a scheduler of Ray Tune's own only the metric, if it has none.

    Raises:
        MisconfigurationException: There is no such scheduler, or it cannot work on this space.
    """
    made = _made(scheduler, space, rules)
    if isinstance(made, PopulationBasedTraining):
        _accept_planned_trials(made)
    return made


def _made(scheduler: Any, space: dict[str, Any], rules: Rules) -> TrialScheduler | None:
    metric, mode = rules.metric, rules.mode
    if scheduler is None:
        return None
    if isinstance(scheduler, TrialScheduler):
        scheduler.set_search_properties(metric, mode)  # unless it has its own
        return scheduler
    if scheduler == "asha":  # its trials end by themselves
        factor = rules.reduction_factor
        return AsyncHyperBandScheduler(TIME, metric, mode, UNBOUNDED, rules.grace_period, factor)
    if scheduler == "hyperband":
        longest = max(rules.max_reports or REPORTS_OF_HYPERBAND, 2)
        return HyperBandScheduler(TIME, metric, mode, longest, rules.reduction_factor)
    if scheduler == "pbt":
        mutations = {name: _mutation(value) for name, value in space.items() if is_searched(value)}
        if not mutations:
            raise MisconfigurationException(
                'scheduler="pbt" changes what is searched, but the space has only constants.'
            )
        return PopulationBasedTraining(TIME, metric, mode, rules.grace_period, hyperparam_mutations=mutations)
    raise MisconfigurationException(
        f"scheduler={scheduler!r} must be one of {', '.join(map(repr, NAMES))}, None, or a scheduler of Ray Tune's."
    )


def _accept_planned_trials(scheduler: Any) -> None:
    """Ray Tune lets a population begin from its own generator of trials only; ours has drawn them likewise."""
    add = scheduler.on_trial_add
    controller = SimpleNamespace(search_alg=None)  # it is asked for nothing else
    scheduler.on_trial_add = lambda _, trial: add(controller, trial)


def _mutation(value: Any) -> Any:
    return value["grid_search"] if isinstance(value, dict) else value


def pauses(scheduler: Any) -> bool:
    """Whether it lets trials wait for others of the same age, so that it must know all of them."""
    return isinstance(scheduler, PopulationBasedTraining | HyperBandScheduler)


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
