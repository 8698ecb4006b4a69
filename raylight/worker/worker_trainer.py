"""``trainer`` in a worker process, where there is no Trainer of the user's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylight.worker.trainer_view import TrainerView

if TYPE_CHECKING:
    from raylight.strategies import Strategy
    from raylight.worker.run import Run


class WorkerTrainer(TrainerView):
    """What hooks see as ``trainer`` in a worker process."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.config = run.config
        self.state = run.state
        self.callbacks = run.callbacks
        self.profiler = run.job.profiler

    @property
    def run(self) -> Run:
        return self._run

    @property
    def strategy(self) -> Strategy:
        return self._run.strategy

    @property
    def loggers(self) -> list[Any]:
        return self._run.loggers

    @property
    def log_dir(self) -> str | None:
        return self._run.job.log_dir

    @property
    def default_root_dir(self) -> str:
        return self._run.job.root_dir
