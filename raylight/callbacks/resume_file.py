"""The file that ``fit(ckpt_path="auto")`` goes on from when its process was killed."""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any, BinaryIO

from raylight.callbacks.checkpoint import Checkpoint
from raylight.callbacks.shared_deadline import SharedDeadline
from raylight.checkpoint import storage
from raylight.utilities.exceptions import SIGTERMException

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView

SECONDS_BETWEEN_SAVES = 600.0


class ResumeFile(Checkpoint):
    """Save after each epoch, every ten minutes, and when the user interrupts; delete it all when ``fit`` is done.

    Two files take turns, so that the one before is there should the newest be damaged.

    Args:
        dirpath: Their folder or URI.
        number: Of the ``fit`` among those of the process that do this: each has files of its own.
        run_id: Of a run that may be submitted again: its files have that name too, and the end of ``fit`` is kept, so
            that a ``fit`` that is over is not done again where what comes after it was stopped.
    """

    _comes_last = True
    _of_this_process = ("_saved_at", "_deadline")

    def __init__(self, dirpath: str | os.PathLike[str], number: int, run_id: str | None = None) -> None:
        begin = f"resume-{number}" if run_id is None else f"resume-{run_id}-{number}"
        self.paths = [storage.join(dirpath, f"{begin}-{name}.ckpt") for name in ("a", "b")]
        self.record = FitRecord(storage.join(dirpath, f"{begin}.json"))
        """Used where there is a run id."""
        self._keeps_end = run_id is not None
        self._saved_step = -1
        self._next = 0
        self._saved_at = time.monotonic()
        self._deadline = SharedDeadline()

    def found(self) -> list[str]:
        """Those that are there, the newest first."""
        there = [path for path in self.paths if storage.exists(path)]
        return sorted(there, key=storage.modified, reverse=True)

    def on_train_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._start_clock()

    def on_train_batch_end(self, trainer: TrainerView, *_: Any) -> None:
        if self._deadline.reached(trainer, self._saved_at + SECONDS_BETWEEN_SAVES - time.monotonic()):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._save(trainer)

    def on_train_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if self._keeps_end and self._saved_step != trainer.global_step:
            self._save(trainer)

    def on_exception(self, trainer: TrainerView, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            self._save(trainer)

    def on_fit_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        # Not in teardown, which is also called where a worker is lost and the run goes on
        if trainer.is_global_zero and not self._keeps_end:
            for path in self.paths:
                storage.delete(path)

    def state_dict(self) -> dict[str, Any]:
        return {"next": self._next}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._next = state_dict["next"]

    def _save(self, trainer: TrainerView) -> None:
        path = self.paths[self._next]
        self._next = 1 - self._next
        with trainer.strategy.checkpoint_io.in_background(None):
            trainer.save_checkpoint(path)
        self._saved_step = trainer.global_step
        self._start_clock()

    def _start_clock(self) -> None:
        self._saved_at = time.monotonic()
        self._deadline.restart()


class FitRecord:
    """Runs on the driver: what a later submission has to know of a ``fit`` before it loads a checkpoint, as JSON.

    Args:
        path: Of the file, or its URI.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        """What was written last: "versions" and "over_with", see ``write``."""
        found: Any = None
        if storage.exists(self.path):
            with storage.open_read(self.path) as file, contextlib.suppress(ValueError):  # not ours
                found = json.load(file)
        found = found if isinstance(found, dict) else {}
        versions = found.get("versions")
        return {"versions": versions if isinstance(versions, list) else [], "over_with": found.get("over_with")}

    def write(self, versions: list[int | str], limits: dict[str, Any] | None) -> None:
        """Replace it.

        Args:
            versions: Of the loggers.
            limits: Of a fit that is over: the flags that say when; None while it is under way.
        """
        content = json.dumps({"versions": versions, "over_with": limits}).encode()

        def fill(file: BinaryIO) -> None:
            file.write(content)

        storage.write_atomic(self.path, fill)
