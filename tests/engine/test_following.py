"""One attempt, followed by the driver: 64 ranks that are simulated in this process, and 64 that Ray has started."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.exceptions import RayActorError, RaySystemError

from raylight.callbacks import RichProgressBar
from raylight.config.messages import Event, Metrics, Outcome, Pace, Progress, TrainerFn
from raylight.display import Display
from raylight.engine import following
from raylight.engine.actor import Outbox, WorkerInfo
from raylight.engine.following import Following, WorkersLostError
from raylight.engine.interrupt import StopWish
from raylight.engine.pulse import Heartbeat
from raylight.engine.recovery import Listener
from raylight.utilities.exceptions import UnpicklableError
from raylight.worker.state import TrainState

RANKS = 64
MOST_OF_A_CORE = 0.10
INFOS = [WorkerInfo("node", "host", pid, (), 1) for pid in range(RANKS)]


class SimulatedRank:
    """Answers what the driver asks a worker, as one that trains 50 batches of 8 samples a second would."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.outbox = Outbox()
        self.outbox.open()

    def heartbeat(self) -> Heartbeat:
        at = time.perf_counter()
        batches = int(at * 50)
        waited = batches * (0.015 if self.rank == 7 else 0.001)
        return Heartbeat(batches, batches, "train", batches, 8 * batches, waited, 0.0, at)

    def events(self, seconds: float) -> list[Event]:
        return self.outbox.take(seconds)


class LocalWire:
    """To ranks in this process; what may block does so in a thread."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads

    def ask(self, worker: Any, method: str, *args: Any) -> Any:
        if method == "events":
            return self._threads.submit(worker.events, *args)
        answer: Future[Any] = Future()
        told = getattr(worker, method)(*args)
        if isinstance(told, Future):
            return told
        answer.set_result(told)
        return answer

    def wait(self, references: list[Any], seconds: float | None, count: int = 1) -> list[Any]:
        when = FIRST_COMPLETED if count == 1 else ALL_COMPLETED
        done = wait(references, seconds, when).done
        return [reference for reference in references if reference in done]

    def get(self, reference: Any) -> Any:
        return [each.result() for each in reference] if isinstance(reference, list) else reference.result()


@dataclass
class Screen:
    """What a Trainer does with events: bars and the line on a terminal, which is a text."""

    terminal: io.StringIO = field(default_factory=io.StringIO)
    rows: list[int] = field(default_factory=list)
    paces: list[Pace] = field(default_factory=list)

    def __post_init__(self) -> None:
        settings = {"file": self.terminal, "force_terminal": True, "width": 160}
        self.progress_bar_callback = RichProgressBar(console_kwargs=settings)
        self.state = TrainState(fn=TrainerFn.FITTING)
        self.display = Display(self)  # type: ignore[arg-type]

    def take(self, event: Event) -> Any:
        if isinstance(event, Metrics):
            self.rows.append(event.step)
        elif isinstance(event, Progress):
            self.display.progress(event)
        elif isinstance(event, Pace):
            self.paces.append(event)
            self.display.pace(event, incidents=1)
        return None


@pytest.fixture
def screen() -> Iterator[Screen]:
    import rich

    shown = Screen()
    yield shown
    shown.display.close()
    rich.reconfigure()


@contextmanager
def cpu_share() -> Iterator[list[float]]:
    """Seconds of this thread's processor time over those of the clock, while the block runs."""
    share: list[float] = []
    clock, began = time.thread_time(), time.perf_counter()
    yield share
    share.append((time.thread_time() - clock) / (time.perf_counter() - began))


def test_64_ranks_take_little_of_the_drivers_time(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "SECONDS_BETWEEN_PACES", 0.5)  # twice as often as in a run
    ranks = [SimulatedRank(rank) for rank in range(RANKS)]
    running: dict[Any, int] = {Future(): rank for rank in range(RANKS)}
    sent = threading.Event()

    def rank_zero() -> None:
        """A row for the loggers every 5 ms, and a bar that is drawn five times a second."""
        for step in range(500):
            ranks[0].outbox.put(Metrics({"loss": 1.0}, step))
            if step % 40 == 0:
                ranks[0].outbox.put(Progress("train", "Epoch 0", step, 500, {"loss": 1.0}, starts=step == 0))
            time.sleep(0.005)
        ranks[0].outbox.put(Metrics({"loss": 0.0}, 500))  # with the result on its heels
        sent.set()
        for reference in running:
            reference.set_result(Outcome(state=None))

    with ThreadPoolExecutor(2) as threads, cpu_share() as share:
        attempt = Following(
            ranks, INFOS, 1, Listener(screen.take), None, 1800.0, lambda: False, True, LocalWire(threads)
        )
        trained = threads.submit(rank_zero)
        outcomes = attempt.run(running, threading.Event())
        trained.result()
    assert sorted(outcomes) == list(range(RANKS))
    assert screen.rows == list(range(501)), "events of rank 0 were lost"
    assert share[0] < MOST_OF_A_CORE
    assert len(screen.paces) >= 3
    pace = screen.paces[-1]
    assert (pace.world_size, pace.slowest) == (RANKS, 7)
    assert pace.samples_per_second == pytest.approx(RANKS * 8 * 50, rel=0.2)
    assert pace.data_seconds == pytest.approx(0.015, rel=0.01)
    assert "64 workers | " in screen.terminal.getvalue()


def test_without_a_bar_and_a_limit_for_hangs_no_heartbeat_is_asked_for() -> None:
    class Mute(SimulatedRank):
        def heartbeat(self) -> Heartbeat:
            raise AssertionError("asked")

    over: Future[Any] = Future()
    over.set_result(Outcome(state=None))
    rank = Mute(0)
    rank.outbox.put(Metrics({}, 0))
    rank.outbox.close()
    heard: list[Event] = []
    with ThreadPoolExecutor(1) as threads:
        attempt = Following(
            [rank], INFOS[:1], 1, Listener(heard.append), None, None, lambda: False, False, LocalWire(threads)
        )
        attempt.run({over: 0}, threading.Event())
    assert heard == [Metrics({}, 0)]


class Stopping(SimulatedRank):
    """Answers ``hold`` when it is told to; keeps what it hears."""

    def __init__(self, rank: int, answers: bool = True) -> None:
        super().__init__(rank)
        self.answers = answers
        self.heard: list[tuple[Any, ...]] = []
        self.num_asked = 0

    def events(self, seconds: float) -> list[Event]:
        self.num_asked += 1
        return super().events(seconds)

    def hold(self, number: int) -> Any:
        return self.rank + 3 if self.answers else Future()

    def stop_at(self, *told: Any) -> None:
        self.heard.append(told)


def follow(
    ranks: list[Stopping], running: dict[Any, int], stop: Any, sink: Callable[[Event], Any] = lambda event: None
) -> dict[int, Outcome]:
    with ThreadPoolExecutor(2) as threads:
        listener, wire = Listener(sink), LocalWire(threads)
        infos = INFOS[: len(ranks)]
        try:
            return Following(ranks, infos, 1, listener, None, None, lambda: False, False, wire).run(running, stop)
        finally:
            ranks[0].outbox.close()


def test_a_wish_to_stop_outlives_the_attempt_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "kill", lambda worker, info: None)
    ranks = [Stopping(0), Stopping(1)]
    running: dict[Any, int] = {Future(): 0, Future(): 1}
    stop = StopWish()
    stop.terminate()
    gone = list(running)[1]
    threading.Timer(0.5, gone.set_exception, [RayActorError()]).start()
    threading.Timer(0.6, list(running)[0].set_result, [Outcome(state=None)]).start()
    with pytest.raises(WorkersLostError):
        follow(ranks, running, stop)
    assert [rank.heard for rank in ranks] == [[(1, 4, False, True)]] * 2
    assert stop.is_set()


def test_a_rank_that_does_not_say_where_it_can_stop_holds_up_nobody() -> None:
    ranks = [Stopping(0), Stopping(1, answers=False)]
    running: dict[Any, int] = {Future(): 0, Future(): 1}
    for reference in running:
        threading.Timer(0.6, reference.set_result, [Outcome(state=None)]).start()
    stop = StopWish()
    stop.set()
    assert len(follow(ranks, running, stop)) == 2
    assert ranks[0].heard == []


def test_a_rank_that_is_done_is_asked_for_no_events() -> None:
    ranks = [Stopping(0), Stopping(1)]
    first, second = Future[Any](), Future[Any]()
    first.set_result(Outcome(state=None))
    ranks[0].outbox.close()
    threading.Timer(1.0, second.set_result, [Outcome(state=None)]).start()
    assert len(follow(ranks, {first: 0, second: 1}, threading.Event())) == 2
    assert ranks[0].num_asked <= 3


class Dying(Stopping):
    """Has its last row in its second answer; soon after the first it is gone."""

    def __init__(self) -> None:
        super().__init__(0)
        self.gone_at = float("inf")

    def events(self, seconds: float) -> list[Event]:
        self.num_asked += 1
        if time.monotonic() > self.gone_at:
            raise RayActorError
        self.gone_at = min(self.gone_at, time.monotonic() + 0.7)
        return [Metrics({}, 7)] if self.num_asked == 2 else []


def test_a_rank_zero_that_is_lost_when_it_is_done_has_said_its_last() -> None:
    first, second = Future[Any](), Future[Any]()
    first.set_result(Outcome(state=None))
    threading.Timer(1.5, second.set_result, [Outcome(state=None)]).start()
    heard: list[Event] = []
    assert len(follow([Dying(), Stopping(1)], {first: 0, second: 1}, threading.Event(), heard.append)) == 2
    assert heard == [Metrics({}, 7)]


def test_a_rank_zero_that_is_lost_before_it_has_said_its_last_is_done_all_the_same() -> None:
    over: Future[Any] = Future()
    over.set_result(Outcome(state=None))
    rank = Dying()
    rank.gone_at = 0.0
    assert len(follow([rank], {over: 0}, threading.Event())) == 1


def test_what_cannot_be_unpickled_here_is_no_lost_worker() -> None:
    foreign: Future[Any] = Future()
    foreign.set_exception(RaySystemError("No module named 'theirs'"))
    with pytest.raises(
        UnpicklableError, match="What rank 0 has returned cannot be unpickled here: System error: No module"
    ):
        follow([Stopping(0)], {foreign: 0}, threading.Event())


class TinyActor:
    """What ``SimulatedRank`` is, in a process of Ray's that does not import torch."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.rows = 0

    def execute(self, seconds: float) -> None:
        import time

        time.sleep(seconds)

    def heartbeat(self) -> tuple[int, float]:
        import time

        at = time.perf_counter()
        return int(at * 50), at

    def events(self, seconds: float) -> list[int]:
        import time

        time.sleep(0.2)
        rows, self.rows = list(range(self.rows, self.rows + 40)), self.rows + 40
        return rows


class TinyWire:
    """Ray's, whose answers are made into those of workers: the actors do not import raylight."""

    def __init__(self) -> None:
        from raylight.engine.wire import RayWire

        self._ray = RayWire()
        self._kinds: dict[Any, str] = {}

    def ask(self, worker: Any, method: str, *args: Any) -> Any:
        reference = self._ray.ask(worker, method, *args)
        self._kinds[reference] = method
        return reference

    def wait(self, references: list[Any], seconds: float | None, count: int = 1) -> list[Any]:
        return self._ray.wait(references, seconds, count)

    def get(self, reference: Any) -> Any:
        answers = self._ray.get(reference)
        if isinstance(reference, list):
            return [self._made(self._kinds.pop(each), answer) for each, answer in zip(reference, answers, strict=True)]
        return self._made(self._kinds.pop(reference, "execute"), answers)

    @staticmethod
    def _made(kind: str, answer: Any) -> Any:
        if kind == "heartbeat":
            batches, at = answer
            return Heartbeat(batches, batches, "train", batches, 8 * batches, 0.0, 0.0, at)
        if kind == "events":
            return [Metrics({}, row) for row in answer]
        return Outcome(state=None)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_64_actors_take_little_of_the_drivers_time(ray_cluster: str, screen: Screen) -> None:
    import ray

    kind = ray.remote(num_cpus=0, concurrency_groups={"control": 2})(TinyActor)
    actors = [kind.remote(rank) for rank in range(RANKS)]
    try:
        ray.get([actor.heartbeat.options(concurrency_group="control").remote() for actor in actors])
        running = {actor.execute.remote(20.0): rank for rank, actor in enumerate(actors)}
        clock, began = time.process_time(), time.perf_counter()
        attempt = Following(actors, INFOS, 1, Listener(screen.take), None, 1800.0, lambda: False, True, TinyWire())
        outcomes = attempt.run(running, threading.Event())
        share = (time.process_time() - clock) / (time.perf_counter() - began)  # Ray's threads included
    finally:
        for actor in actors:
            ray.kill(actor)
    print(f"the driver's share of a core: {share:.3f}, paces: {len(screen.paces)}")
    assert len(outcomes) == RANKS
    assert screen.rows == list(range(len(screen.rows)))
    assert len(screen.rows) > 1000
    assert len(screen.paces) >= 10
    assert screen.paces[-1].world_size == RANKS
    assert share < MOST_OF_A_CORE
