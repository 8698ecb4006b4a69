"""Jobs in this process: one worker, the user's own objects, so debuggers, closures and mocks work."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import torch

from raylight.config.messages import Job, Outcome, TrainerFn
from raylight.engine.base import Sink
from raylight.utilities.rank_zero import log
from raylight.worker.control import StopRequest
from raylight.worker.evaluation import in_dataset_order
from raylight.worker.execute import execute, single_rank


class LocalEngine:
    """Runs a Job where it is called."""

    def execute(self, job: Job, sink: Sink) -> Outcome:
        placement = job.placement
        device = (
            torch.device("cuda", placement.device_index) if placement.device_type == "cuda" else torch.device("cpu")
        )
        stop = StopRequest()
        with _graceful_interrupt(stop) if job.fn == TrainerFn.FITTING else contextlib.nullcontext():
            outcome = execute(job, single_rank(), device, sink, stop)[1]
        if outcome.predictions is not None:
            outcome.predictions = in_dataset_order([outcome.predictions])
        return outcome

    def shutdown(self) -> None:
        """Nothing is held."""


@contextlib.contextmanager
def _graceful_interrupt(stop: StopRequest) -> Iterator[None]:
    """The first Ctrl-C asks for a stop at the next batch, the second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, previous)
        log.warning("Stopping after this batch. Press Ctrl-C again to stop at once.")
        stop.stop_now()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
