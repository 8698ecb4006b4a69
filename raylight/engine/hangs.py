"""A rank that does nothing any more, and holds up the others: which one it is, and its end.

Runs on the driver.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylight.engine.actor import WorkerInfo
from raylight.engine.pulse import Heartbeat
from raylight.utilities.rank_zero import log

SECONDS_TO_ANSWER = 3.0
"""For a thread of a worker that has nothing else to do."""
COLLECTIVES = ("torch/distributed", "torch/autograd/graph.py")
"""Files in whose code a rank waits for the others."""


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
        self._has_begun = False
        """There was a batch, or a rank is done."""
        self._since = time.monotonic()

    @property
    def seconds_between_looks(self) -> float:
        return min(max(self._timeout / 10, 0.2), 10.0)

    def look(self, beats: list[Heartbeat | None], at_work: set[int]) -> None:
        """These are the ranks' heartbeats now; those not ``at_work`` are done."""
        if self.killed:
            return
        now = time.monotonic()
        moved = any(_batches(new) != _batches(old) for new, old in zip(beats, self._last, strict=True))
        self._last = list(beats)
        self._has_begun |= len(at_work) < len(beats) or any(beat is not None and beat.batches > 0 for beat in beats)
        if moved or not self._has_begun:
            self._since = now
        elif now - self._since > self._timeout:
            self._blame(sorted(at_work))

    def _blame(self, ranks: list[int]) -> None:
        stacks = {rank: self._stack(rank) for rank in ranks}
        for rank, stack in stacks.items():
            log.warning("Stack of rank %d:\n%s", rank, stack or "(the process does not answer)")
        silent = [rank for rank, stack in stacks.items() if stack is None]
        busy = [r for r, stack in stacks.items() if stack is not None and not any(f in stack for f in COLLECTIVES)]
        batches = {rank: _batches(self._last[rank]) for rank in ranks}
        least = min(batches.values())
        behind = [r for r, count in batches.items() if count == least] if least < max(batches.values()) else []
        for rank in silent or busy or behind or ranks:
            info, beat = self._infos[rank], self._last[rank]
            where = f"at step {beat.step}, in {beat.where}" if beat is not None else "soon after it had begun"
            self.killed[rank] = (
                f"Rank {rank} (pid {info.pid} on node {info.host}) has hung {where}: nothing was done for "
                f"{self._timeout:g} s (hang_timeout). It was killed; the stacks of all ranks are above."
            )
            kill(self._workers[rank], info)

    def _stack(self, rank: int) -> str | None:
        asked = self._workers[rank].stack.options(concurrency_group="control").remote()
        try:
            return str(ray.get(asked, timeout=SECONDS_TO_ANSWER))
        except (GetTimeoutError, RayError):
            return None


def _batches(beat: Heartbeat | None) -> int:
    return -1 if beat is None else beat.batches


def kill(worker: Any, info: WorkerInfo) -> None:
    """End a process that may not answer any more."""
    ray.kill(worker)
    with contextlib.suppress(ProcessLookupError):
        kill_process(info)


def kill_process(info: WorkerInfo) -> None:
    """SIGKILL, on whichever node it is.

    Raises:
        ProcessLookupError: It is a process of this node, and gone.
    """
    if info.node_id == ray.get_runtime_context().get_node_id():
        os.kill(info.pid, signal.SIGKILL)
        return
    there = NodeAffinitySchedulingStrategy(info.node_id, soft=False)
    end: Any = ray.remote(num_cpus=0, max_retries=0)(_kill_here)
    end.options(scheduling_strategy=there).remote(info.pid)


def _kill_here(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it is gone already
        os.kill(pid, signal.SIGKILL)
