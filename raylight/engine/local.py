"""Jobs in this process: one worker, the user's own objects, so debuggers, closures and mocks work."""

from __future__ import annotations

import contextlib
import functools

from raylight.config.messages import Job, Outcome, TrainerFn
from raylight.engine.base import Sink
from raylight.engine.interrupt import graceful_interrupt
from raylight.worker.control import StopRequest
from raylight.worker.evaluation import in_dataset_order
from raylight.worker.execute import execute, single_rank


class LocalEngine:
    """Runs a Job where it is called."""

    def execute(self, job: Job, sink: Sink) -> Outcome:
        device = job.placement.device
        stop = StopRequest()
        graceful = graceful_interrupt(stop.stop_now, functools.partial(stop.stop_now, terminates=True))
        with graceful if job.fn == TrainerFn.FITTING else contextlib.nullcontext():
            outcome = execute(job, single_rank(), device, sink, stop)[1]
        outcome.terminated = stop.terminates
        if outcome.predictions is not None:
            outcome.predictions = in_dataset_order([outcome.predictions])
        return outcome

    def shutdown(self) -> None:
        """Nothing is held."""
