"""Runs the trials of a search on Ray Tune. Runs on the driver."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import tune
from ray.tune.search import Searcher
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from raylight.config.accelerators import place
from raylight.config.flags import TrainerConfig
from raylight.engine import cluster, pool, user_modules
from raylight.engine.failures import revive
from raylight.engine.interrupt import graceful_interrupt
from raylight.engine.surroundings import Surroundings
from raylight.tuner.trial import FAILURE, Trial, Work
from raylight.utilities.exceptions import MetricNotLoggedError, ResourceError, WorkerError

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the older one heeds verbose=0
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "10",  # a trial that is in the middle of an epoch when all is to stop
}
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "profiler": None,
    "max_time": None,
    "stochastic_weight_avg": False,
    "auto_scale_batch_size": False,
    "auto_lr_find": False,
    "resume_from_checkpoint": None,
}
"""Whatever the Trainer that searches has."""
POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class TrialResources:
    """What one trial occupies."""

    num_workers: int
    per_worker: dict[str, float]
    """Ray resources of one worker."""

    @property
    def bundles(self) -> list[dict[str, float]]:
        """Of the trial's placement group: one worker is the trial's own process, several have a bundle each."""
        return [self.per_worker] if self.num_workers == 1 else [{}, *[self.per_worker] * self.num_workers]

    @property
    def flags(self) -> dict[str, Any]:
        """Of a trial's Trainer: one worker is the trial's process, several are in its placement group."""
        alone = self.num_workers == 1
        return {
            "launcher": "local" if alone else "ray",
            "devices": 1 if alone else "auto",
            "num_nodes": 1,
            "num_workers": None if alone else self.num_workers,
            "resources_per_worker": None if alone else self.per_worker,
        }


def trial_resources(config: TrainerConfig) -> TrialResources:
    """What one trial of such a Trainer occupies; joins or starts the cluster."""
    expected = place(config)
    cluster.connect(expected.num_workers, expected.resources.get("CPU", 0))
    placement = place(config, cluster.gpu_count())
    return TrialResources(num_workers=placement.num_workers, per_worker=placement.resources)


def quiet_flags(config: TrainerConfig, resources: TrialResources) -> dict[str, Any]:
    """Flags of a Trainer like the one with this ``config``, for a trial that does nothing but try."""
    return {**config.given(), **resources.flags, **QUIET}


@dataclass(kw_only=True)
class Study:
    """A search to be run."""

    work: Work
    searcher: Searcher | None = None
    """Says what each trial tries, and when there is no more to try; None: the space does."""
    space: dict[str, Any] = field(default_factory=dict)
    num_samples: int
    """Trials at most; without a searcher, so many times the space's grid."""
    resources: TrialResources
    storage: str
    """Folder, or URI, of all searches."""
    name: str
    """Of this one's folder in it."""
    scheduler: Any = None
    """A TrialScheduler that knows its metric; None lets every trial run to its end."""
    max_concurrent: int | None = None
    """Trials at a time; None: as many as the cluster has room for."""
    together: bool = False
    """All trials are known to the scheduler from the start: it pauses them to compare all at the same age."""
    checkpoints: tune.CheckpointConfig | None = None
    callbacks: list[Any] = field(default_factory=list)
    trial_name: Any = None
    """``(ray.tune.experiment.Trial) -> str``: name of a trial's folder."""
    resource_timeout: float = 0.0
    """Seconds to wait for nodes that are still to come."""

    def prepare(self) -> None:
        """Join or start the cluster, and see that it has room.

        Raises:
            ResourceError: A trial needs more than the cluster has.
        """
        cluster.connect(self.resources.num_workers, self.resources.per_worker.get("CPU", 0))
        verify_room(self.resources, self.resource_timeout)
        pool.release()  # idle workers would hold what the trials need

    def run(self) -> bool:
        """After ``prepare``: until all trials are over; whether Ctrl-C ended it early."""
        surroundings = Surroundings.here()
        work = user_modules.dumps(self.work, surroundings.cwd)
        stopper = StopOnRequest()
        trainable = tune.with_parameters(Trial, work=work, surroundings=surroundings)
        hopeless = EndOfHopeless(stopper)
        at_a_time = self.max_concurrent or concurrency(self.resources)
        with (
            _quiet(pending=self.num_samples if self.together else at_a_time),
            _own_signals(),
            _own_groups(),
            graceful_interrupt(stopper.request),
        ):
            tune.run(
                trainable,
                name=self.name,
                config=self.space,
                stop=stopper,
                num_samples=self.num_samples,
                search_alg=self.searcher,
                scheduler=self.scheduler,
                max_concurrent_trials=None if self.together else at_a_time,
                resources_per_trial=tune.PlacementGroupFactory(self.resources.bundles, strategy="PACK"),
                reuse_actors=True,
                storage_path=self.storage,
                checkpoint_config=self.checkpoints or tune.CheckpointConfig(checkpoint_at_end=False),
                trial_name_creator=self.trial_name,
                trial_dirname_creator=self.trial_name,
                callbacks=[*self.callbacks, hopeless],
                raise_on_failed_trial=False,
                verbose=0,
            )
        if hopeless.error is not None:
            raise hopeless.error
        return stopper.requested


class StopOnRequest(tune.Stopper):
    """Ends all trials when it is asked to."""

    def __init__(self) -> None:
        self.requested = False

    def request(self) -> None:
        """All trials are to end."""
        self.requested = True

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.requested


class EndOfHopeless(tune.Callback):
    """Ends a search whose metric no trial logs, instead of running all the others into the same wall."""

    def __init__(self, stopper: StopOnRequest) -> None:
        self._stopper = stopper
        self.error: BaseException | None = None

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        error = failure_in(result)
        if isinstance(error, MetricNotLoggedError):
            self.error = error
            self._stopper.request()


def failure_in(result: dict[str, Any]) -> BaseException | None:
    """What a trial has failed by, according to its last result, with its own type; None: it has not."""
    return revive(result[FAILURE]) if FAILURE in result else None


def lost(trial: Any) -> WorkerError:
    """The end of a trial whose process is gone."""
    reason = (trial.get_error() or "").strip().rpartition("\n")[2]
    return WorkerError(
        f"The process of {trial} is gone: {reason or 'no reason is known'}. It may have been killed, by the operating "
        "system for want of memory for one."
    )


def concurrency(resources: TrialResources) -> int:
    """Trials that the cluster has room for at a time, at least one."""
    return max(1, _room(resources) // resources.num_workers)


def verify_room(resources: TrialResources, seconds: float) -> None:
    """Wait until the cluster is large enough for one trial.

    Raises:
        ResourceError: It was not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while (room := _room(resources)) < resources.num_workers:
        if time.monotonic() >= deadline:
            needs = ", ".join(f"{amount:g} {name}" for name, amount in resources.per_worker.items())
            total = ray.cluster_resources()
            has = ", ".join(f"{total.get(name, 0):g} {name}" for name in resources.per_worker)
            waited = f" Waited {seconds:g} s (resource_timeout)." if seconds else ""
            raise ResourceError(
                f"A trial needs {resources.num_workers} workers with {needs} each, but the cluster's nodes, with {has} "
                f"in all, have room for {room}.{waited} Use fewer workers_per_trial, or less resources_per_worker; "
                "where nodes are still to come, give resource_timeout=SECONDS to wait for them."
            )
        time.sleep(min(POLL_SECONDS, seconds))


def _room(resources: TrialResources) -> int:
    """Workers that all nodes together could hold if they were free."""
    if not any(amount > 0 for amount in resources.per_worker.values()):
        return resources.num_workers
    return cluster.workers_on((node["Resources"] for node in ray.nodes() if node["Alive"]), resources.per_worker)


@contextlib.contextmanager
def _quiet(pending: int) -> Iterator[None]:
    """Ray Tune as raylight wants it, with so many trials waiting at a time, and without its own messages."""
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air")]
    levels = [logger.level for logger in loggers]
    variables = {**ENVIRONMENT, "TUNE_MAX_PENDING_TRIALS_PG": str(pending)}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def _own_groups() -> Iterator[None]:
    """What Ray Tune reserves is given back even when a second Ctrl-C comes while it is at work."""
    before = set(placement_group_table())
    try:
        yield
    except BaseException:
        for group_id, entry in placement_group_table().items():
            if group_id not in before and entry["state"] != "REMOVED":
                remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id))))
        raise


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ray Tune takes SIGUSR1 and never gives it back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGUSR1)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)
