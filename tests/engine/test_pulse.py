"""Heartbeats of many ranks, and what they tell of the ranks' pace."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

import pytest
from ray.exceptions import RayActorError

from raylight.engine.pulse import BEATS, QUIET_SECONDS, Heartbeat, PaceMaker, Pulse


def beat(batches: int, at: float, samples: int = 0, waited: float = 0.0, stepping: float = 0.0) -> Heartbeat:
    return Heartbeat(batches, batches, "train", batches, samples, waited, stepping, at)


def test_pace_of_ranks_that_wait_for_each_other() -> None:
    paces = PaceMaker(3)
    assert paces.take([None, None, None], 0.0) is None
    # Each process has a clock of its own. Rank 2 waits 0.3 s for data in each batch of half a second.
    assert paces.take([beat(10, 100.0, 80), beat(10, 7.0, 80), beat(10, 0.5, 80)], 1.0) is None
    pace = paces.take(
        [
            beat(14, 102.0, 112, waited=0.04, stepping=0.4),
            beat(14, 9.0, 112, waited=0.04, stepping=0.4),
            beat(14, 2.5, 112, waited=1.2, stepping=0.44),
        ],
        3.0,
    )
    assert pace is not None
    assert pace.world_size == 3
    assert pace.samples_per_second == pytest.approx(3 * 16)
    assert pace.batch_seconds == pytest.approx(0.5)
    assert pace.slowest == 2
    assert pace.lag_seconds == pytest.approx(0.3)
    assert pace.data_seconds == pytest.approx(0.3)


def test_ranks_that_are_equally_fast() -> None:
    paces = PaceMaker(2)
    paces.take([beat(1, 1.0, 8), beat(1, 1.0, 8)], 1.0)
    pace = paces.take([beat(5, 3.0, 40, waited=0.04), beat(5, 3.0, 40, waited=0.05)], 3.0)
    assert pace is not None
    assert pace.slowest is None
    assert (pace.lag_seconds, pace.data_seconds) == (0.0, 0.0)


def test_a_rank_that_is_slower_where_none_waits_for_another() -> None:
    paces = PaceMaker(2)
    paces.take([beat(1, 1.0, 8), beat(1, 1.0, 8)], 1.0)
    pace = paces.take([beat(9, 3.0, 72), beat(5, 3.0, 40)], 3.0)  # in an evaluation
    assert pace is not None
    assert pace.slowest == 1
    assert pace.lag_seconds == pytest.approx(0.25)
    assert pace.samples_per_second == pytest.approx(32 + 16)


def test_ranks_that_stand_still_have_no_pace() -> None:
    paces = PaceMaker(1)
    paces.take([beat(1, 1.0, 8)], 1.0)
    last = beat(11, 2.0, 88)
    running = paces.take([last], 2.0)
    between = paces.take([last], 2.0 + QUIET_SECONDS)  # the same heartbeat: nothing new
    still = paces.take([last], 2.0 + 79.0)
    assert running is not None
    assert between is not None
    assert still is not None
    assert running.samples_per_second == between.samples_per_second == pytest.approx(80.0)
    assert still.samples_per_second == pytest.approx(1.0)


def test_a_rank_that_was_at_its_end_at_once_does_not_hide_the_others() -> None:
    paces = PaceMaker(3)
    assert paces.take([None, beat(1, 1.0, 8), beat(1, 1.0, 8)], 1.0) is None
    assert paces.take([beat(2, 1.0, 16), beat(2, 2.0, 16), beat(3, 2.0, 24)], 2.0) is None
    pace = paces.take([beat(2, 1.0, 16), beat(7, 7.0, 56), beat(13, 7.0, 104)], 2.0 + QUIET_SECONDS)
    assert pace is not None
    assert (pace.world_size, pace.slowest) == (3, 1)
    assert pace.samples_per_second == pytest.approx(8 + 16)


def test_the_pace_is_that_of_the_last_beats() -> None:
    paces = PaceMaker(1)
    at = 0.0
    for batches in range(1, 20):
        at += 10.0 if batches < 10 else 0.5
        pace = paces.take([beat(batches, at, 4 * batches)], at)
    assert pace is not None
    assert pace.batch_seconds == pytest.approx(0.5)
    assert pace.samples_per_second == pytest.approx(8.0)
    (kept,) = paces._beats
    assert len(kept) == BEATS


class Instant:
    """A wire to workers that are functions: they answer at once, or not at all by returning a Future."""

    def __init__(self) -> None:
        self.num_asked = 0

    def ask(self, worker: Any, method: str, *args: Any) -> Any:
        self.num_asked += 1
        answer = worker()
        if isinstance(answer, Future):
            return answer
        reference: Future[Any] = Future()
        reference.set_result(answer)
        return reference

    def wait(self, references: list[Any], seconds: float | None, count: int = 1) -> list[Any]:
        return [reference for reference in references if reference.done()]

    def get(self, reference: Any) -> Any:
        return [each.result() for each in reference] if isinstance(reference, list) else reference.result()


def test_a_rank_that_does_not_answer_is_asked_once() -> None:
    silent: Future[Any] = Future()
    wire = Instant()
    pulse = Pulse([lambda: beat(1, 1.0), lambda: silent], 0.0, wire)
    for _ in range(5):
        assert pulse.beat()
    assert wire.num_asked == 5 + 1
    assert pulse.beats == [beat(1, 1.0), None]
    silent.set_result(beat(2, 2.0))
    pulse.beat()
    assert pulse.beats == [beat(1, 1.0), beat(2, 2.0)]


def test_a_rank_that_is_gone_keeps_its_last_beat_and_takes_no_others() -> None:
    gone: Future[Any] = Future()
    gone.set_exception(RayActorError())
    answers = iter([beat(1, 1.0), gone])
    pulse = Pulse([lambda: next(answers, gone), lambda: beat(3, 1.0)], 0.0, Instant())
    for _ in range(3):
        pulse.beat()
    assert pulse.beats == [beat(1, 1.0), beat(3, 1.0)]


def test_ranks_are_asked_now_and_then() -> None:
    wire = Instant()
    pulse = Pulse([lambda: None], 60.0, wire)
    assert pulse.beat()
    assert not pulse.beat()
    assert wire.num_asked == 1


def test_what_is_kept_of_64_ranks_does_not_grow() -> None:
    import tracemalloc

    began = time.perf_counter()
    counts = [0] * 64

    def worker(rank: int) -> Any:
        def answer() -> Heartbeat:
            counts[rank] += 3
            return beat(counts[rank], time.perf_counter() - began, 8 * counts[rank], 0.001 * counts[rank])

        return answer

    pulse, paces = Pulse([worker(rank) for rank in range(64)], 0.0, Instant()), PaceMaker(64)
    tracemalloc.start()
    try:
        sizes = []
        for _ in range(2):
            for _ in range(50):
                pulse.beat()
                assert paces.take(pulse.beats, time.monotonic()) is not None or sizes == []
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[1] - sizes[0] < 20_000
    assert sizes[1] < 500_000
