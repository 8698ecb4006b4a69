"""WorkerPool: warm worker processes on a Ray cluster, one per device, joined in one process group."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import threading
import time
from collections.abc import Iterable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from raylight.config.accelerators import Placement
from raylight.config.messages import Job, Outcome, TrainerFn
from raylight.engine import cluster, homeward, own_classes, ray_data, user_modules
from raylight.engine.actor import Attempt, Membership, Parcel, WorkerInfo
from raylight.engine.base import Sink
from raylight.engine.cluster_watch import ClusterWatch
from raylight.engine.following import Following, RegroupError, WorkersLostError
from raylight.engine.home_files import Home, start_server
from raylight.engine.interrupt import StopWish, graceful_interrupt
from raylight.engine.membership import memberships, rank_order
from raylight.engine.moves import Moves
from raylight.engine.recovery import Incidents, Listener, SnapshotKeeper
from raylight.engine.seats import Seat, Seats
from raylight.engine.surroundings import Surroundings
from raylight.utilities.exceptions import ResourceError, WorkerError

REPLACEMENTS = 5
"""Attempts to replace lost workers, before the call is given up."""
SECONDS_TO_ANSWER = 10.0
SECONDS_TO_START = 60.0
"""For a worker that takes a lost one's place, once there is room for it."""


class WorkerPool:
    """Worker processes for one placement, started once and kept for further jobs.

    Args:
        placement: How many, where, with what.
        resource_timeout: Seconds to wait for the cluster to have room.
        idle_timeout: Seconds without a job after which the workers are let go.
        elastic_wait: Seconds to wait for a lost worker's successor before fewer go on, where their number may change.
    """

    def __init__(
        self, placement: Placement, resource_timeout: float, idle_timeout: float, elastic_wait: float = 0.0
    ) -> None:
        self.placement = placement
        self.idle_timeout = idle_timeout
        self.elastic_wait = elastic_wait
        self._resource_timeout = resource_timeout
        self._places = Seats(placement, resource_timeout)
        self._seats: list[Seat] = []
        """Of the workers, by global rank."""
        self._bench: list[Seat] = []
        """Of processes that are to join them: there is no room for them yet, or they are starting."""
        self._moves = Moves(placement)
        self._server: Any = None
        """See ``_home_server``."""
        self._idle_timer: threading.Timer | None = None
        self._num_attempts = 0
        self._feeds: list[ray_data.Feed] = []
        """The Datasets of the job at work."""
        self.busy = False
        """A job is at work, and no worker of it is being replaced."""
        self._watch = ClusterWatch()
        self._session = cluster.session()
        """The connection to Ray that the workers belong to."""
        try:
            self._start()
        except BaseException:
            self.shutdown()
            raise

    @property
    def workers(self) -> list[Any]:
        """Actor handles, by global rank."""
        return [seat.worker for seat in self._seats]

    @property
    def infos(self) -> list[WorkerInfo]:
        """By global rank."""
        return [seat.info for seat in self._seats if seat.info is not None]

    @property
    def alive(self) -> bool:
        """Whether jobs can run: the cluster is still the same, and all workers answer."""
        if not self._seats or self._session != cluster.session():
            return False
        pings = [worker.ping.options(concurrency_group="control").remote() for worker in self.workers]
        try:
            ray.get(pings, timeout=SECONDS_TO_ANSWER)
        except (RayActorError, GetTimeoutError):
            return False
        return True

    # ------------------------------------------------------------------------------------------------ start

    def _start(self) -> None:
        self._seats = self._places.take()
        missing = self.placement.num_workers - len(self._seats)
        self._bench = [self._places.add() for _ in range(missing)]
        ranks = self._seat(len(self._seats), SECONDS_TO_START)
        try:
            self._meet(*ranks)
        except RayTaskError as error:
            raise WorkerError(
                f"The workers do not reach each other: {error.cause}. Their nodes must be open to each other on all "
                "TCP ports, and each be known to Ray by an address that the others can reach (`ray start "
                "--node-ip-address`). `raylight doctor` tries all of them."
            ) from error

    def _join(self, wanted: int, patience: float) -> None:
        """Processes that are there get ranks and make the process group; see ``_seat``."""
        self._meet(*self._seat(wanted, patience))

    def _seat(self, wanted: int, patience: float) -> tuple[list[Membership], list[int]]:
        """Processes that are there get ranks; others, and those that are too many, wait.

        Args:
            wanted: Workers.
            patience: Seconds to wait for them, where fewer would do.

        Returns:
            By rank, the places, and how many threads torch shall have.
        """
        there = self._those_there(wanted, patience)
        chosen = there[: next(size for size in self.placement.sizes if size <= len(there))]
        self._bench = [seat for seat in (*self._seats, *self._bench) if seat not in chosen]
        self._seats = chosen
        for seat in self._bench[max(0, self.placement.num_workers - len(chosen)) :]:  # no use for more
            self._bench.remove(seat)
            self._places.leave(seat)
        infos: list[WorkerInfo] = ray.get([seat.ask() for seat in chosen])
        for seat, info in zip(chosen, infos, strict=True):
            seat.gpus = info.gpu_ids or seat.gpus
            seat.info = dataclasses.replace(info, gpu_ids=seat.gpus)
        self._seats = [chosen[i] for i in rank_order(self.infos)]
        members = memberships(self.infos, self.placement)
        share = int(self.placement.resources.get("CPU", 1))
        threads = [  # another trial's workers may be on the same node
            max(1, share if self._places.in_trial else info.cores // member.local_world_size)
            for info, member in zip(self.infos, members, strict=True)
        ]
        return members, threads

    def _meet(self, members: list[Membership], threads: list[int]) -> None:
        """All workers make a process group."""
        port = ray.get(self.workers[0].open_store.remote(len(members)))
        ray.get([w.join.remote(m, port, t) for w, m, t in zip(self.workers, members, threads, strict=True)])

    def _those_there(self, wanted: int, patience: float) -> list[Seat]:
        """Seats whose processes are there, those of the workers first.

        Raises:
            ResourceError: They are too few.
            RayError: A worker is gone.
        """
        longest = self._resource_timeout + SECONDS_TO_START
        everyone = [*self._seats, *self._bench]
        booting = [seat.ask() for seat in everyone]
        least = self.placement.sizes[-1]
        ray.wait(booting, num_returns=wanted, timeout=patience if self.placement.fewer else longest)
        there = [seat for seat in everyone if self._is_there(seat)]
        if len(there) < least:
            ray.wait([seat.ask() for seat in everyone], num_returns=least, timeout=longest)
            there = [seat for seat in everyone if self._is_there(seat)]
        if len(there) < least:
            raise ResourceError(
                f"{least - len(there)} of {least} workers could not be started within {longest:g} s: is there room for "
                "them, on the nodes that are left?"
            )
        return there

    def _is_there(self, seat: Seat) -> bool:
        if not seat.is_ready:
            return False
        try:
            ray.get(seat.ask())
            if seat in self._bench:  # it may be gone since
                ping = seat.worker.ping.options(concurrency_group="control")
                ray.get(ping.remote(), timeout=SECONDS_TO_ANSWER)
        except RayError:
            if seat in self._seats:
                raise
            self._places.renew(seat)  # another may come
            return False
        return True

    # ------------------------------------------------------------------------------------------------ other workers

    def _replace(self, dead: set[int]) -> None:
        """New processes take the places of the dead; the others leave the broken process group; all meet again."""
        for rank in dead:  # first, as they take seconds to start
            self._places.renew(self._seats[rank])
        self._leave_group(seat for rank, seat in enumerate(self._seats) if rank not in dead)
        self._join(len(self._seats), self.elastic_wait)

    def _shall_regroup(self) -> bool:
        """Whether the run should go on with other workers, more of them or on other nodes."""
        if not self._moves.is_time() or not self._watch.is_there():  # Ray would wait for a head that is not
            return False
        for _ in self._moves.look(self._seats):
            self._bench.append(self._places.add())
        ready = [seat for seat in self._bench if self._is_there(seat)]
        return self._moves.are_due(self._seats, ready, self.elastic_wait)

    def _regroup(self, incidents: Incidents, spares: int) -> None:
        self.busy, since = False, time.monotonic()
        try:
            incidents.note(self._change_workers(), since)
        except RayError as error:  # one that was there a moment ago
            reason = WorkerError(f"A worker was lost while others joined: {_first_line(error)}")
            self._recover(WorkersLostError(reason, self._dead()), incidents, spares)

    def _change_workers(self) -> str:
        """Between two attempts: take those that are there, and leave nodes that are about to end; what has changed."""
        before = len(self._seats)
        self._leave_group(self._seats)
        going = [seat for seat in self._seats if self._moves.leaves(seat)]
        self._seats = [seat for seat in self._seats if seat not in going]
        try:
            self._join(min(before, len(self._seats) + len(self._bench)), self.elastic_wait)
        finally:
            for seat in going:
                self._places.leave(seat)
        hosts = sorted({seat.info.host for seat in going if seat.info is not None})
        texts = [f"Node {host} is about to end: its workers have left it." for host in hosts]
        if len(self._seats) != before:
            texts.append(self._tell_size(before))
        return " ".join(texts)

    def _tell_size(self, before: int) -> str:
        now = len(self._seats)
        return f"The run goes on with {now} worker{'s' if now > 1 else ''}; it had {before}."

    def _leave_group(self, seats: Iterable[Seat]) -> None:
        ray.get([seat.worker.leave.remote() for seat in seats], timeout=SECONDS_TO_ANSWER)

    # ------------------------------------------------------------------------------------------------ jobs

    def execute(self, job: Job, sink: Sink) -> Outcome:
        """Runs on the driver: do the Job on all workers and return rank 0's outcome."""
        try:
            self._places.keep_spares(job.config.spare_workers, self._seats)
            if self._shall_regroup():
                self._change_workers()
            if ray_data.has_dataset(job.data):
                cluster.wait_for_tasks(self.placement, self._resource_timeout)
            self.busy = True
            data, self._feeds = ray_data.take_out(job)
            packed = _pack(dataclasses.replace(job, data=data))
            with own_classes.stay():
                outcomes = self._persist(job, packed, sink)
        except BaseException:
            self.shutdown()
            raise
        finally:
            self.busy = False
        self._start_idle_timer()
        outcome = outcomes[0]
        with own_classes.stay():
            homeward.unpack(outcome, job)
        if outcome.predictions is not None:
            outcome.predictions = ray_data.gathered([outcomes[rank].predictions or [] for rank in sorted(outcomes)])
        return outcome

    def _persist(self, job: Job, packed: Parcel, sink: Sink) -> dict[int, Outcome]:
        """Attempts, until one is not ended by the loss of a worker, or there were too many of these."""
        most, fitting = job.config.max_failures, job.fn == TrainerFn.FITTING
        listener, incidents = Listener(sink), Incidents(most, sink)
        listener.goes_on = functools.partial(self._goes_on, incidents)
        snapshots = SnapshotKeeper() if fitting and (most or self.placement.fewer) else None
        stop = StopWish()
        parcel, began, redone_since = ray.put(packed), time.time(), None
        spares = job.config.spare_workers
        with graceful_interrupt(stop.set, stop.terminate) if fitting else contextlib.nullcontext():
            while True:
                parts = snapshots.newest if snapshots is not None else []
                listener.start(parts[0].moment.records if parts else 0)
                try:
                    outcomes = self._attempt(parcel, job, listener, snapshots, redone_since, stop)
                except WorkersLostError as lost:
                    self._recover(lost, incidents, spares)
                except RegroupError:
                    self._regroup(incidents, spares)
                else:
                    incidents.close(outcomes[0].state.global_step)
                    outcomes[0].terminated = stop.terminates
                    return outcomes
                redone_since = snapshots.newest[0].moment.wall_time if snapshots and snapshots.newest else began

    def _attempt(
        self,
        parcel: Any,
        job: Job,
        listener: Listener,
        snapshots: SnapshotKeeper | None,
        redone_since: float | None,
        stop: StopWish,
    ) -> dict[int, Outcome]:
        self._num_attempts += 1
        parts = snapshots.newest if snapshots is not None else []
        home, running = Home(self._home_server(), job.root_dir), {}
        streams = [feed.streams(len(self._seats)) for feed in self._feeds]
        for rank, worker in enumerate(self.workers):
            own = tuple(sorted({0, *range(rank, len(parts), len(self._seats))})) if parts else ()
            ends = tuple(by_rank[rank] for by_rank in streams)
            attempt = Attempt(self._num_attempts, snapshots is not None, redone_since, home, own, len(parts), ends)
            running[worker.execute.remote(parcel, attempt, *(parts[part].content for part in own))] = rank
        if snapshots is not None:
            snapshots.start(self.workers, self.infos)
        close_data = functools.partial(ray_data.close, streams)
        following = Following(
            self.workers,
            self.infos,
            self._num_attempts,
            listener,
            snapshots,
            job.config.hang_timeout,
            self._shall_regroup,
            job.shows_pace,
            close_data=close_data,
            look_at_cluster=self._watch.look,
        )
        try:
            return following.run(running, stop)
        finally:
            close_data()
            home.remove_marker()

    def _home_server(self) -> Any:
        """What brings files of workers on other nodes to this one; None where all are here."""
        here = ray.get_runtime_context().get_node_id()
        if self._server is None and any(info.node_id != here for info in self.infos):
            self._server = start_server()
        return self._server

    def _recover(self, lost: WorkersLostError, incidents: Incidents, spares: int) -> None:
        """Put the pool together again, and have so many spare workers.

        Raises:
            WorkerError: There have been too many failures.
        """
        self.busy = False
        self._watch.wait(all_are_lost=len(lost.dead) == len(self._seats))
        incidents.take(lost.error)
        dead, before = lost.dead, len(self._seats)
        for _ in range(REPLACEMENTS):
            try:
                self._replace(dead)
                self._places.keep_spares(spares, self._seats)
                if len(self._seats) != before:
                    incidents.note(self._tell_size(before), time.monotonic())
                return
            except RayError as error:  # such as a worker on a node whose loss Ray has not noticed yet
                dead, further = self._dead(), error
        raise WorkerError(f"A lost worker could not be replaced: {_first_line(further)}") from further

    def _goes_on(self, incidents: Incidents, step: int) -> None:
        self.busy = True
        incidents.close(step)

    def _dead(self) -> set[int]:
        """Ranks whose processes do not answer."""
        pings = [worker.ping.options(concurrency_group="control").remote() for worker in self.workers]
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
        seats, self._seats, self._bench = [*self._seats, *self._bench], [], []
        if self._session != cluster.session():
            return  # they ended with their cluster, or with the connection to it
        self._places.give_back(seats)
        if self._server is not None:
            ray.kill(self._server)
            self._server = None

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

    def __init__(
        self, placement: Placement, resource_timeout: float, idle_timeout: float, elastic_wait: float = 0.0
    ) -> None:
        self._placement = placement
        self._resource_timeout = resource_timeout
        self._idle_timeout = idle_timeout
        self._elastic_wait = elastic_wait

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
                _pool = WorkerPool(self._placement, self._resource_timeout, self._idle_timeout, self._elastic_wait)
            _pool.keep()
            _pool.idle_timeout, _pool.elastic_wait = self._idle_timeout, self._elastic_wait
            return _pool

    def shutdown(self) -> None:
        shutdown()


def workers_at_work() -> list[WorkerInfo]:
    """Runs on the driver: the processes that are doing a job of this process's, by rank."""
    return _pool.infos if _pool is not None and _pool.busy else []


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
cluster.call_before_restart(release)


def _first_line(error: RayError) -> str:
    return str(error).partition("\n")[0]


def _pack(job: Job) -> Parcel:
    surroundings = Surroundings.here()
    return Parcel(user_modules.dumps(job, surroundings.cwd), surroundings)
