"""Checkpoint files on their way to where a logger keeps its records."""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Literal

from raylight.checkpoint import storage
from raylight.loggers.base import Logger, scalar
from raylight.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from raylight.callbacks.checkpoint import ModelCheckpoint

DESCRIBED = ("monitor", "mode", "save_last", "save_top_k", "save_weights_only", "_every_n_train_steps")
"""Attributes of the callback that go along with a file."""


class CheckpointUploads(Logger):
    """A logger that can keep copies of the checkpoints that ModelCheckpoint writes.

    Args:
        log_model: "all": each file when it is written; True: those that are there when the run ends, or each with
            ``save_top_k=-1``; False: none.
    """

    def __init__(self, log_model: Literal["all"] | bool) -> None:
        self._log_model = log_model
        self._logged_model_time: dict[str, float] = {}
        """Paths of what was uploaded, and when each had been written: a name may stand for several files in turn."""
        self._checkpoint_callbacks: dict[str, ModelCheckpoint] = {}
        """Callbacks whose files are uploaded in the end, by state key: from a worker comes a new copy each time."""

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Upload now or in the end, see ``log_model``."""
        if self._log_model == "all" or (self._log_model is True and checkpoint_callback.save_top_k == -1):
            self._upload_new(checkpoint_callback)
        elif self._log_model is True:
            self._checkpoint_callbacks[checkpoint_callback.state_key] = checkpoint_callback

    @property
    def takes_checkpoints(self) -> bool:
        return bool(self._log_model)

    def _upload_rest(self) -> None:
        """The run is over: upload what has waited for that."""
        for callback in self._checkpoint_callbacks.values():
            self._upload_new(callback)

    def _upload_new(self, callback: ModelCheckpoint) -> None:
        for path, score in _scores(callback).items():
            if not storage.is_local(path):
                rank_zero_warn(f"{type(self).__name__} uploads local checkpoints only: {path} stays where it is.")
                continue
            if not os.path.isfile(path) or self._logged_model_time.get(path, 0.0) >= os.path.getmtime(path):
                continue
            self._logged_model_time[path] = os.path.getmtime(path)
            aliases = ["latest", "best"] if path == callback.best_model_path else ["latest"]
            self._upload(path, _metadata(callback, path, score, self._metadata_key(callback)), aliases)

    def _metadata_key(self, callback: ModelCheckpoint) -> str:
        """Under which name the callback's settings stand in the metadata."""
        return callback.__class__.__name__

    @abstractmethod
    def _upload(self, path: str, metadata: dict[str, Any], aliases: list[str]) -> None:
        """Keep a copy of a file."""


def _scores(callback: ModelCheckpoint) -> dict[str, Any]:
    """Paths of the files that the callback keeps, each with its score; the oldest first."""
    scores = {
        callback.last_model_path: callback.current_score,
        callback.best_model_path: callback.best_model_score,
        **callback.best_k_models,
    }
    scores.pop("", None)  # there is no such file yet
    return {path: scores[path] for path in sorted(scores, key=_written)}


def _written(path: str) -> tuple[float, str]:
    return os.path.getmtime(path) if os.path.isfile(path) else 0.0, path


def _metadata(callback: ModelCheckpoint, path: str, score: Any, key: str) -> dict[str, Any]:
    settings = {name: getattr(callback, name) for name in DESCRIBED if hasattr(callback, name)}
    return {"score": scalar(score), "original_filename": os.path.basename(path), key: settings}
