"""The loggers and callbacks of a Trainer: the user's, and those that flags or the model ask for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from raylight.callbacks.base import Callback
from raylight.callbacks.checkpoint import Checkpoint, ModelCheckpoint
from raylight.callbacks.progress import ProgressBar, RichProgressBar
from raylight.callbacks.schedules import GradientAccumulationScheduler, Timer
from raylight.callbacks.summary import ModelSummary
from raylight.config.flags import TrainerConfig
from raylight.external_callbacks import external_callbacks
from raylight.loggers.base import DummyLogger, Logger
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_info


def make_loggers(config: TrainerConfig, logger: Logger | Iterable[Logger] | bool | None) -> list[Any]:
    """The loggers that ``Trainer(logger=...)`` means."""
    if config.barebones:
        if logger:
            raise MisconfigurationException("barebones=True switches loggers off, but logger= is given.")
        return []
    if logger is False:
        return []
    if config.num_dev_batches:
        return [DummyLogger()]
    if logger is None or logger is True:
        from raylight.loggers.tensorboard import TensorBoardLogger

        root = config.default_root_dir
        return [TensorBoardLogger(save_dir=os.getcwd() if root is None else os.fspath(root))]
    return list(logger) if isinstance(logger, Iterable) else [logger]


def make_callbacks(config: TrainerConfig, given: list[Callback] | Callback | None) -> list[Any]:
    """The user's callbacks, and those that flags ask for; checkpoints last.

    Raises:
        MisconfigurationException: A callback contradicts a flag, or there are two progress bars.
        RuntimeError: Two stateful callbacks have one state key.
    """
    callbacks: list[Any] = list(given) if isinstance(given, list | tuple) else [given] if given is not None else []
    default = not config.barebones
    _add_checkpoint(config, callbacks, default)
    if config.max_time is not None:
        if any(isinstance(callback, Timer) for callback in callbacks):
            rank_zero_info("Ignoring `Trainer(max_time=...)`, callbacks list already contains a Timer.")
        else:
            callbacks.append(Timer(duration=config.max_time))
    _add_progress_bar(config, callbacks, default)
    summary = config.enable_model_summary if config.enable_model_summary is not None else default
    if summary and not any(isinstance(callback, ModelSummary) for callback in callbacks):
        callbacks.append(ModelSummary())
    if isinstance(config.accumulate_grad_batches, dict):
        callbacks.append(GradientAccumulationScheduler(config.accumulate_grad_batches))
    callbacks += external_callbacks()
    check_state_keys(callbacks)
    return in_order(callbacks)


def _add_checkpoint(config: TrainerConfig, callbacks: list[Any], default: bool) -> None:
    has_own = any(isinstance(callback, Checkpoint) for callback in callbacks)
    wanted = config.enable_checkpointing if config.enable_checkpointing is not None else default
    if has_own and not wanted:
        raise MisconfigurationException(
            "Trainer was configured with `enable_checkpointing=False` but found `ModelCheckpoint` in callbacks list."
        )
    if wanted and not has_own:
        callbacks.append(ModelCheckpoint())


def _add_progress_bar(config: TrainerConfig, callbacks: list[Any], default: bool) -> None:
    bars = [callback for callback in callbacks if isinstance(callback, ProgressBar)]
    wanted = config.enable_progress_bar if config.enable_progress_bar is not None else default
    if len(bars) > 1:
        raise MisconfigurationException(
            f"You added multiple progress bar callbacks to the Trainer, but currently only one progress bar is "
            f"supported: {', '.join(type(bar).__name__ for bar in bars)}."
        )
    if bars and not wanted:
        raise MisconfigurationException(
            "Trainer was configured with `enable_progress_bar=False` but found "
            f"`{type(bars[0]).__name__}` in callbacks list."
        )
    if wanted and not bars:
        callbacks.append(RichProgressBar())


def with_model_callbacks(callbacks: list[Any], configured: Any) -> list[Any]:
    """``callbacks`` with the model's own in place of those of the same type or a base of it.

    Raises:
        RuntimeError: Two stateful callbacks have one state key.
    """
    if not configured:
        return callbacks
    own = list(configured) if isinstance(configured, Sequence) else [configured]
    replaced = [
        callback
        for callback in callbacks
        if type(callback) is not Callback and any(isinstance(new, type(callback)) for new in own)
    ]
    if replaced:
        names = ", ".join(sorted({type(callback).__name__ for callback in replaced}))
        rank_zero_info(
            "The following callbacks returned in `LightningModule.configure_callbacks` will override existing "
            f"callbacks passed to Trainer: {names}"
        )
    kept = [callback for callback in callbacks if not any(callback is each for each in replaced)]
    merged = in_order(kept + own)
    check_state_keys(merged)
    return merged


def check_state_keys(callbacks: list[Any]) -> None:
    """Raise RuntimeError where two stateful callbacks would overwrite each other's state."""
    seen = set()
    for callback in callbacks:
        if getattr(type(callback), "state_dict", None) is Callback.state_dict:
            continue
        if callback.state_key in seen:
            raise RuntimeError(
                f"Found more than one stateful callback of type `{type(callback).__name__}`. In the current "
                f"configuration, this callback does not support being saved alongside other instances of the same "
                f"type (both have the state key {callback.state_key!r}). Please consult the documentation of "
                f"`{type(callback).__name__}` regarding valid settings for the callback state to be checkpointable. "
                "HINT: The `callback.state_key` must be unique among all callbacks in the Trainer."
            )
        seen.add(callback.state_key)


def in_order(callbacks: list[Any]) -> list[Any]:
    """Checkpoints last, so that they see what the others did."""
    return sorted(callbacks, key=lambda callback: isinstance(callback, Checkpoint))
