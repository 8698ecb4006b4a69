"""A run outlives its workers: from which snapshot it goes on, what the driver has heard before, what is an incident.

Runs on the driver.
"""

from __future__ import annotations

import collections
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from raylight.config.messages import Event, GoesOn, Incident, Record, Report
from raylight.engine.actor import WorkerInfo
from raylight.engine.base import Sink
from raylight.engine.snapshots import Moment
from raylight.utilities.exceptions import WorkerError
from raylight.utilities.rank_zero import log

SNAPSHOT_WAIT_SECONDS = 10.0
"""How long a worker holds the question for its next snapshot."""
SECONDS_TO_ARRIVE = 60.0
"""For a snapshot that is on its way."""
MOST_PARTS = 4
"""Of one rank that wait for those of others; ranks take them together, and one more waits in the rank itself."""
ADVICE = "Continue from a checkpoint with fit(ckpt_path='last')."


@dataclass(frozen=True)
class Part:
    """One rank's part of a snapshot, in Ray's object store, on this node."""

    moment: Moment
    content: Any
    """A reference to a ``Snapshot``."""


class SnapshotKeeper:
    """Fetches all ranks' snapshots as they are taken, and keeps the newest that is complete, on the driver's node."""

    def __init__(self) -> None:
        self.newest: list[Part] = []
        """By rank; empty before there is one."""
        self._workers: list[Any] = []
        self._elsewhere: set[int] = set()
        """Ranks on other nodes, which may be lost with what lies there."""
        self._finished: set[int] = set()
        self._complained: set[int] = set()
        self._asked: dict[Any, tuple[int, Any]] = {}
        """Reference to the content that was asked for -> rank, and reference to its moment."""
        self._parts: list[dict[int, Part]] = []
        """By rank: by batch."""
        self._newest_batch = -1
        """Of the newest snapshot of the attempt at work."""

    def start(self, workers: list[Any], infos: list[WorkerInfo]) -> None:
        """An attempt begins. Its batches may be counted otherwise, by fewer or more workers."""
        here = ray.get_runtime_context().get_node_id()
        self._workers, self._asked, self._newest_batch = workers, {}, -1
        self._elsewhere = {rank for rank, info in enumerate(infos) if info.node_id != here}
        self._parts, self._finished = [{} for _ in workers], set()
        for rank in range(len(workers)):
            self._ask(rank)

    @property
    def references(self) -> list[Any]:
        """What to wait for."""
        return list(self._asked)

    def finish(self, rank: int) -> None:
        """It has come back: there will be no more than it was asked for."""
        self._finished.add(rank)

    def _ask(self, rank: int) -> None:
        method = self._workers[rank].next_snapshot.options(num_returns=2, concurrency_group="control")
        moment, content = method.remote(SNAPSHOT_WAIT_SECONDS)
        self._asked[content] = rank, moment

    def take(self, reference: Any, records: int) -> None:
        """One of ``references`` is ready.

        Args:
            records: Events that the driver has had; a snapshot counts when it is not ahead of them.
        """
        rank, moment_reference = self._asked.pop(reference)
        try:
            moment = ray.get(moment_reference)
            content = ray.put(ray.get(reference)) if moment is not None and rank in self._elsewhere else reference
        except RayActorError:  # the worker is gone, which its job tells
            return
        except RayError as error:  # it cannot be sent; a later one may
            if rank not in self._complained:
                log.warning("A snapshot of rank %d is not usable: %s", rank, str(error).partition("\n")[0])
            self._complained.add(rank)
            moment = None
        if moment is not None:
            parts = self._parts[rank]
            parts[moment.batch] = Part(moment, content)
            for old in sorted(parts)[:-MOST_PARTS]:
                del parts[old]
            self.settle(records)
        if rank not in self._finished:
            self._ask(rank)

    def wait_for(self, batch: int, records: int) -> None:
        """The ranks have handed over the snapshot of ``batch``: have it here, unless it cannot be sent."""
        deadline = time.monotonic() + SECONDS_TO_ARRIVE
        while self._newest_batch < batch and (left := deadline - time.monotonic()) > 0 and self._asked:
            ready, _ = ray.wait(list(self._asked), num_returns=1, timeout=left)
            for reference in ready:
                self.take(reference, records)

    def settle(self, records: int) -> None:
        """See whether a newer snapshot is complete, now that so many events are here."""
        complete = set.intersection(*(set(parts) for parts in self._parts)) if self._parts else set()
        usable = [batch for batch in complete if self._parts[0][batch].moment.records <= records]
        if usable:
            self._newest_batch = newest = max(usable)
            self.newest = [parts[newest] for parts in self._parts]
            self._parts = [{b: part for b, part in parts.items() if b > newest} for parts in self._parts]


class Listener:
    """Passes a run's events on, each once: an attempt that goes on from a snapshot sends some for the second time."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.records = 0
        """Events of the kind ``Record`` that were passed on."""
        self._position = 0
        """Of the attempt at work: records that it has sent, those before its snapshot included."""
        self.goes_on: Any = None
        """Called with the step where an attempt goes on."""

    def start(self, position: int) -> None:
        """An attempt begins, which goes on after so many records."""
        self._position = position

    def take(self, event: Event) -> Any:
        """Hand ``event`` on; what the driver answers to a Report."""
        if isinstance(event, GoesOn):
            if self.goes_on is not None:
                self.goes_on(event.step)
            return None
        if isinstance(event, Record):
            self._position += 1
            if self._position <= self.records:
                return True if isinstance(event, Report) else None  # the trial went on after it
            self.records = self._position
        return self._sink(event)


class Incidents:
    """Counts a call's failures, and tells of each, and of each change of its workers, when training goes on."""

    def __init__(self, most: int, sink: Sink) -> None:
        self._most = most
        self._sink = sink
        self.number = 0
        self._open: collections.deque[tuple[str, int | None, str | None, float]] = collections.deque()

    def take(self, error: WorkerError) -> None:
        """Count a failure.

        Raises:
            WorkerError: It is one too many.
        """
        self.number += 1
        if self.number > self._most:
            times = f" It was failure {self.number} of this call (max_failures={self._most})." if self._most else ""
            error.args = (f"{error.args[0]}{times} {ADVICE}",)
            raise error
        self._open.append((error.args[0], error.rank, error.node, time.monotonic()))

    def note(self, what: str, since: float) -> None:
        """Something has happened that is no failure of its own, at ``since`` on the monotonic clock."""
        self._open.append((what, None, None, since))

    def close(self, step: int) -> None:
        """Training has gone on at ``step``."""
        while self._open:
            what, rank, node, since = self._open.popleft()
            self._sink(Incident(what, rank, node, step, time.monotonic() - since))
