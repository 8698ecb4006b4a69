"""Heartbeats of all ranks, asked for now and then, and how fast the ranks are as these tell.

Runs on the driver.
"""

from __future__ import annotations

import collections
import statistics
import time
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError

from raylight.config.messages import Pace
from raylight.engine.wire import Wire

BEATS = 6
"""Of each rank that are kept: the pace is that of the time between the first and the last of them."""
QUIET_SECONDS = 3.0
"""Without a batch, beyond two of the usual kind, after which the rank counts as standing still."""
LEAST_LAG = 0.05
"""Of the time per batch: a rank that is behind by less does not lag."""


@dataclass(frozen=True)
class Heartbeat:
    """How far a rank is, and at what. Made in the worker."""

    batches: int
    """Of training and of evaluations; more than before where the rank does anything."""
    step: int
    """Optimizer steps."""
    where: str
    """The hook or the stage."""
    taken: int = 0
    """Batches taken from the loaders; this and what follows is as of ``Throughput``."""
    samples: int = 0
    waited: float = 0.0
    stepping: float = 0.0
    at: float = 0.0


class Pulse:
    """Asks the ranks for heartbeats, and has the last of each.

    Args:
        workers: By rank.
        seconds: Between two questions.
    """

    def __init__(self, workers: list[Any], seconds: float, wire: Wire) -> None:
        self.beats: list[Heartbeat | None] = [None] * len(workers)
        """By rank; None: there was none, or the rank was at nothing."""
        self._workers = workers
        self._seconds = seconds
        self._wire = wire
        self._next = time.monotonic()
        self._asked: dict[Any, int] = {}
        """Reference to an answer -> rank. One that does not answer is not asked again."""

    def beat(self) -> bool:
        """Called often: take the answers and ask anew when it is time; whether it was."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        if self._asked:
            self._take(self._wire.wait(list(self._asked), 0, len(self._asked)))
        waiting = set(self._asked.values())
        for rank, worker in enumerate(self._workers):
            if rank not in waiting:
                self._asked[self._wire.ask(worker, "heartbeat")] = rank
        return True

    def _take(self, ready: list[Any]) -> None:
        ranks = [self._asked.pop(reference) for reference in ready]
        try:
            answers = self._wire.get(ready)  # at once, which costs a fraction of one at a time
        except RayError:
            answers = [self._answer(reference, rank) for reference, rank in zip(ready, ranks, strict=True)]
        for rank, answer in zip(ranks, answers, strict=True):
            self.beats[rank] = answer

    def _answer(self, reference: Any, rank: int) -> Heartbeat | None:
        try:
            beat: Heartbeat | None = self._wire.get(reference)
            return beat
        except RayError:  # it is gone: its execute tells how
            return self.beats[rank]


class PaceMaker:
    """Works out from one heartbeat to the next how fast the ranks are.

    Args:
        world_size: Ranks.
    """

    def __init__(self, world_size: int) -> None:
        self._beats: list[collections.deque[tuple[float, Heartbeat]]] = [
            collections.deque(maxlen=BEATS) for _ in range(world_size)
        ]
        """By rank: when the driver had it, and what it was; only those with more batches than the one before."""

    def take(self, beats: list[Heartbeat | None], now: float) -> Pace | None:
        """The pace, now that these are the ranks' last heartbeats; None before each has told of two batches.

        One that has told of fewer, and of no more for a while, does not count: it has come to its end at once.
        """
        for kept, beat in zip(self._beats, beats, strict=True):
            if beat is not None and beat.taken and (not kept or beat.taken > kept[-1][1].taken):
                kept.append((now, beat))
        paces = {rank: _RankPace.of(kept, now) for rank, kept in enumerate(self._beats) if len(kept) > 1}
        others = [kept for kept in self._beats if len(kept) < 2]
        if not paces or any(not kept or now - kept[0][0] < QUIET_SECONDS for kept in others):
            return None
        per_batch = statistics.median_low(pace.per_batch for pace in paces.values())
        own = statistics.median_low(pace.own for pace in paces.values())
        # Behind by what is its own or, where none waits for it in each batch, altogether
        lags = {rank: max(pace.own - own, pace.per_batch - per_batch) for rank, pace in paces.items()}
        slowest = max(lags, key=lags.__getitem__)
        lag = lags[slowest]
        lags_behind = lag >= LEAST_LAG * per_batch
        return Pace(
            world_size=len(self._beats),
            samples_per_second=sum(pace.samples_per_second for pace in paces.values()),
            batch_seconds=per_batch,
            slowest=slowest if lags_behind else None,
            lag_seconds=lag if lags_behind else 0.0,
            data_seconds=paces[slowest].waiting if lags_behind else 0.0,
        )


@dataclass(frozen=True)
class _RankPace:
    samples_per_second: float
    per_batch: float
    """Seconds from one batch to the next: the same for all ranks where they wait for each other in each."""
    own: float
    """Of these, seconds in which no other rank is waited for, as far as they are measured."""
    waiting: float
    """Of these, seconds for data."""

    @classmethod
    def of(cls, kept: collections.deque[tuple[float, Heartbeat]], now: float) -> _RankPace:
        (_, first), (heard, last) = kept[0], kept[-1]
        batches = last.taken - first.taken
        per_batch = (last.at - first.at) / batches
        waiting = (last.waited - first.waited) / batches
        own = waiting + (last.stepping - first.stepping) / batches
        seconds = last.at - first.at
        if now - heard > 2 * per_batch + QUIET_SECONDS:  # nothing has come since
            seconds += now - heard
        return cls((last.samples - first.samples) / seconds, per_batch, own, waiting)
