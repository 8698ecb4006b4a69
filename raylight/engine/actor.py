"""The worker actor: one process of a pool, joined with the others in a process group, doing one Job after another."""

from __future__ import annotations

import collections
import datetime
import gc
import importlib
import logging
import os
import queue
import sys
import threading
import time
import traceback
from dataclasses import dataclass

import ray
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.utils.data import DataLoader

from raylight.checkpoint import storage
from raylight.config.messages import Event, Job, LoggerCall, Outcome, Report
from raylight.engine import by_value, homeward, network, ray_data, user_modules
from raylight.engine.failures import Failure, describe
from raylight.engine.gauges import Gauges
from raylight.engine.home_files import Home
from raylight.engine.pulse import Heartbeat
from raylight.engine.snapshots import Moment, Snapshot, Snapshots, Start
from raylight.engine.surroundings import Surroundings
from raylight.importing import without_garbage_collection
from raylight.utilities.rank_zero import package_log
from raylight.worker.control import LeaveFit, StopRequest
from raylight.worker.data import IN_ACTOR_VARIABLE
from raylight.worker.execute import execute
from raylight.worker.run import Run

COALESCE_SECONDS = 0.1
"""Events that come together within this time travel together."""
PAUSE_SECONDS = 0.1
"""Before an answer that there is nothing, where no run is under way: the driver asks again at once."""


@dataclass(frozen=True)
class WorkerInfo:
    """What a process tells of itself before it has a rank."""

    node_id: str
    host: str
    """IP address of its node."""
    pid: int
    gpu_ids: tuple[str, ...]
    """Numbers, or UUIDs where the node's own CUDA_VISIBLE_DEVICES has these."""
    cores: int


@dataclass(frozen=True)
class Membership:
    """A process's place among the workers."""

    global_rank: int
    local_rank: int
    node_rank: int
    world_size: int
    local_world_size: int
    master: str
    """Address of rank 0's node."""
    backend: str
    gpu_ids: tuple[str, ...]
    """Of all workers on this node, so that they can reach each other's memory."""
    own_gpu: str | None

    @property
    def ranks(self) -> dict[str, int]:
        names = ("global_rank", "local_rank", "node_rank", "world_size")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Parcel:
    """A Job, pickled once for all workers and attempts, and where it comes from."""

    job: bytes
    surroundings: Surroundings
    """What each rank would have around it if it had run the script itself."""


@dataclass(frozen=True)
class Attempt:
    """One of the times that a Job is begun."""

    number: int
    """Of all attempts that the driver has had these workers make."""
    takes_snapshots: bool
    redone_since: float | None
    """See ``Job``."""
    home: Home
    """Where local paths are."""
    parts: tuple[int, ...] = ()
    """Ranks whose parts of the snapshot to go on from are sent along, in their order."""
    former_world_size: int = 0
    """Parts in all."""
    streams: tuple[ray_data.Stream, ...] = ()
    """This rank's ends of the Datasets that were given to the call."""


@dataclass(frozen=True)
class Left:
    """What comes back from a rank that has left for a run of other workers."""

    batch: int
    """Of the snapshot that it has left with."""


class WorkerActor:
    """One worker. ``execute`` occupies it; the methods of the group "control" answer meanwhile.

    Args:
        name: Of the process: what Ray shows for it, on the dashboard and before each line that it prints.
        run_name: Of the run that it belongs to, in metrics.
    """

    def __init__(self, name: str = "raylight", run_name: str = "") -> None:
        self._name, self._run_name = name, run_name
        os.environ[IN_ACTOR_VARIABLE] = "1"
        package_log.setLevel(logging.WARNING)  # Ray would show each beside the driver's own
        by_value.install()
        self._membership: Membership | None = None
        self._store: TCPStore | None = None
        """Of rank 0: where the workers meet."""
        self._device = torch.device("cpu")
        self._stops: dict[int, StopRequest] = {}
        """By the job's number: a request may be here before the job is."""
        self._snapshots: Snapshots | None = None
        """Of the job at work."""
        self._run: Run | None = None
        """Likewise; for other threads to look at."""
        self._thread = 0
        """That does the jobs."""
        self._outbox = Outbox()
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._gauges = Gauges()

    def __repr__(self) -> str:
        return self._name  # Ray asks once, when there is no rank yet

    def prepare(self) -> WorkerInfo:
        """Import what torch otherwise does at the first optimizer, and tell where the process is."""
        with without_garbage_collection():
            importlib.import_module("torch._dynamo")
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        gc.freeze()  # modules stay: looking through them after each job takes a second and more
        return self.boot()

    def boot(self) -> WorkerInfo:
        """Runs in every worker: tell where it is."""
        context = ray.get_runtime_context()
        gpus = tuple(map(str, ray.get_gpu_ids()))
        host = ray.util.get_node_ip_address()
        return WorkerInfo(context.get_node_id(), host, os.getpid(), gpus, os.cpu_count() or 1)

    def leave(self) -> None:
        """Runs in every worker: out of the process group, of which others are lost, and without what it was doing."""
        if dist.is_initialized():
            dist.destroy_process_group()
        self._store = None
        self._free_memory()

    def open_store(self, world_size: int) -> int:
        """Runs in rank 0: the port at which it listens for the others to meet.

        It listens before they are told: one that finds nobody tries again after up to a second only.
        """
        self._store = TCPStore("localhost", 0, world_size, is_master=True, wait_for_workers=False)
        return int(self._store.port)

    def join(self, membership: Membership, port: int, threads: int) -> None:
        """Runs in every worker. Collective: take a rank and enter the process group.

        Args:
            port: Where rank 0 listens.
            threads: Of torch, within this process.
        """
        self._membership = member = membership
        os.environ.update(
            RANK=str(member.global_rank),
            LOCAL_RANK=str(member.local_rank),
            NODE_RANK=str(member.node_rank),
            WORLD_SIZE=str(member.world_size),
            LOCAL_WORLD_SIZE=str(member.local_world_size),
            MASTER_ADDR=member.master,
            MASTER_PORT=str(port),
        )
        # CUDA reads the variable once; after a change of workers a process keeps the GPU that it has.
        if member.own_gpu is not None and not torch.cuda.is_initialized():
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(member.gpu_ids)
            self._device = torch.device("cuda", member.gpu_ids.index(member.own_gpu))
            torch.cuda.set_device(self._device)
        torch.set_num_threads(threads)
        network.choose_device(ray.util.get_node_ip_address())
        store = self._store or TCPStore(member.master, port, member.world_size)
        dist.init_process_group(
            member.backend,
            store=store,
            rank=member.global_rank,
            world_size=member.world_size,
            timeout=datetime.timedelta(minutes=30),
        )

    def execute(self, parcel: Parcel, attempt: Attempt, *parts: Snapshot) -> Outcome | Failure | Left:
        """Runs in every worker. Collective: do a Job.

        Args:
            parts: Of the snapshot to go on from, those that ``attempt`` names; none: from the beginning.
        """
        result = self._execute(parcel, attempt, parts)
        if isinstance(result, Outcome):  # else the driver waits to put the pool together again
            self._free_memory()
        return result

    def _free_memory(self) -> None:
        gc.collect()  # model, trainer and run refer to each other
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _execute(self, parcel: Parcel, attempt: Attempt, parts: tuple[Snapshot, ...]) -> Outcome | Failure | Left:
        assert self._membership is not None
        member = self._membership
        self._thread = threading.get_ident()
        stop = self._stop_request(attempt.number)
        self._outbox.open()
        parcel.surroundings.adopt()
        storage.use_home(*attempt.home.files())
        self._snapshots = None
        try:
            job: Job = user_modules.loads(parcel.job)
            job.redone_since = attempt.redone_since
            self._snapshots = _snapshots(job, attempt, parts)
            parcel.surroundings.adopt_numbers()
            adapt = ray_data.in_worker(attempt.streams, member.world_size)
            snapshots, watch = self._snapshots, self._watch
            run, outcome = execute(job, member.ranks, self._device, self._emit, stop, snapshots, watch, adapt)
            return homeward.pack(run, outcome)
        except LeaveFit as left:
            return Left(left.batch)
        except BaseException as error:  # KeyboardInterrupt and SystemExit of the user's code travel as well
            return describe(error, member.global_rank, ray.util.get_node_ip_address(), os.getpid())
        finally:
            self._gauges.stop()
            if self._run is not None:
                _end_loader_processes(self._run)
            self._run = None
            storage.use_home(None)
            self._stops.pop(attempt.number)
            self._outbox.close()
            if self._snapshots is not None:
                self._snapshots.close()

    def _watch(self, run: Run) -> None:
        self._run = run
        assert run.throughput is not None
        self._gauges.start(run.throughput, self._tags(), self._device)

    def _tags(self) -> dict[str, str]:
        assert self._membership is not None
        rank, node = self._membership.global_rank, ray.util.get_node_ip_address()
        return {"run": self._run_name, "rank": str(rank), "node": node}

    # Control: answers while execute runs

    def ping(self) -> None:
        """Answer, to show that the process lives."""

    def events(self, seconds: float) -> list[Event]:
        """Events since the last call; waits up to ``seconds`` for the first."""
        return self._outbox.take(seconds)

    def next_snapshot(self, seconds: float) -> tuple[Moment | None, Snapshot | None]:
        """This rank's part of the next snapshot; waits up to ``seconds`` for it."""
        snapshots = self._snapshots
        if snapshots is None:  # the job is being unpickled
            time.sleep(PAUSE_SECONDS)
        snapshot = snapshots.next(seconds) if snapshots is not None else None
        return (None, None) if snapshot is None else (snapshot.moment, snapshot)

    def heartbeat(self) -> Heartbeat | None:
        """What the rank is at; None where it has not begun, or is done."""
        run = self._run
        if run is None:
            return None
        seen = sum(sum(evaluated.seen) for evaluated in list(run.eval_data.values()))
        where = run.metrics.hook or str(run.state.stage or run.state.fn)
        counted = run.throughput
        assert counted is not None
        return Heartbeat(
            run.state.total_batches + seen,
            run.state.global_step,
            where,
            taken=counted.batches,
            samples=counted.samples,
            waited=counted.waited,
            stepping=counted.stepping,
            at=counted.at,
        )

    def stack(self) -> str:
        """Where the thread that does the job is, from the first frame of the run on."""
        frame = sys._current_frames().get(self._thread)
        return "".join(traceback.format_stack(frame)) if frame is not None else ""

    def answer(self, verdict: bool) -> None:
        """What the driver says to this rank's Report."""
        self._answers.put(verdict)

    def hold(self, job: int) -> int:
        """First half of a graceful stop of the job of this number: the batch that this rank will wait at."""
        return self._stop_request(job).hold()

    def stop_at(self, job: int, batch: int, leaves: bool = False, terminates: bool = False) -> None:
        """Second half: the batch that all ranks stop at, or from which on they leave as soon as they can."""
        self._stop_request(job).stop_at(batch, leaves, terminates)

    def _emit(self, event: Event) -> bool | None:
        self._outbox.put(event)
        return self._answers.get() if isinstance(event, Report) else None

    def _stop_request(self, job: int) -> StopRequest:
        return self._stops.setdefault(job, StopRequest())


class Outbox:
    """Events of a run, until the driver fetches them."""

    def __init__(self) -> None:
        self._events: collections.deque[Event] = collections.deque()
        self._arrived = threading.Event()
        self._run_is_over = threading.Event()

    def put(self, event: Event) -> None:
        if isinstance(event, LoggerCall):  # what it was given, such as a weight, may change before it travels
            event = ray.cloudpickle.loads(ray.cloudpickle.dumps(event))
        self._events.append(event)
        self._arrived.set()

    def open(self) -> None:
        """A run begins, without what an earlier one has left."""
        self._events.clear()
        self._run_is_over.clear()

    def close(self) -> None:
        """The run is over: whoever waits for events need not wait for more."""
        self._run_is_over.set()
        self._arrived.set()

    def take(self, seconds: float) -> list[Event]:
        """Events since the last call; waits up to ``seconds`` for the first, and a little for those that follow."""
        if self._arrived.wait(min(seconds, PAUSE_SECONDS) if self._run_is_over.is_set() else seconds):
            self._run_is_over.wait(COALESCE_SECONDS)
        self._arrived.clear()
        return [self._events.popleft() for _ in range(len(self._events))]


def _snapshots(job: Job, attempt: Attempt, parts: tuple[Snapshot, ...]) -> Snapshots | None:
    if not attempt.takes_snapshots:
        return None
    by_rank = dict(zip(attempt.parts, parts, strict=True))
    start = Start([by_rank.get(rank) for rank in range(attempt.former_world_size)]) if parts else None
    return Snapshots(job.config.snapshot_every_n_steps, start)


def _end_loader_processes(run: Run) -> None:
    # Persistent workers live as long as their iterator. From the garbage collector multiprocessing cannot end them
    # properly: it waits five seconds for each.
    for used in (run.train_data, *run.eval_data.values()):
        for loader in used.loaders if used is not None else ():
            if isinstance(loader, DataLoader):
                loader._iterator = None
