"""Ctrl-C on the driver: the first asks, the second insists."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

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
        signal.signal(signal.SIGINT, previous)
        log.warning("Stopping after this batch. Press Ctrl-C again to stop at once.")
        ask()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
