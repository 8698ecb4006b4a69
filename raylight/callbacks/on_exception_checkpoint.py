"""A checkpoint for the case that something goes wrong."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from raylight.callbacks.checkpoint import Checkpoint
from raylight.checkpoint import storage
from raylight.config.run_id import below_run

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView


class OnExceptionCheckpoint(Checkpoint):
    """Write a checkpoint when a call ends with an exception; delete it when a later call ends without one.

    With this callback ``fit(ckpt_path=None)`` goes on from the newest of this file and the "last" checkpoints, where
    there is one: running a script again resumes it.

    Args:
        dirpath: Folder or URI of the file.
        filename: Its name without the extension.

    Raises:
        ValueError: ``filename`` is empty.
    """

    FILE_EXTENSION = ".ckpt"

    def __init__(self, dirpath: str | os.PathLike[str], filename: str = "on_exception") -> None:
        if not filename:
            raise ValueError("The filename cannot be empty")
        self.dirpath = below_run(dirpath)
        self.filename = filename

    @property
    def ckpt_path(self) -> str:
        """The file, whether or not it is there."""
        return storage.join(self.dirpath, self.filename + self.FILE_EXTENSION)

    def on_exception(self, trainer: TrainerView, *_: Any, **__: Any) -> None:
        trainer.save_checkpoint(self.ckpt_path)

    def teardown(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        # Called after a failure too, whose file must stay
        if trainer.is_global_zero and not trainer.interrupted:
            storage.delete(self.ckpt_path)
