"""The file that ``ckpt_path`` means: a path, "best", "last", "hpc", or None."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from raylight.callbacks.checkpoint import Checkpoint, ModelCheckpoint
from raylight.checkpoint import storage
from raylight.config.messages import TrainerFn
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from raylight.worker.trainer_view import TrainerView


def choose(
    trainer: TrainerView, fn: TrainerFn, ckpt_path: str | os.PathLike[str] | None, model_given: bool
) -> str | None:
    """Runs on the driver: the path to load from; None to load nothing.

    Args:
        ckpt_path: As the user gave it. None is "best" for an evaluation of the last model, and "last" for a fit with
            an OnExceptionCheckpoint.
        model_given: Whether the user gave a model to the call.

    Raises:
        ValueError: The one that was asked for does not exist.
    """
    if ckpt_path is None:
        ckpt_path = _default(trainer, fn, model_given)
    if ckpt_path is None:
        return None
    if ckpt_path == "best":
        return _best(trainer, fn)
    if ckpt_path == "last":
        return _last(trainer, fn)
    if ckpt_path == "hpc":
        return _hpc(trainer, fn)
    if ckpt_path == "auto":
        raise MisconfigurationException(f'ckpt_path="auto" resumes `fit`; `{fn}` takes "best", "last", or a path.')
    if isinstance(ckpt_path, str) and re.fullmatch(r"registry(:.*)?", ckpt_path, re.IGNORECASE):
        raise MisconfigurationException(
            f"`.{fn}(ckpt_path={ckpt_path!r})` names a model registry, and there is none: download the file and give "
            "its path, or a URI such as s3://bucket/model.ckpt."
        )
    return os.fspath(ckpt_path) or None


def _default(trainer: TrainerView, fn: TrainerFn, model_given: bool) -> str | None:
    if fn == TrainerFn.FITTING:
        return _default_of_fit(trainer)
    if model_given:
        return None
    rank_zero_warn(
        f"`.{fn}(ckpt_path=None)` was called without a model. The best model of the previous `fit` call will be used. "
        f"You can pass `.{fn}(ckpt_path='best')` to use the best model or `.{fn}(ckpt_path='last')` to use the last "
        "model. If you pass a value, this warning will be silenced."
    )
    return "best"


def _default_of_fit(trainer: TrainerView) -> str | None:
    path = _newest(trainer) if _saved_on_exception(trainer) else None
    if path is not None:
        rank_zero_warn(
            f"`.fit(ckpt_path=None)` goes on from {path}, as the Trainer has an `OnExceptionCheckpoint`. Delete that "
            "file, or give another `ckpt_path`, if this is not intended."
        )
    return path


def _best(trainer: TrainerView, fn: TrainerFn) -> str:
    if len(trainer.checkpoint_callbacks) > 1:
        rank_zero_warn(
            f'`.{fn}(ckpt_path="best")` is called with Trainer configured with multiple `ModelCheckpoint` callbacks. '
            "It will use the best checkpoint path from first checkpoint callback."
        )
    callback = trainer.checkpoint_callback
    if callback is None:
        raise ValueError(
            f'`.{fn}(ckpt_path="best")` is set but `ModelCheckpoint` is not configured. Give the model, or a path.'
        )
    best: str | None = getattr(callback, "best_model_path", None)
    if best:
        return best
    if trainer.fast_dev_run:
        raise ValueError(
            f'You cannot execute `.{fn}(ckpt_path="best")` with `fast_dev_run=True`. Please pass an exact checkpoint '
            f"path to `.{fn}(ckpt_path=...)`"
        )
    raise ValueError(
        f'`.{fn}(ckpt_path="best")` is set but `ModelCheckpoint` is not configured to save the best model, or has not '
        "saved any yet. Give the model, or a path."
    )


def _last(trainer: TrainerView, fn: TrainerFn) -> str | None:
    path = _newest(trainer)
    if path is None:
        rank_zero_warn(
            f'.{fn}(ckpt_path="last") is set, but there is no last checkpoint available. No checkpoint will be loaded. '
            "HINT: Set `ModelCheckpoint(..., save_last=True)`."
        )
    return path


def _newest(trainer: TrainerView) -> str | None:
    """The newest of the files that callbacks call their last."""
    found = {callback.ckpt_path for callback in _saved_on_exception(trainer)}
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            found |= callback.find_last_checkpoints(trainer)
    return max((path for path in found if path and storage.exists(path)), key=storage.modified, default=None)


def fallbacks(trainer: TrainerView, path: str | None) -> list[str]:
    """Runs on the driver: further files of the trainer's callbacks, the newest first, in case ``path`` is damaged."""
    if path is None:
        return []
    found = {callback.ckpt_path for callback in _saved_on_exception(trainer)}
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            found |= {*callback.find_last_checkpoints(trainer), *callback.best_k_models, callback.best_model_path}
    there = [each for each in found - {path, ""} if storage.exists(each)]
    return sorted(there, key=storage.modified, reverse=True)


def _saved_on_exception(trainer: TrainerView) -> list[Any]:
    """The callbacks that save one file, when a run fails."""
    return [each for each in trainer.callbacks if isinstance(each, Checkpoint) and hasattr(each, "ckpt_path")]


def _hpc(trainer: TrainerView, fn: TrainerFn) -> str:
    """The newest of the files that a cluster's scheduler has made a run save, ``hpc_ckpt_<number>.ckpt``."""
    root = trainer.default_root_dir
    found = [re.fullmatch(r"hpc_ckpt_(\d+)\.ckpt", name) for name in storage.list_dir(root)]
    numbers = [int(match[1]) for match in found if match]
    if not numbers:
        raise ValueError(
            f'`.{fn}(ckpt_path="hpc")` is set but no HPC checkpoint was found in {os.fspath(root)}. Please pass an '
            f"exact checkpoint path to `.{fn}(ckpt_path=...)`"
        )
    return storage.join(root, f"hpc_ckpt_{max(numbers)}.ckpt")
