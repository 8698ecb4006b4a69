"""WorkerPool: warm worker processes on a Ray cluster, one per device, joined in one process group."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util import get_current_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raylight.config.accelerators import Placement
from raylight.config.messages import Event, Job, Outcome, Report, TrainerFn
from raylight.engine import cluster, homeward
from raylight.engine.actor import Membership, Parcel, WorkerActor, WorkerInfo
from raylight.engine.base import Sink
from raylight.engine.failures import Failure, revive
from raylight.engine.interrupt import graceful_interrupt
from raylight.engine.surroundings import Surroundings
from raylight.utilities.exceptions import WorkerError
from raylight.worker.evaluation import in_dataset_order

POLL_SECONDS = 0.2
EVENT_WAIT_SECONDS = 1.0
SECONDS_TO_ANSWER = 10.0
LAST_WORDS_SECONDS = 0.3
"""After a failure, how long rank 0 may take to tell what happened before it."""
SECONDS_FOR_ROOT_CAUSE = 2.0
"""After the first failure, how long the others may take to show which was the cause."""


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
        self._group: Any = None
        """The placement group that is given back in the end; None in a trial of Ray Tune, which has one."""
        self._workers: list[Any] = []
        """Actor handles, by global rank."""
        self._infos: list[WorkerInfo] = []
        self._idle_timer: threading.Timer | None = None
        self._num_jobs = 0
        self._session = ray.get_runtime_context().get_job_id()
        """The connection to Ray that the workers belong to."""
        try:
            self._start(resource_timeout)
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

    def _start(self, resource_timeout: float) -> None:
        placement = self.placement
        trials_group = get_current_placement_group()
        if trials_group is None:
            self._group, bundles = self._reserve(resource_timeout)
        else:
            bundles = cluster.bundles_of_trial(trials_group, placement)
        actors = [self._make_actor(self._group or trials_group, bundle) for bundle in bundles]
        infos: list[WorkerInfo] = ray.get([actor.boot.remote() for actor in actors])
        order = _rank_order(infos)
        self._workers = [actors[i] for i in order]
        self._infos = [infos[i] for i in order]
        members = memberships(self._infos, placement)
        share = int(placement.resources.get("CPU", 1))
        threads = [  # another trial's workers may be on the same node
            max(1, share if trials_group is not None else info.cores // member.local_world_size)
            for info, member in zip(self._infos, members, strict=True)
        ]
        joined = [w.join.remote(m, t) for w, m, t in zip(self._workers, members, threads, strict=True)]
        ray.get(joined)

    def _reserve(self, resource_timeout: float) -> tuple[Any, list[int]]:
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
        cluster.wait_for_room(group, placement, resource_timeout)
        return group, [i // per_node if nodes > 1 else i for i in range(placement.num_workers)]

    def _make_actor(self, group: Any, bundle: int) -> Any:
        resources = dict(self.placement.resources)
        options: dict[str, Any] = {
            "num_cpus": resources.pop("CPU", 0),
            "num_gpus": resources.pop("GPU", 0),
            "memory": resources.pop("memory", None),
            "resources": resources,
            "concurrency_groups": {"control": 2},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, bundle),
        }
        # No runtime_env: with one, Ray could not use the processes that it has started in advance.
        return ray.remote(**options)(WorkerActor).remote()

    # ------------------------------------------------------------------------------------------------ jobs

    def execute(self, job: Job, sink: Sink) -> Outcome:
        """Runs on the driver: do the Job on all workers and return rank 0's outcome."""
        self._num_jobs += 1
        stop = threading.Event()
        try:
            parcel = ray.put(_pack(job, self._num_jobs))
            running = {worker.execute.remote(parcel): rank for rank, worker in enumerate(self._workers)}
            with graceful_interrupt(stop.set) if job.fn == TrainerFn.FITTING else contextlib.nullcontext():
                outcomes = self._follow(running, sink, stop)
        except BaseException:
            self.shutdown()
            raise
        self._start_idle_timer()
        outcome = outcomes[0]
        homeward.unpack(outcome, job)
        if outcome.predictions is not None:
            outcome.predictions = in_dataset_order([outcomes[rank].predictions or [] for rank in sorted(outcomes)])
        return outcome

    def _follow(self, running: dict[Any, int], sink: Sink, stop: threading.Event) -> dict[int, Outcome]:
        """Wait for all ranks in short turns, passing events on; ``stop`` is looked at between two turns."""
        outcomes: dict[int, Outcome] = {}
        events = self._ask_for_events()
        waiting = dict(running)
        while waiting:
            ready, _ = ray.wait([*waiting, events], num_returns=1, timeout=POLL_SECONDS)
            for ref in ready:
                if ref is events:
                    events = self._pass_on(events, sink)
                    continue
                rank = waiting.pop(ref)
                result = self._get(ref, rank)
                if not isinstance(result, Outcome):
                    cause = self._root_cause([result, *self._other_failures(result, waiting)])
                    with contextlib.suppress(Exception):  # the cause matters more
                        self._drain(events, sink, LAST_WORDS_SECONDS)
                    raise cause
                outcomes[rank] = result
            if stop.is_set():
                stop.clear()
                self._stop_gracefully()
        self._drain(events, sink)
        return outcomes

    def _ask_for_events(self, seconds: float = EVENT_WAIT_SECONDS) -> Any:
        return self._workers[0].events.options(concurrency_group="control").remote(seconds)

    def _pass_on(self, events: Any, sink: Sink) -> Any:
        try:
            self._take(ray.get(events), sink)
        except RayActorError:
            return ray.put([])  # rank 0 is gone: its execute tells how
        return self._ask_for_events()

    def _drain(self, events: Any, sink: Sink, seconds: float | None = None) -> None:
        """Fetch what rank 0 has left to say, waiting ``seconds`` at most for an answer."""
        for answer in (events, self._ask_for_events(0.0)):
            if ray.wait([answer], timeout=seconds)[0]:
                self._take(ray.get(answer), sink)

    def _take(self, events: list[Event], sink: Sink) -> None:
        for event in events:
            answer = sink(event)
            if isinstance(event, Report):
                self._workers[0].answer.options(concurrency_group="control").remote(bool(answer))

    def _get(self, ref: Any, rank: int) -> Outcome | Failure | WorkerError:
        try:
            result: Outcome | Failure = ray.get(ref)
            return result
        except RayActorError as error:
            info = self._infos[rank]
            lost = WorkerError(
                f"The worker of rank {rank} (pid {info.pid} on node {info.host}) is gone: {_reason(error)} "
                "It may have been killed, by the operating system for want of memory for one. "
                "Continue from a checkpoint with fit(ckpt_path='last').",
                rank,
                info.host,
            )
            lost.__cause__ = error
            return lost

    def _other_failures(self, first: Any, others: dict[Any, int]) -> list[Any]:
        """What else has failed by now; awaited only where the first failure looks like a consequence."""
        patience = SECONDS_FOR_ROOT_CAUSE if isinstance(first, Failure) and first.is_collateral else 0.0
        deadline = time.monotonic() + patience
        waiting, failures = dict(others), []
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            result = self._get(ready[0], waiting.pop(ready[0]))
            if not isinstance(result, Outcome):
                failures.append(result)
                if not (isinstance(result, Failure) and result.is_collateral):
                    break
        return failures

    def _root_cause(self, failures: list[Failure | WorkerError]) -> BaseException:
        """The user's exception before a lost worker, a lost worker before what that caused in the others."""

        def blame(failure: Failure | WorkerError) -> int:
            return 1 if isinstance(failure, WorkerError) else 2 if failure.is_collateral else 0

        cause = min(failures, key=blame)
        return cause if isinstance(cause, WorkerError) else revive(cause)

    def _stop_gracefully(self) -> None:
        """Let all ranks stop before the same batch; see ``StopRequest``."""
        job = self._num_jobs
        held = [worker.hold.options(concurrency_group="control").remote(job) for worker in self._workers]
        with contextlib.suppress(RayActorError):  # a rank is gone: its execute tells how
            batch = max(ray.get(held))
            for worker in self._workers:
                worker.stop_at.options(concurrency_group="control").remote(job, batch)

    # ------------------------------------------------------------------------------------------------ end

    def shutdown(self) -> None:
        """Runs on the driver: end all worker processes and give back their resources. May be called again."""
        self.keep()
        workers, self._workers = self._workers, []
        group, self._group = self._group, None
        if not ray.is_initialized() or self._session != ray.get_runtime_context().get_job_id():
            return  # they ended with their cluster, or with the connection to it
        for worker in workers:
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


def _pack(job: Job, number: int) -> Parcel:
    return Parcel(
        number=number,
        job=ray.cloudpickle.dumps(job),
        surroundings=Surroundings.here(),
        node_id=ray.get_runtime_context().get_node_id(),
    )


def _reason(error: RayActorError) -> str:
    text = str(error)
    marker = "The actor is dead because "
    return text.partition(marker)[2].split("\n")[0] if marker in text else text.split("\n")[0]
