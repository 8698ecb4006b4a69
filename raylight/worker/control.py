"""What the driver and a run agree on: requests that all ranks follow at the same batch, and snapshots to go on from."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raylight.worker.run import Run

MARGIN = 2
"""Batches between a request and the batch before which a rank waits for the driver's decision."""


class LeaveFit(Exception):
    """The run goes on with other workers, from the snapshot of this batch, which was just taken."""

    def __init__(self, batch: int) -> None:
        super().__init__(batch)
        self.batch = batch


class StopRequest:
    """A graceful stop, or a change of workers, agreed on through the driver.

    The driver asks every rank to ``hold``: each names a batch that it will not start before it knows where to stop.
    The driver then sends the largest of these to all as ``stop_at``. No rank has passed it, so all stop there.
    """

    def __init__(self) -> None:
        self.batch = 0
        """Batches started, over all epochs; kept up by the training loop."""
        self._lock = threading.Lock()
        self.start_anew()

    def start_anew(self) -> None:
        """What was requested has been done."""
        self.pending = False
        """Set: ``reached`` wants to be asked before each batch."""
        self.leaves = False
        """The request is to leave at the next snapshot, for a run of other workers."""
        self.terminates = False
        """The driver's process was asked to end, by a SIGTERM."""
        self._hold: int | None = None
        self._stop_at: int | None = None
        self._decided = threading.Event()

    def hold(self) -> int:
        """Called while a run goes on, from another thread: the batch before which this rank will wait."""
        self.pending = True  # at most one more batch begins unnoticed; MARGIN allows for it
        with self._lock:
            self._hold = self.batch + MARGIN
            return self._hold

    def stop_at(self, batch: int, leaves: bool = False, terminates: bool = False) -> None:
        """The driver's decision."""
        self._stop_at, self.leaves, self.terminates = batch, leaves, terminates
        self._decided.set()
        self.pending = True

    def stop_now(self, terminates: bool = False) -> None:
        """For a run of one rank: stop before the next batch."""
        self.stop_at(0, terminates=terminates)

    def reached(self, batch: int) -> bool:
        """Whether to stop before starting ``batch`` (batches started so far, over all epochs)."""
        with self._lock:
            must_wait = self._hold is not None and batch >= self._hold
        if must_wait:
            self._decided.wait()
        return self._stop_at is not None and batch >= self._stop_at


class NoSnapshots:
    """A run takes none, and starts from none: in the user's own process, which would be lost with them."""

    due: float = math.inf
    """Batches over all epochs after which the next is to be taken. Read on the step path."""
    start: Any = None
    """The one to go on from."""

    def checkpoint(self) -> dict[str, Any]:
        """What the run starts from, in the form of a checkpoint."""
        raise AssertionError("there is nothing to start from")

    def restore(self, run: Run) -> None:
        """Put the run back to where the snapshot was taken, but for what ``exact`` does."""

    def begin(self, run: Run) -> None:
        """Training is about to begin, or to go on."""

    def take(self, run: Run) -> None:
        """Between two batches, on all ranks at the same one. Collective.

        Raises:
            LeaveFit: The run goes on with other workers.
        """

    def leave(self) -> bool:
        """Take the next one as soon as it is possible, and then leave; False: not here, but in the run around it."""
        return False

    def outlives(self, error: BaseException) -> bool:
        """Whether ``error`` comes of another worker's end, and the run goes on without this attempt."""
        return False
