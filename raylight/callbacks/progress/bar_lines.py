"""A progress bar as lines of text, for the log of a job: it has no cursor."""

from __future__ import annotations

import math
import time

from raylight.config.messages import Progress
from raylight.utilities.secrets import redact_text

BAR_MARK = "\x1b[K"
"""How such a line begins. A terminal shows nothing of it; ``raylight submit`` and ``logs`` know the line by it."""
SECONDS_BETWEEN_LINES = 2.0


class BarLines:
    """Prints a line when a bar starts, when it ends, and every two seconds. Runs on the driver."""

    def __init__(self) -> None:
        self._since = 0.0
        self._next = 0.0
        self._first = 0
        self._last: tuple[object, ...] = ()

    def draw(self, event: Progress) -> None:
        """Show where the bar of ``event`` stands, if it is time to."""
        now = time.monotonic()
        if event.starts:
            self._since, self._first = now, event.completed
        whole = event.completed == event.total
        if not (whole or event.done or now >= self._next):
            return
        shown = event.description, event.completed, event.metrics
        if event.completed and shown != self._last:
            print(f"{BAR_MARK}{redact_text(self._line(event, now - self._since))}", flush=True)
            self._last, self._next = shown, now + SECONDS_BETWEEN_LINES

    def _line(self, event: Progress, seconds: float) -> str:
        total = "?" if math.isinf(event.total) else f"{event.total:g}"
        metrics = "".join(f" {name}: {_shown(value)}" for name, value in event.metrics.items())
        speed = f"{(event.completed - self._first) / seconds:.2f} it/s" if seconds > 0 else "-"
        return f"{event.description} {event.completed}/{total} {speed}{metrics}"


def _shown(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
