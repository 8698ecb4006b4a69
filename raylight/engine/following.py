"""One attempt at a Job, followed from the driver: events, snapshots, a graceful stop, and what went wrong.

Runs on the driver.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylight.config.messages import Event, Outcome, Report
from raylight.engine.actor import Heartbeat, Left, WorkerInfo
from raylight.engine.failures import Failure, revive
from raylight.engine.recovery import Listener, SnapshotKeeper
from raylight.utilities.exceptions import WorkerError
from raylight.utilities.rank_zero import log

POLL_SECONDS = 0.2
EVENT_WAIT_SECONDS = 1.0
LAST_WORDS_SECONDS = 0.3
"""After a failure, how long rank 0 may take to tell what happened before it."""
SECONDS_FOR_ROOT_CAUSE = 2.0
"""After the first failure, how long the others may take to show which was the cause."""
SECONDS_TO_COME_OUT = 5.0
"""After a worker was lost, how long the others may take to notice; later they are replaced, too."""
SECONDS_TO_ANSWER = 3.0
"""For a thread of a worker that has nothing else to do."""
COLLECTIVES = ("torch/distributed", "torch/autograd/graph.py")
"""Files in whose code a rank waits for the others."""


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
        close_data: Called when a rank has failed: others may wait for data together with it.
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
        close_data: Callable[[], None],
    ) -> None:
        self._workers = workers
        self._infos = infos
        self._number = number
        self._listener = listener
        self._snapshots = snapshots
        self._hangs = HangWatch(workers, infos, hang_timeout) if hang_timeout is not None else None
        self._shall_regroup = shall_regroup
        self._close_data = close_data
        self._leaving = False
        """The ranks have been asked to leave."""

    def run(self, running: dict[Any, int], stop: threading.Event) -> dict[int, Outcome]:
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
            ready, _ = ray.wait([*waiting, events, *asked], num_returns=1, timeout=POLL_SECONDS)
            for ref in ready:
                if ref is events:
                    events = self._pass_on(events)
                elif ref in waiting:
                    rank = waiting.pop(ref)
                    result = self._get(ref, rank)
                    if isinstance(result, Outcome):
                        outcomes[rank] = result
                    elif isinstance(result, Left):
                        left = result
                    else:
                        self._give_up(rank, result, waiting, events)
                elif self._snapshots is not None:
                    self._snapshots.take(ref, self._listener.records)
            if not self._leaving:
                self._look_for_requests(stop)
            if self._hangs is not None:
                self._hangs.look()
        if left is None or self._snapshots is None:
            self._drain(events)
        else:
            with contextlib.suppress(RayActorError):  # on a node that is about to end
                self._drain(events)
            self._snapshots.wait_for(left.batch, self._listener.records)
            raise RegroupError
        return outcomes

    def _look_for_requests(self, stop: threading.Event) -> None:
        if stop.is_set():
            stop.clear()
            self._ask_to_stop(leave=False)
        elif self._snapshots is not None and self._shall_regroup():
            self._leaving = True  # a stop that is asked for from now on is one of the next attempt
            self._ask_to_stop(leave=True)

    # ------------------------------------------------------------------------------------------------ events

    def _ask_for_events(self, seconds: float = EVENT_WAIT_SECONDS) -> Any:
        return self._workers[0].events.options(concurrency_group="control").remote(seconds)

    def _pass_on(self, events: Any) -> Any:
        try:
            self._take(ray.get(events))
        except RayActorError:
            return ray.put([])  # rank 0 is gone: its execute tells how
        return self._ask_for_events()

    def _drain(self, events: Any, seconds: float | None = None) -> None:
        """Fetch what rank 0 has left to say, waiting ``seconds`` at most for an answer."""
        for answer in (events, self._ask_for_events(0.0)):
            if ray.wait([answer], timeout=seconds)[0]:
                self._take(ray.get(answer))

    def _take(self, events: list[Event]) -> None:
        for event in events:
            answer = self._listener.take(event)
            if isinstance(event, Report):
                self._workers[0].answer.options(concurrency_group="control").remote(bool(answer))
        if self._snapshots is not None:
            self._snapshots.settle(self._listener.records)

    # ------------------------------------------------------------------------------------------------ failures

    def _get(self, ref: Any, rank: int) -> Outcome | Failure | Left | WorkerError:
        try:
            result: Outcome | Failure | Left = ray.get(ref)
            return result
        except RayTaskError:
            raise
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
            ready, _ = ray.wait(list(others), num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
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
        ready, late = (
            ray.wait(list(others), num_returns=len(others), timeout=SECONDS_TO_COME_OUT) if others else ([], [])
        )
        dead = {others[ref] for ref in ready if isinstance(self._get(ref, others[ref]), WorkerError)}
        for ref in late:
            _kill(self._workers[others[ref]], self._infos[others[ref]])
        return dead | {others[ref] for ref in late}

    # ------------------------------------------------------------------------------------------------ stopping

    def _ask_to_stop(self, leave: bool) -> None:
        """Let all ranks stop before the same batch, or leave at the next snapshot after it; see ``StopRequest``."""
        held = [worker.hold.options(concurrency_group="control").remote(self._number) for worker in self._workers]
        with contextlib.suppress(RayActorError):  # a rank is gone: its execute tells how
            batch = max(ray.get(held))
            for worker in self._workers:
                worker.stop_at.options(concurrency_group="control").remote(self._number, batch, leave)


class HangWatch:
    """Notices that no rank does anything, finds out which one is to blame, and kills it.

    Args:
        workers: By rank.
        infos: By rank.
        timeout: Seconds without a batch on any rank, once there was one.
    """

    def __init__(self, workers: list[Any], infos: list[WorkerInfo], timeout: float) -> None:
        self.killed: dict[int, str] = {}
        """By rank: why."""
        self._workers = workers
        self._infos = infos
        self._timeout = timeout
        self._last: list[Heartbeat | None] = [None] * len(workers)
        self._since = time.monotonic()
        self._next_look = self._since
        self._asked: list[Any] = []

    def look(self) -> None:
        """Called often; asks the ranks now and then."""
        now = time.monotonic()
        if now < self._next_look or self.killed:
            return
        self._next_look = now + min(max(self._timeout / 10, 0.2), 10.0)
        if self._asked:
            self._last, changed = self._answers()
            if changed or not any(beat is not None and beat.batches for beat in self._last):
                self._since = now
        self._asked = [worker.heartbeat.options(concurrency_group="control").remote() for worker in self._workers]
        if now - self._since > self._timeout:
            self._blame()

    def _answers(self) -> tuple[list[Heartbeat | None], bool]:
        """What the ranks said to the last question, the old for those that did not; whether any has moved."""
        ready, _ = ray.wait(self._asked, num_returns=len(self._asked), timeout=0)
        beats = list(self._last)
        for rank, ref in enumerate(self._asked):
            if ref in ready:
                with contextlib.suppress(RayError):  # it is gone: its execute tells how
                    beats[rank] = ray.get(ref)
        moved = any(_batches(new) != _batches(old) for new, old in zip(beats, self._last, strict=True))
        return beats, moved

    def _blame(self) -> None:
        stacks = [self._stack(rank) for rank in range(len(self._workers))]
        for rank, stack in enumerate(stacks):
            log.warning("Stack of rank %d:\n%s", rank, stack or "(the process does not answer)")
        silent = [rank for rank, stack in enumerate(stacks) if stack is None]
        busy = [r for r, stack in enumerate(stacks) if stack is not None and not any(f in stack for f in COLLECTIVES)]
        batches = [_batches(beat) for beat in self._last]
        behind = [rank for rank, count in enumerate(batches) if count == min(batches)] if len(set(batches)) > 1 else []
        for rank in silent or busy or behind or range(len(self._workers)):
            info, beat = self._infos[rank], self._last[rank]
            where = f"at step {beat.step}, in {beat.where}" if beat is not None else "soon after it had begun"
            self.killed[rank] = (
                f"Rank {rank} (pid {info.pid} on node {info.host}) has hung {where}: nothing was done for "
                f"{self._timeout:g} s (hang_timeout). It was killed; the stacks of all ranks are above."
            )
            _kill(self._workers[rank], info)

    def _stack(self, rank: int) -> str | None:
        asked = self._workers[rank].stack.options(concurrency_group="control").remote()
        try:
            return str(ray.get(asked, timeout=SECONDS_TO_ANSWER))
        except (GetTimeoutError, RayError):
            return None


def _batches(beat: Heartbeat | None) -> int:
    return -1 if beat is None else beat.batches


def _blame(failure: Failure | WorkerError) -> int:
    """The user's exception before a lost worker, a lost worker before what that caused in the others."""
    return 1 if isinstance(failure, WorkerError) else 2 if failure.is_collateral else 0


def _kill(worker: Any, info: WorkerInfo) -> None:
    """End a process that may not answer any more."""
    ray.kill(worker)
    if info.node_id == ray.get_runtime_context().get_node_id():
        with contextlib.suppress(ProcessLookupError):
            os.kill(info.pid, signal.SIGKILL)
        return
    there = NodeAffinitySchedulingStrategy(info.node_id, soft=False)
    end: Any = ray.remote(num_cpus=0, max_retries=0)(os.kill)
    end.options(scheduling_strategy=there).remote(info.pid, signal.SIGKILL)


def _reason(error: RayError) -> str:
    text = str(error)
    marker = "The actor is dead because "
    reason = text.partition(marker)[2].split("\n")[0] if marker in text else text.split("\n")[0]
    reason = reason.partition(" Worker exit type:")[0]  # what follows is Ray's long list of common causes
    if "memory" in reason:
        return reason
    return f"{reason} It may have been killed, by the operating system for want of memory for one."
