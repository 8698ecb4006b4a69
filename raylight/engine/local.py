"""Jobs in this process: one worker, the user's own objects, so debuggers, closures and mocks work."""

from __future__ import annotations

import contextlib
import functools

from raylight.config.messages import Job, Outcome, TrainerFn
from raylight.engine import ray_data
from raylight.engine.base import Sink
from raylight.engine.interrupt import graceful_interrupt
from raylight.worker.control import StopRequest
from raylight.worker.execute import execute, single_rank

SECONDS_FOR_ROOM = 60.0
"""To wait for a CPU of the cluster, for tasks of Ray Data."""


class LocalEngine:
    """Runs a Job where it is called."""

    def execute(self, job: Job, sink: Sink) -> Outcome:
        device = job.placement.device
        stop = StopRequest()
        graceful = graceful_interrupt(stop.stop_now, functools.partial(stop.stop_now, terminates=True))
        with graceful if job.fn == TrainerFn.FITTING else contextlib.nullcontext():
            adapt = ray_data.in_this_process(job.write_to, _make_room)
            outcome = execute(job, single_rank(), device, sink, stop, adapt=adapt)[1]
        outcome.terminated = stop.terminates
        if outcome.predictions is not None:
            outcome.predictions = ray_data.gathered([outcome.predictions])
        return outcome

    def shutdown(self) -> None:
        """Nothing is held."""


def _make_room() -> None:
    """For the tasks of Ray Data: idle workers of another Trainer may hold all CPUs."""
    from raylight.engine import cluster, pool

    if not cluster.has_room_for_tasks():
        pool.release()
        cluster.wait_for_tasks(None, SECONDS_FOR_ROOM)
