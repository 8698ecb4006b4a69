"""The seam between a Trainer and the place where its jobs run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from raylight.config.messages import Event, Job, Outcome

Sink = Callable[[Event], Any]
"""Takes the events of a run, on the driver, in their order; what it returns for a Report is the answer to it."""


class Engine(Protocol):
    """Where jobs run."""

    def execute(self, job: Job, sink: Sink) -> Outcome:
        """Do the Job and return when it is over; what the user's code raises there is raised here."""
        ...

    def shutdown(self) -> None:
        """Let go of all processes and resources."""
        ...
