"""WorkerPool: warm worker processes on a Ray cluster, one per device, joined in one process group."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import threading
import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util import get_current_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raylight.config.accelerators import Placement
from raylight.config.messages import Job, Outcome, TrainerFn
from raylight.engine import cluster, homeward
from raylight.engine.actor import Attempt, Membership, Parcel, WorkerActor, WorkerInfo
from raylight.engine.base import Sink
from raylight.engine.following import Following, WorkersLostError
from raylight.engine.interrupt import graceful_interrupt
from raylight.engine.recovery import Incidents, Listener, SnapshotKeeper
from raylight.engine.surroundings import Surroundings
from raylight.utilities.exceptions import ResourceError, WorkerError
from raylight.worker.evaluation import in_dataset_order

SECONDS_TO_ANSWER = 10.0
CONTROL_THREADS = 6
"""Of a worker, for questions while it runs: two wait for news of it, the others answer at once."""
REPLACEMENTS = 5
"""Attempts to replace lost workers, before the call is given up."""
SECONDS_TO_START = 60.0
"""For a worker that takes a lost one's place, once there is room for it."""


class WorkerPool:
    """Worker processes for one placement, started once and kept for further jobs.

    Args:
        placement: How many, where, with what.
        resource_timeout: Seconds to wait for the cluster to have room.
        idle_timeout: Seconds without a job after which the workers are let go.
    """

    def __init__(self, placement: Placement, resource_timeout: float, idle_timeout: float) -> None:
        self.placement = placement
        self.idle_timeout = idle_timeout
        self._resource_timeout = resource_timeout
        self._group: Any = None
        """The placement group that is given back in the end; None in a trial of Ray Tune, which has one."""
        self._trials_group: Any = None
        """That of the trial."""
        self._workers: list[Any] = []
        """Actor handles, by global rank."""
        self._bundles: list[int] = []
        """Their bundles in the placement group, by global rank."""
        self._infos: list[WorkerInfo] = []
        self._gpus: dict[int, tuple[int, ...]] = {}
        """GPUs of the worker in a bundle."""
        self._spares: list[tuple[Any, Any]] = []
        """Processes that wait to take a lost one's place, each with a reference to its WorkerInfo."""
        self._idle_timer: threading.Timer | None = None
        self._num_attempts = 0
        self.busy = False
        """A job is at work, and no worker of it is being replaced."""
        self._session = ray.get_runtime_context().get_job_id()
        """The connection to Ray that the workers belong to."""
        try:
            self._start()
        except BaseException:
            self.shutdown()
            raise

    @property
    def alive(self) -> bool:
        """Whether jobs can run: the cluster is still the same, and all workers answer."""
        if not self._workers or not ray.is_initialized() or self._session != ray.get_runtime_context().get_job_id():
            return False
        pings = [worker.ping.options(concurrency_group="control").remote() for worker in self._workers]
        try:
            ray.get(pings, timeout=SECONDS_TO_ANSWER)
        except (RayActorError, GetTimeoutError):
            return False
        return True

    # ------------------------------------------------------------------------------------------------ start

    def _start(self) -> None:
        trials_group = get_current_placement_group()
        if trials_group is None:
            self._group, self._bundles = self._reserve()
        else:
            self._trials_group = trials_group
            self._bundles = cluster.bundles_of_trial(trials_group, self.placement)
        self._workers = [self._make_actor(bundle) for bundle in self._bundles]
        self._join()

    def _join(self) -> None:
        """All processes are there: give each its rank, and make the process group."""
        booting = [worker.boot.remote() for worker in self._workers]
        done, late = ray.wait(booting, num_returns=len(booting), timeout=self._resource_timeout + SECONDS_TO_START)
        if late:
            raise ResourceError(
                f"{len(late)} of {len(booting)} workers could not be started within "
                f"{self._resource_timeout + SECONDS_TO_START:g} s: is there room for them, on the nodes that are left?"
            )
        infos: list[WorkerInfo] = ray.get(booting)
        infos = [self._with_gpus(info, bundle) for info, bundle in zip(infos, self._bundles, strict=True)]
        order = _rank_order(infos)
        self._workers = [self._workers[i] for i in order]
        self._bundles = [self._bundles[i] for i in order]
        self._infos = [infos[i] for i in order]
        members = memberships(self._infos, self.placement)
        share = int(self.placement.resources.get("CPU", 1))
        threads = [  # another trial's workers may be on the same node
            max(1, share if self._trials_group is not None else info.cores // member.local_world_size)
            for info, member in zip(self._infos, members, strict=True)
        ]
        joined = [w.join.remote(m, t) for w, m, t in zip(self._workers, members, threads, strict=True)]
        ray.get(joined)

    def _with_gpus(self, info: WorkerInfo, bundle: int) -> WorkerInfo:
        """A spare has no GPU of its own: it takes those of the worker whose place it takes."""
        if info.gpu_ids:
            self._gpus[bundle] = info.gpu_ids
        return dataclasses.replace(info, gpu_ids=self._gpus.get(bundle, ()))

    def _reserve(self) -> tuple[Any, list[int]]:
        """A placement group of this pool's own, and the bundle of each worker."""
        placement = self.placement
        nodes, per_node = placement.num_nodes, placement.num_workers // placement.num_nodes
        # One bundle per worker; several nodes: one bundle per node, so that Ray cannot put them together.
        if nodes > 1:
            node_resources = {name: amount * per_node for name, amount in placement.resources.items()}
            group = placement_group([node_resources] * nodes, strategy="STRICT_SPREAD", name="raylight")
        else:
            group = placement_group([placement.resources] * placement.num_workers, "PACK", name="raylight")
        self._group = group  # from now on shutdown() gives it back
        cluster.wait_for_room(group, placement, self._resource_timeout)
        return group, [i // per_node if nodes > 1 else i for i in range(placement.num_workers)]

    def _make_actor(self, bundle: int, spare: bool = False) -> Any:
        """A process in a bundle of the placement group; a spare one takes none of its resources."""
        resources = {} if spare else dict(self.placement.resources)
        group = self._group if self._trials_group is None else self._trials_group
        options: dict[str, Any] = {
            "num_cpus": resources.pop("CPU", 0),
            "num_gpus": resources.pop("GPU", 0),
            "memory": resources.pop("memory", None),
            "resources": resources,
            "concurrency_groups": {"control": CONTROL_THREADS},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, bundle),
        }
        # No runtime_env: with one, Ray could not use the processes that it has started in advance.
        return ray.remote(**options)(WorkerActor).remote()

    # ------------------------------------------------------------------------------------------------ lost workers

    def keep_spares(self, count: int) -> None:
        """Have ``count`` processes ready to take the place of lost ones, on the workers' nodes in turn."""
        while len(self._spares) > count:
            ray.kill(self._spares.pop()[1])
        for number in range(len(self._spares), count):
            bundle = self._bundles[number % len(self._bundles)]
            spare = self._make_actor(bundle, spare=True)
            self._spares.append((spare.prepare.remote(), spare))

    def _replace(self, dead: set[int]) -> None:
        """The others leave the broken process group; new processes take the places of the dead; all meet again."""
        living = [worker for rank, worker in enumerate(self._workers) if rank not in dead]
        ray.get([worker.leave.remote() for worker in living], timeout=SECONDS_TO_ANSWER)
        for rank in dead:
            ray.kill(self._workers[rank])
            self._workers[rank] = self._take_spare(self._infos[rank].node_id) or self._make_actor(self._bundles[rank])
        self._join()

    def _take_spare(self, node_id: str) -> Any:
        """A spare process on the node; None where there is none that lives."""
        for place in list(self._spares):
            booting, spare = place
            try:
                here = ray.get(booting, timeout=SECONDS_TO_ANSWER).node_id == node_id
            except (RayActorError, GetTimeoutError):
                self._spares.remove(place)
                continue
            if here:
                self._spares.remove(place)
                return spare
        return None

    # ------------------------------------------------------------------------------------------------ jobs

    def execute(self, job: Job, sink: Sink) -> Outcome:
        """Runs on the driver: do the Job on all workers and return rank 0's outcome."""
        self.keep_spares(job.config.spare_workers)
        self.busy = True
        try:
            outcomes = self._persist(job, sink)
        except BaseException:
            self.shutdown()
            raise
        finally:
            self.busy = False
        self._start_idle_timer()
        outcome = outcomes[0]
        homeward.unpack(outcome, job)
        if outcome.predictions is not None:
            outcome.predictions = in_dataset_order([outcomes[rank].predictions or [] for rank in sorted(outcomes)])
        return outcome

    def _persist(self, job: Job, sink: Sink) -> dict[int, Outcome]:
        """Attempts, until one is not ended by the loss of a worker, or there were too many of these."""
        most, fitting = job.config.max_failures, job.fn == TrainerFn.FITTING
        listener, incidents = Listener(sink), Incidents(most, sink)
        listener.goes_on = functools.partial(self._goes_on, incidents)
        snapshots = SnapshotKeeper() if most and fitting else None
        stop = threading.Event()
        parcel, began, redone_since = ray.put(_pack(job)), time.time(), None
        with graceful_interrupt(stop.set) if fitting else contextlib.nullcontext():
            while True:
                parts = snapshots.newest if snapshots is not None else []
                listener.start(parts[0].moment.records if parts else 0)
                try:
                    outcomes = self._attempt(parcel, job, listener, snapshots, redone_since, stop)
                except WorkersLostError as lost:
                    self._recover(lost, incidents)
                    redone_since = snapshots.newest[0].moment.wall_time if snapshots and snapshots.newest else began
                else:
                    incidents.close(outcomes[0].state.global_step)
                    return outcomes

    def _attempt(
        self,
        parcel: Any,
        job: Job,
        listener: Listener,
        snapshots: SnapshotKeeper | None,
        redone_since: float | None,
        stop: threading.Event,
    ) -> dict[int, Outcome]:
        self._num_attempts += 1
        attempt = Attempt(self._num_attempts, snapshots is not None, redone_since)
        parts = [part.content for part in snapshots.newest] if snapshots is not None else []
        running = {
            worker.execute.remote(parcel, attempt, *((parts[rank], parts[0]) if parts else (None, None))): rank
            for rank, worker in enumerate(self._workers)
        }
        if snapshots is not None:
            snapshots.start(self._workers)
        timeout = job.config.hang_timeout
        return Following(self._workers, self._infos, attempt.number, listener, snapshots, timeout).run(running, stop)

    def _recover(self, lost: WorkersLostError, incidents: Incidents) -> None:
        """Put the pool together again.

        Raises:
            WorkerError: There have been too many failures.
        """
        self.busy = False
        incidents.take(lost.error)
        dead = lost.dead
        for _ in range(REPLACEMENTS):
            try:
                self._replace(dead)
                return
            except RayError as error:  # such as a worker on a node whose loss Ray has not noticed yet
                dead, further = self._dead(), error
        reason = str(further).partition("\n")[0]
        raise WorkerError(f"A lost worker could not be replaced: {reason}") from further

    def _goes_on(self, incidents: Incidents, step: int) -> None:
        self.busy = True
        incidents.close(step)

    def _dead(self) -> set[int]:
        """Ranks whose processes do not answer."""
        pings = [worker.ping.options(concurrency_group="control").remote() for worker in self._workers]
        ready, _ = ray.wait(pings, num_returns=len(pings), timeout=SECONDS_TO_ANSWER)
        dead = set()
        for rank, ping in enumerate(pings):
            try:
                if ping not in ready:
                    raise GetTimeoutError
                ray.get(ping)
            except (RayError, GetTimeoutError):
                dead.add(rank)
        return dead

    # ------------------------------------------------------------------------------------------------ end

    def shutdown(self) -> None:
        """Runs on the driver: end all worker processes and give back their resources. May be called again."""
        self.keep()
        workers, self._workers = self._workers, []
        spares, self._spares = self._spares, []
        group, self._group = self._group, None
        if not ray.is_initialized() or self._session != ray.get_runtime_context().get_job_id():
            return  # they ended with their cluster, or with the connection to it
        for worker in [*workers, *(spare for _, spare in spares)]:
            ray.kill(worker)
        if group is not None:
            remove_placement_group(group)  # ends actors that were still starting, too

    def _start_idle_timer(self) -> None:
        self._idle_timer = threading.Timer(self.idle_timeout, self._expire)
        self._idle_timer.daemon = True
        self._idle_timer.start()

    def _expire(self) -> None:
        with _lock:
            if self._idle_timer is not None:  # else a job came first
                self.shutdown()

    def keep(self) -> None:
        """A job is coming: the idle time is over."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None


class PoolEngine:
    """Jobs on the pool that this process keeps. Trainers that need the same placement share its workers."""

    def __init__(self, placement: Placement, resource_timeout: float, idle_timeout: float) -> None:
        self._placement = placement
        self._resource_timeout = resource_timeout
        self._idle_timeout = idle_timeout

    def execute(self, job: Job, sink: Sink) -> Outcome:
        return self.pool().execute(job, sink)

    def pool(self) -> WorkerPool:
        """The warm pool, or a new one in its place if there is none or it is of another kind."""
        global _pool
        with _lock:
            if _pool is not None and (not _pool.alive or _pool.placement != self._placement):
                _pool.shutdown()
                _pool = None
            if _pool is None:
                _pool = WorkerPool(self._placement, self._resource_timeout, self._idle_timeout)
            _pool.keep()
            _pool.idle_timeout = self._idle_timeout
            return _pool

    def shutdown(self) -> None:
        shutdown()


def workers_at_work() -> list[WorkerInfo]:
    """Runs on the driver: the processes that are doing a job of this process's, by rank."""
    return list(_pool._infos) if _pool is not None and _pool.busy else []


def release() -> None:
    """Runs on the driver: end this process's idle workers, so that others can have their resources."""
    global _pool
    with _lock:
        if _pool is not None:
            _pool.shutdown()
            _pool = None


_pool: WorkerPool | None = None
_lock = threading.Lock()


def shutdown() -> None:
    """Runs on the driver: end this process's workers, and the cluster if it was started here."""
    release()
    cluster.disconnect()


atexit.register(shutdown)


def _rank_order(infos: list[WorkerInfo]) -> list[int]:
    """Positions of ``infos`` by rank: the driver's node first, nodes together, GPUs in their order."""
    here = ray.get_runtime_context().get_node_id()
    first_seen = {info.node_id: i for i, info in reversed(list(enumerate(infos)))}

    def place(i: int) -> tuple[bool, int, tuple[int, ...], int]:
        return infos[i].node_id != here, first_seen[infos[i].node_id], infos[i].gpu_ids, i

    return sorted(range(len(infos)), key=place)


def memberships(infos: list[WorkerInfo], placement: Placement) -> list[Membership]:
    """Each worker's place; ``infos`` in rank order."""
    nodes = list(dict.fromkeys(info.node_id for info in infos))
    local: dict[str, int] = dict.fromkeys(nodes, 0)
    members = []
    for rank, info in enumerate(infos):
        neighbours = [other for other in infos if other.node_id == info.node_id]
        members.append(
            Membership(
                global_rank=rank,
                local_rank=local[info.node_id],
                node_rank=nodes.index(info.node_id),
                world_size=len(infos),
                local_world_size=len(neighbours),
                master=infos[0].host,
                port=infos[0].port,
                backend=placement.backend,
                gpu_ids=tuple(sorted({gpu for other in neighbours for gpu in other.gpu_ids})),
                own_gpu=info.gpu_ids[0] if info.gpu_ids and placement.device_type == "cuda" else None,
            )
        )
        local[info.node_id] += 1
    return members


def _pack(job: Job) -> Parcel:
    return Parcel(
        job=ray.cloudpickle.dumps(job),
        surroundings=Surroundings.here(),
        node_id=ray.get_runtime_context().get_node_id(),
    )
