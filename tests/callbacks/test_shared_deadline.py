from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raylight.callbacks import shared_deadline
from raylight.callbacks.shared_deadline import SharedDeadline


class Clock:
    now = 0.0


class Workers:
    """Two ranks in lockstep: rank 1 gets what rank 0 broadcast at the same step."""

    world_size = 2

    def __init__(self) -> None:
        self.strategy = self
        self.is_rank_zero = True
        self.sent: Any = None
        self.num_broadcasts = 0

    def broadcast(self, value: Any, src: int = 0) -> Any:
        if self.is_rank_zero:
            self.sent = value
            self.num_broadcasts += 1
        else:
            assert self.sent is not None, "rank 1 waits for a broadcast that rank 0 does not make"
        return self.sent


def run_until_reached(seconds_per_step: Any, limit: float) -> tuple[float, int]:
    """When both ranks saw the limit, and how often rank 0 was asked."""
    workers: Any = Workers()
    ranks = [SharedDeadline(), SharedDeadline()]
    Clock.now = 0.0
    for step in range(100_000):
        Clock.now += seconds_per_step(step)
        workers.sent = None
        decisions = []
        for rank, deadline in enumerate(ranks):
            workers.is_rank_zero = rank == 0
            wrong_clock = 0.0 if rank == 0 else 1e6
            decisions.append(deadline.reached(workers, limit - Clock.now + wrong_clock))
        assert decisions[0] == decisions[1]
        if decisions[0]:
            return Clock.now, workers.num_broadcasts
    raise AssertionError("the limit was never noticed")


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_deadline, "time", SimpleNamespace(monotonic=lambda: Clock.now))


def test_ranks_agree_on_the_step_and_seldom_ask() -> None:
    reached_at, num_broadcasts = run_until_reached(lambda step: 0.1, limit=1000.0)
    assert 1000.0 <= reached_at < 1000.2
    assert num_broadcasts < 130


def test_slower_steps_are_noticed() -> None:
    reached_at, _ = run_until_reached(lambda step: 0.01 if step < 1000 else 1.0, limit=60.0)
    assert 60.0 <= reached_at < 170.0


def test_limit_before_the_first_step() -> None:
    assert run_until_reached(lambda step: 1.0, limit=0.0) == (1.0, 1)


def test_one_worker_asks_nobody() -> None:
    class Alone:
        world_size = 1

    trainer: Any = Alone()
    deadline = SharedDeadline()
    assert not deadline.reached(trainer, 0.001)
    assert deadline.reached(trainer, 0.0)
