"""The loggers and callbacks of a Trainer: the user's, and those that flags or the model ask for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from raylight.callbacks.base import Callback
from raylight.callbacks.batch_size_finder import BatchSizeFinder
from raylight.callbacks.checkpoint import Checkpoint, ModelCheckpoint
from raylight.callbacks.checkpoint_files import absolute_dirpath
from raylight.callbacks.legacy import GradientNormLogger, TerminateOnNaN
from raylight.callbacks.lr_finder import LearningRateFinder
from raylight.callbacks.progress import ProgressBar, RichProgressBar, TQDMProgressBar
from raylight.callbacks.schedules import GradientAccumulationScheduler, Timer
from raylight.callbacks.summary import ModelSummary, RichModelSummary
from raylight.checkpoint import storage
from raylight.config.accelerators import place, wants_ray
from raylight.config.flags import TrainerConfig
from raylight.config.run_id import parts_from_logs, run_folder
from raylight.external_callbacks import external_callbacks
from raylight.loggers.base import DummyLogger, Logger
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.notebook import in_notebook
from raylight.utilities.rank_zero import rank_zero_info, rank_zero_warn


def make_loggers(config: TrainerConfig, logger: Logger | Iterable[Logger] | bool | None) -> list[Any]:
    """The loggers that ``Trainer(logger=...)`` means."""
    if config.barebones:
        if logger is not None and logger is not False:
            raise MisconfigurationException(
                f"`Trainer(barebones=True, logger={logger!r})` was passed. Logging can impact raw speed so it is "
                "disabled in barebones mode."
            )
        return []
    if logger is not None and not logger:
        return []
    if config.num_dev_batches:
        return [DummyLogger()]
    if logger is None or logger is True:
        from raylight.loggers.tensorboard import TensorBoardLogger

        root = config.default_root_dir
        if parts_from_logs(config):
            root = run_folder(local=True)
        return [TensorBoardLogger(save_dir=os.getcwd() if root is None else os.fspath(root))]
    return list(logger) if isinstance(logger, Iterable) else [logger]


def make_callbacks(
    config: TrainerConfig, given: list[Callback] | Callback | None, loggers: Sequence[Any] = ()
) -> list[Any]:
    """The user's callbacks, and those that flags ask for; checkpoints last.

    Args:
        loggers: The Trainer's.

    Raises:
        MisconfigurationException: A callback contradicts a flag, or there are two progress bars.
        RuntimeError: Two stateful callbacks have one state key.
    """
    callbacks: list[Any] = list(given) if isinstance(given, list | tuple) else [given] if given is not None else []
    default = not config.barebones
    _add_checkpoint(config, callbacks, default, loggers)
    if config.max_time is not None:
        if any(isinstance(callback, Timer) for callback in callbacks):
            rank_zero_info("Ignoring `Trainer(max_time=...)`, callbacks list already contains a Timer.")
        else:
            callbacks.append(Timer(duration=config.max_time))
    _add_progress_bar(config, callbacks, default)
    summary = config.enable_model_summary if config.enable_model_summary is not None else default
    if summary and not any(isinstance(callback, ModelSummary) for callback in callbacks):
        callbacks.append(RichModelSummary(max_depth=-1 if config.weights_summary == "full" else 1))
    if isinstance(config.accumulate_grad_batches, dict):
        callbacks.append(GradientAccumulationScheduler(config.accumulate_grad_batches))
    callbacks += _for_old_flags(config)
    callbacks += external_callbacks()
    check_state_keys(callbacks)
    return in_order(callbacks)


def _for_old_flags(config: TrainerConfig) -> list[Any]:
    """Callbacks in place of Lightning 1.x's flags."""
    callbacks: list[Any] = []
    if config.track_grad_norm != -1:
        callbacks.append(GradientNormLogger(config.track_grad_norm))
    if config.terminate_on_nan:
        callbacks.append(TerminateOnNaN())
    if config.stochastic_weight_avg:
        from raylight.callbacks.legacy_swa import StochasticWeightAveragingAtOwnRate

        callbacks.append(StochasticWeightAveragingAtOwnRate())
    if config.log_gpu_memory:
        from raylight.callbacks.device_stats_monitor import DeviceStatsMonitor

        callbacks.append(DeviceStatsMonitor())
    return callbacks


def _add_checkpoint(config: TrainerConfig, callbacks: list[Any], default: bool, loggers: Sequence[Any]) -> None:
    has_own = any(isinstance(callback, Checkpoint) for callback in callbacks)
    wanted = config.enable_checkpointing if config.enable_checkpointing is not None else default
    if has_own and not wanted:
        raise MisconfigurationException(
            "Trainer was configured with `enable_checkpointing=False` but found `ModelCheckpoint` in callbacks list."
        )
    if wanted and not has_own:
        callbacks.append(ModelCheckpoint())
    folder = None
    if config.weights_save_path is not None:
        folder = _beside_logs(config.weights_save_path, loggers)
    elif parts_from_logs(config) and config.default_root_dir is not None:
        folder = storage.join(config.default_root_dir, "checkpoints")
    for callback in callbacks if folder is not None else ():
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = absolute_dirpath(folder)


def _beside_logs(root: str | os.PathLike[str], loggers: Sequence[Any]) -> str:
    """``<root>/<name>/<version>/checkpoints``, name and version being the first logger's."""
    parts = []
    if loggers:
        name, version = loggers[0].name, loggers[0].version
        parts = [str(name), version if isinstance(version, str) else f"version_{version}"]
    return storage.join(root, *parts, "checkpoints")


def _add_progress_bar(config: TrainerConfig, callbacks: list[Any], default: bool) -> None:
    bars = [callback for callback in callbacks if isinstance(callback, ProgressBar)]
    wanted = config.enable_progress_bar if config.enable_progress_bar is not None else default
    if len(bars) > 1:
        raise MisconfigurationException(
            "You added multiple progress bar callbacks to the Trainer, but currently only one progress bar is "
            f"supported: {', '.join(type(bar).__name__ for bar in bars)}."
        )
    if bars and not wanted:
        raise MisconfigurationException(
            "Trainer was configured with `enable_progress_bar=False` but found "
            f"`{type(bars[0]).__name__}` in callbacks list."
        )
    if wanted and not bars:
        callbacks.append(_default_bar(config))


def _default_bar(config: TrainerConfig) -> ProgressBar:
    refresh_rate, position = config.progress_bar_refresh_rate, config.process_position
    if refresh_rate is None and not position and not in_notebook():  # there rich can only draw where it has widgets
        return RichProgressBar()
    return TQDMProgressBar(refresh_rate=refresh_rate or 1, process_position=position)


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
    """Searches first, so that all else goes by what they find; checkpoints last, so that they see what others did."""
    return sorted(callbacks, key=_place)


def _place(callback: Any) -> int:
    if isinstance(callback, BatchSizeFinder | LearningRateFinder):
        return 0
    if getattr(callback, "_comes_last", False):
        return 3
    return 2 if isinstance(callback, Checkpoint) else 1


def tell(config: TrainerConfig) -> None:
    """Say what is easily overlooked in these flags, and which devices there are."""
    if not wants_ray(config):
        available = torch.cuda.is_available()
        used = available and place(config).device_type == "cuda"
        rank_zero_info(f"GPU available: {available}{' (cuda)' if available else ''}, used: {used}")
    if config.deterministic and config.benchmark:
        rank_zero_warn(
            "You passed `deterministic=True` and `benchmark=True`. Note that PyTorch ignores "
            "torch.backends.cudnn.deterministic=True when torch.backends.cudnn.benchmark=True."
        )
    if config.barebones:
        rank_zero_info(
            "You are running in `Trainer(barebones=True)` mode. All features that may impact raw speed have been "
            "disabled to facilitate analyzing the Trainer overhead: checkpoints, loggers and `self.log`, the progress "
            "bar, the model summary and the sanity check."
        )
    if config.detect_anomaly:
        rank_zero_info(
            "You have turned on `Trainer(detect_anomaly=True)`. This will significantly slow down compute speed and is "
            "recommended only for model debugging."
        )
    if config.num_dev_batches:
        rank_zero_info(
            f"Running in `fast_dev_run` mode: will run the requested loop using {config.num_dev_batches} batch(es). "
            "Logging and checkpointing is suppressed."
        )
    for name in (*config.LIMITS, "val_check_interval"):
        value = getattr(config, name)
        if isinstance(value, int | float) and value == 1:
            rank_zero_info(f"`Trainer({name}={value!r})` was configured so {_one(name, isinstance(value, int))}.")


def _one(limit: str, is_count: bool) -> str:
    """What 1 (a count) or 1.0 (a share) means for a limit."""
    if limit == "val_check_interval":
        when = "after every batch" if is_count else "at the end of the training epoch"
        return f"validation will run {when}"
    per_epoch = " per epoch" if limit == "limit_train_batches" else ""
    return f"1 batch{per_epoch} will be used" if is_count else f"100% of the batches{per_epoch} will be used"
