"""A call in one thread and Ray Tune in another, taking turns: what a class Trainable needs to run a whole ``fit``."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from raylight.config.messages import Report

_Message = Report | BaseException | None


class Gate:
    """Lets a call run from report to report.

    The call's Trainer asks ``judge`` at each report, which waits until ``next`` is called again, or ``end``.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._messages: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        """From the call: a report, the exception that it ended by, or None: it is over."""
        self._verdicts: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._waits = False
        """A report of the call awaits its verdict."""

    def judge(self, report: Report) -> bool:
        """Runs in the call's thread: hand over a report; returns whether to go on."""
        self._messages.put(report)
        return self._verdicts.get()

    def next(self, call: Callable[[], None]) -> Report | None:
        """Start ``call``, or let it go on, and wait for its next report; None when it is over.

        Raises:
            Whatever the call raises.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(call,), name="raylight-trial", daemon=True)
            self._thread.start()
        else:
            self._verdicts.put(True)
        message = self._messages.get()
        self._waits = isinstance(message, Report)
        if isinstance(message, BaseException):
            raise message
        return message

    def end(self) -> None:
        """Let a call that waits at a report end there. Afterwards another one may be started."""
        if self._waits:
            self._verdicts.put(False)
            self._messages.get()  # its last word, and be it an error: nobody wants to know any more
        if self._thread is not None:
            self._thread.join()
        self._thread, self._waits = None, False

    def _run(self, call: Callable[[], None]) -> None:
        last: _Message = None
        try:
            call()
        except BaseException as error:  # KeyboardInterrupt and SystemExit of the user's code travel as well
            last = error
        self._messages.put(last)
