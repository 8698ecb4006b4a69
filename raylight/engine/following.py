"""One attempt at a Job, followed from the driver: events, snapshots, a graceful stop, and what went wrong.

Runs on the driver.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayActorError, RayError, RaySystemError, RayTaskError

from raylight.config.messages import Event, Outcome, Report
from raylight.engine.actor import Left, WorkerInfo
from raylight.engine.failures import Failure, revive
from raylight.engine.hangs import HangWatch, kill
from raylight.engine.interrupt import StopWish
from raylight.engine.pulse import Heartbeat, PaceMaker, Pulse
from raylight.engine.recovery import Listener, SnapshotKeeper
from raylight.engine.wire import RayWire, Wire
from raylight.utilities.exceptions import UnpicklableError, WorkerError

POLL_SECONDS = 0.2
EVENT_WAIT_SECONDS = 1.0
LAST_WORDS_SECONDS = 0.3
"""After a failure, how long rank 0 may take to tell what happened before it."""
SECONDS_FOR_ROOT_CAUSE = 2.0
"""After the first failure, how long the others may take to show which was the cause."""
SECONDS_TO_COME_OUT = 5.0
"""After a worker was lost, how long the others may take to notice; later they are replaced, too."""
SECONDS_BETWEEN_PACES = 1.0
"""Where the driver shows how fast the ranks are."""


class WorkersLostError(Exception):
    """An attempt is over for a reason that lies in no code of the user's.

    Args:
        error: What to raise if it is the last one.
        dead: Ranks whose processes are gone.
    """

    def __init__(self, error: WorkerError, dead: set[int]) -> None:
        super().__init__(str(error))
        self.error = error
        self.dead = dead


class RegroupError(Exception):
    """All ranks have left an attempt, for one of other workers."""


class Following:
    """Follows one attempt.

    Args:
        workers: By rank.
        infos: By rank.
        number: Of the attempt.
        listener: Takes rank 0's events.
        snapshots: Takes the ranks' snapshots; None where there are none.
        hang_timeout: Seconds without a batch after which a rank is taken for hung; None: never.
        shall_regroup: Asked in each turn: whether the run should go on with other workers.
        shows_pace: The listener wants to know how fast the ranks are.
        wire: To the workers.
        close_data: Called when a rank has failed: others may wait for data together with it. None: there is none.
        look_at_cluster: Called often; raises where the cluster is gone.
    """

    def __init__(
        self,
        workers: list[Any],
        infos: list[WorkerInfo],
        number: int,
        listener: Listener,
        snapshots: SnapshotKeeper | None,
        hang_timeout: float | None,
        shall_regroup: Callable[[], bool],
        shows_pace: bool = False,
        wire: Wire | None = None,
        close_data: Callable[[], None] | None = None,
        look_at_cluster: Callable[[], None] | None = None,
    ) -> None:
        self._wire = wire or RayWire()
        self._workers = workers
        self._infos = infos
        self._number = number
        self._listener = listener
        self._snapshots = snapshots
        self._hangs = HangWatch(workers, infos, hang_timeout) if hang_timeout is not None else None
        self._paces = PaceMaker(len(workers)) if shows_pace else None
        intervals = [self._hangs.seconds_between_looks] if self._hangs is not None else []
        intervals += [SECONDS_BETWEEN_PACES] if shows_pace else []
        self._pulse = Pulse(workers, min(intervals), self._wire) if intervals else None
        self._shall_regroup = shall_regroup
        self._close_data = close_data
        self._look_at_cluster = look_at_cluster
        self._leaving = False
        """The ranks have been asked to leave."""
        self._stopping = False
        """They have been asked to stop."""
        self._held: list[Any] = []
        """Their answers to that, which are awaited."""
        self._decision: tuple[bool, bool] = False, False
        """What they are told then: whether to leave, and whether this process ends."""
        self._at_work = set(range(len(workers)))
        """Ranks that have not come back."""
        self._heard_out = False
        """Rank 0 has come back, and will say no more."""

    def run(self, running: dict[Any, int], stop: StopWish) -> dict[int, Outcome]:
        """Wait for all ranks in short turns, passing events on; ``stop`` is looked at between two turns.

        Args:
            running: Reference to what a rank returns -> rank.
            stop: Ask the run to stop gracefully.

        Raises:
            WorkersLostError: A worker is gone.
            RegroupError: The run is to go on with other workers, from the newest snapshot.
            Whatever the user's code raises.
        """
        outcomes: dict[int, Outcome] = {}
        left: Left | None = None
        events = self._ask_for_events()
        waiting = dict(running)
        while waiting:
            asked = self._snapshots.references if self._snapshots is not None else []
            speaks = [events] if events is not None else []
            for ref in self._wire.wait([*waiting, *speaks, *asked], POLL_SECONDS):
                if ref is events:
                    events = self._pass_on(events)
                elif ref in waiting:
                    rank = waiting.pop(ref)
                    self._at_work.discard(rank)
                    if self._snapshots is not None:
                        self._snapshots.finish(rank)
                    result = self._get(ref, rank)
                    if isinstance(result, Outcome):
                        outcomes[rank] = result
                    elif isinstance(result, Left):
                        left = result
                    else:
                        self._give_up(rank, result, waiting, events)
                elif self._snapshots is not None:
                    self._snapshots.take(ref, self._listener.records)
            if not self._heard_out and 0 not in self._at_work:  # at once: it may be lost before the others are done
                self._hear_out(events)
                events = None
            self._look_for_requests(stop)
            if self._look_at_cluster is not None:
                self._look_at_cluster()
            if self._pulse is not None and self._pulse.beat():
                self._look_at_ranks(self._pulse.beats)
        if left is not None and self._snapshots is not None:
            self._snapshots.wait_for(left.batch, self._listener.records)
            raise RegroupError
        return outcomes

    def _look_for_requests(self, stop: StopWish) -> None:
        if self._held:
            self._decide(0.0)
        elif self._leaving or self._stopping:  # a stop that is asked for from now on is one of the next attempt
            return
        elif stop.is_set():  # it stays so, for the next attempt if this one is not stopped but lost
            self._stopping = True
            self._ask_to_stop(leave=False, terminates=stop.terminates)
        elif self._snapshots is not None and self._shall_regroup():
            self._leaving = True
            self._ask_to_stop(leave=True)

    def _look_at_ranks(self, beats: list[Heartbeat | None]) -> None:
        if self._hangs is not None:
            self._hangs.look(beats, self._at_work)
        pace = self._paces.take(beats, time.monotonic()) if self._paces is not None else None
        if pace is not None:
            self._listener.take(pace)

    # ------------------------------------------------------------------------------------------------ events

    def _ask_for_events(self, seconds: float = EVENT_WAIT_SECONDS) -> Any:
        return self._wire.ask(self._workers[0], "events", seconds)

    def _pass_on(self, events: Any) -> Any:
        """Take what rank 0 has said, and ask for more; None: it is done, and ``_hear_out`` gets the rest."""
        with contextlib.suppress(RayActorError):  # rank 0 is gone: its execute tells how
            self._take(self._wire.get(events))
        return self._ask_for_events() if 0 in self._at_work else None

    def _hear_out(self, events: Any) -> None:
        """Rank 0 has come back: take what it has said last."""
        self._heard_out = True
        with contextlib.suppress(RayActorError):  # gone since: what it came back with is here
            self._drain(events)

    def _drain(self, events: Any, seconds: float | None = None) -> None:
        """Fetch what rank 0 has left to say, waiting ``seconds`` at most for an answer."""
        for answer in (events, self._ask_for_events(0.0)):
            if answer is not None and self._wire.wait([answer], seconds):
                self._take(self._wire.get(answer))

    def _take(self, events: list[Event]) -> None:
        for event in events:
            answer = self._listener.take(event)
            if isinstance(event, Report):
                self._wire.ask(self._workers[0], "answer", bool(answer))
        if self._snapshots is not None:
            self._snapshots.settle(self._listener.records)

    # ------------------------------------------------------------------------------------------------ failures

    def _get(self, ref: Any, rank: int) -> Outcome | Failure | Left | WorkerError:
        try:
            result: Outcome | Failure | Left = self._wire.get(ref)
            return result
        except RayTaskError:
            raise
        except RaySystemError as error:  # it lives
            raise UnpicklableError(
                f"What rank {rank} has returned cannot be unpickled here: {_first_line(error)} Return tensors, or "
                "objects of which this process has all that they need: no GPU for one, where it has none."
            ) from error
        except RayError as error:
            info = self._infos[rank]
            why = self._hangs.killed.get(rank) if self._hangs is not None else None
            lost = WorkerError(
                why or f"The worker of rank {rank} (pid {info.pid} on node {info.host}) is gone: {_reason(error)}",
                rank,
                info.host,
            )
            lost.__cause__ = error
            return lost

    def _give_up(self, rank: int, result: Failure | WorkerError, waiting: dict[Any, int], events: Any) -> None:
        """Find out what the first failure means, and raise it."""
        if self._close_data is not None:
            self._close_data()
        failures = {rank: result, **self._other_failures(result, waiting)}
        cause = min(failures.values(), key=_blame)
        with contextlib.suppress(Exception):  # the cause matters more
            self._drain(events, LAST_WORDS_SECONDS)
        if isinstance(cause, Failure) and not cause.is_collateral:
            raise revive(cause)
        dead = {rank for rank, failure in failures.items() if isinstance(failure, WorkerError)}
        dead |= self._come_out(waiting)
        if isinstance(cause, Failure):
            revived = revive(cause)
            cause = WorkerError(
                f"Rank {cause.rank} (on node {cause.node}) has lost the connection to the others: {cause.summary}",
                cause.rank,
                cause.node,
            )
            cause.__cause__ = revived
        raise WorkersLostError(cause, dead)

    def _other_failures(self, first: Any, others: dict[Any, int]) -> dict[int, Failure | WorkerError]:
        """What else has failed by now; awaited only where the first failure looks like a consequence."""
        patience = SECONDS_FOR_ROOT_CAUSE if isinstance(first, Failure) and first.is_collateral else 0.0
        deadline = time.monotonic() + patience
        failures = {}
        while others:
            ready = self._wire.wait(list(others), max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            rank = others.pop(ready[0])
            result = self._get(ready[0], rank)
            if not isinstance(result, Outcome | Left):
                failures[rank] = result
                if not (isinstance(result, Failure) and result.is_collateral):
                    break
        return failures

    def _come_out(self, others: dict[Any, int]) -> set[int]:
        """Wait until the other ranks have noticed; those that are dead, or made so as they have not."""
        ready = self._wire.wait(list(others), SECONDS_TO_COME_OUT, len(others)) if others else []
        late = [ref for ref in others if ref not in ready]
        dead = {others[ref] for ref in ready if isinstance(self._get(ref, others[ref]), WorkerError)}
        for ref in late:
            kill(self._workers[others[ref]], self._infos[others[ref]])
        return dead | {others[ref] for ref in late}

    # ------------------------------------------------------------------------------------------------ stopping

    def _ask_to_stop(self, leave: bool, terminates: bool = False) -> None:
        """Let all ranks stop before the same batch, or leave at the next snapshot after it; see ``StopRequest``."""
        self._held = [self._wire.ask(worker, "hold", self._number) for worker in self._workers]
        self._decision = leave, terminates
        self._decide(POLL_SECONDS)

    def _decide(self, seconds: float) -> None:
        """Tell all ranks where, once all have answered: one that hangs must not hold up the driver."""
        if len(self._wire.wait(self._held, seconds, len(self._held))) < len(self._held):
            return
        held, self._held = self._held, []
        with contextlib.suppress(RayActorError):  # a rank is gone: its execute tells how
            batch = max(self._wire.get(held))
            for worker in self._workers:
                self._wire.ask(worker, "stop_at", self._number, batch, *self._decision)


def _blame(failure: Failure | WorkerError) -> int:
    """The user's exception before a lost worker, a lost worker before what that caused in the others."""
    return 1 if isinstance(failure, WorkerError) else 2 if failure.is_collateral else 0


def _first_line(error: RayError) -> str:
    return str(error).partition("\n")[0]


def _reason(error: RayError) -> str:
    text = str(error)
    marker = "The actor is dead because "
    reason = text.partition(marker)[2].split("\n")[0] if marker in text else text.split("\n")[0]
    reason = reason.partition(" Worker exit type:")[0]  # what follows is Ray's long list of common causes
    if "memory" in reason:
        return reason
    return f"{reason} It may have been killed, by the operating system for want of memory for one."
