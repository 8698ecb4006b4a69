"""Ctrl-C on the driver: the first asks, the second insists."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from raylight.utilities.notebook import in_notebook
from raylight.utilities.rank_zero import log


@contextlib.contextmanager
def graceful_interrupt(ask: Callable[[], None]) -> Iterator[None]:
    """Runs on the driver: the first Ctrl-C in the block calls ``ask``, the second one interrupts at once.

    The first raises nothing, so it may come while a logger writes. Only a main thread hears signals; in others nothing
    changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, insist)
        again = "Interrupt the kernel" if in_notebook() else "Press Ctrl-C"
        log.warning("Stopping after this batch. %s again to stop at once.", again)
        ask()

    def insist(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, previous)
        if callable(previous):
            previous(number, frame)
        raise KeyboardInterrupt  # a handler of asyncio's, as of a cell that awaits, only makes a note for later

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
