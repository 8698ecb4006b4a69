"""Ctrl-C on the driver: the first asks, the second insists. A SIGTERM, such as a job's stop, asks likewise."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from raylight.utilities.notebook import in_notebook
from raylight.utilities.rank_zero import log


class StopWish(threading.Event):
    """Set: the run shall stop."""

    terminates = False
    """By a SIGTERM: the process ends then."""

    def terminate(self) -> None:
        """The process was asked to end."""
        self.terminates = True
        self.set()


@contextlib.contextmanager
def graceful_interrupt(ask: Callable[[], None], terminate: Callable[[], None] | None = None) -> Iterator[None]:
    """Runs on the driver: the first Ctrl-C in the block calls ``ask``, the second one interrupts at once.

    The first raises nothing, so it may come while a logger writes. Only a main thread hears signals; in others nothing
    changes.

    Args:
        ask: Called by the first SIGINT.
        terminate: Called by the first SIGTERM; a second one does what it did before. None leaves that signal alone, and
            so does a handler of the user's.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    again = "Interrupt the kernel" if in_notebook() else "Press Ctrl-C"
    wishes = {signal.SIGINT: (ask, f"Stopping after this batch. {again} again to stop at once.")}
    if terminate is not None and _is_default(signal.getsignal(signal.SIGTERM)):
        wishes[signal.SIGTERM] = (terminate, "SIGTERM: stopping after this batch.")
    previous = {number: signal.getsignal(number) for number in wishes}

    def handle(number: int, frame: FrameType | None) -> None:
        heard = signal.Signals(number)
        signal.signal(heard, insist if heard == signal.SIGINT else previous[heard])
        call, text = wishes[heard]
        log.warning(text)
        call()

    def insist(number: int, frame: FrameType | None) -> None:
        before = previous[signal.SIGINT]
        signal.signal(signal.SIGINT, before)
        if callable(before):
            before(number, frame)
        raise KeyboardInterrupt  # a handler of asyncio's, as of a cell that awaits, only makes a note for later

    for number in wishes:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


def _is_default(handler: Any) -> bool:
    """Nobody but Python and ``ray.init`` in a driver, which ends the process at once, has said what SIGTERM does."""
    of_ray = getattr(handler, "__module__", None) == "ray._private.worker"
    return handler is signal.SIG_DFL or (of_ray and handler.__qualname__.startswith("init."))
