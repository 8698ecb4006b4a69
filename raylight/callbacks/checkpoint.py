"""When a checkpoint is written, which ones are kept, and under what name."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import torch
from torch import Tensor

from raylight.callbacks.base import Callback
from raylight.callbacks.checkpoint_files import (
    absolute_dirpath,
    default_dirpath,
    find_files,
    has_files,
    lies_in,
    same_path,
)
from raylight.callbacks.checkpoint_naming import fill_template
from raylight.callbacks.checkpoint_triggers import check_triggers, saves_on_train_epoch_end, validates_after_batch
from raylight.callbacks.shared_deadline import SharedDeadline
from raylight.checkpoint import storage
from raylight.checkpoint.format import not_written
from raylight.checkpoint.io import LARGE_BYTES
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.old_arguments import CHECKPOINT_ARGUMENTS, understands
from raylight.utilities.rank_zero import rank_zero_info, rank_zero_warn

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView


class Checkpoint(Callback):
    """Base of callbacks that write checkpoints: the Trainer calls them last, and finds them by this type."""


class ModelCheckpoint(Checkpoint):
    """Write checkpoints while training, and keep the best.

    Every rank takes the same decisions; ``trainer.save_checkpoint`` is collective and rank 0 touches the files.

    Args:
        dirpath: Folder or URI (``s3://bucket/folder``) of the files. None: the "checkpoints" folder beside the first
            logger's files, without a logger that in ``default_root_dir``.
        filename: Template such as ``"{epoch}-{val_loss:.2f}"``; None is ``"{epoch}-{step}"``.
        monitor: Logged metric that ranks the checkpoints. None: the newest is the best.
        verbose: Tell of every decision.
        save_last: True: a copy ``last.ckpt`` with every checkpoint. "link": a symbolic link instead (local folders).
        save_top_k: How many of the best to keep; -1 all, 0 none. Without ``monitor`` only -1, 0 and 1 have a meaning.
        save_on_exception: Write one more when the fit ends with an exception.
        save_weights_only: Leave out the states of optimizers, schedulers and callbacks.
        mode: "min" or "max": which ``monitor`` is better.
        auto_insert_metric_name: Whether ``{epoch}`` becomes ``epoch=3`` rather than ``3``.
        every_n_train_steps: Trigger: optimizer steps between checkpoints. None and 0: not this trigger.
        train_time_interval: Trigger: time between checkpoints, looked at after each training batch.
        every_n_epochs: Trigger: epochs between checkpoints; the default, with 1. 0: none of the best are saved.
        save_on_train_epoch_end: Whether the epoch trigger acts when the training epoch ends, or when validation ends.
            None: when the training epoch ends, if validation runs once per epoch or not at all.
        enable_version_counter: Append ``-v1``, ``-v2`` ... rather than overwrite a file.
        async_save: True: a process of its own writes the files, and training goes on as soon as the tensors are copied
            into memory that it shares. There are two such copies at most: a save that finds both still being written
            waits for one. Older files are deleted when the newer one is complete. What fails is raised by the next
            save or at the end of the fit, which waits for all files. When training is killed, that process still
            writes what it has. Tensors of a GPU are in the file as the CPU's. A logger that takes the files hears of
            one when it is complete, and no file is begun before. False: training waits for the file. None: True
            where the tensors take more than 64 MB. With a CheckpointIO of your own in ``Trainer(plugins=...)``, and
            where a path such as memory:// is of this process only, files are written as with False.

    Raises:
        MisconfigurationException: A value is out of range, or more than one trigger is given; ``async_save=True`` with
            a CheckpointIO of your own (when the fit starts).

    The constants ``CHECKPOINT_JOIN_CHAR``, ``CHECKPOINT_EQUALS_CHAR``, ``CHECKPOINT_NAME_LAST`` (a template too),
    ``FILE_EXTENSION`` and ``STARTING_VERSION`` may be changed on the object or in a subclass.
    """

    _of_this_process = ("_last_time_checked", "_deadline")
    CHECKPOINT_JOIN_CHAR = "-"
    CHECKPOINT_EQUALS_CHAR = "="
    CHECKPOINT_NAME_LAST = "last"
    FILE_EXTENSION = ".ckpt"
    STARTING_VERSION = 1

    # What a script reads after fit
    best_model_path: str
    best_model_score: Tensor | None
    last_model_path: str
    best_k_models: dict[str, Tensor]
    kth_best_model_path: str
    kth_value: Tensor
    current_score: Tensor | None

    @understands(CHECKPOINT_ARGUMENTS)
    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        monitor: str | None = None,
        verbose: bool = False,
        save_last: bool | Literal["link"] | None = None,
        save_top_k: int = 1,
        save_on_exception: bool = False,
        save_weights_only: bool = False,
        mode: str = "min",
        auto_insert_metric_name: bool = True,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = None,
        every_n_epochs: int | None = None,
        save_on_train_epoch_end: bool | None = None,
        enable_version_counter: bool = True,
        async_save: bool | None = None,
    ) -> None:
        self.dirpath = absolute_dirpath(dirpath)
        self.filename = filename
        self.monitor = monitor
        self.verbose = verbose
        self.save_last = save_last
        self.save_top_k = save_top_k
        self.save_on_exception = save_on_exception
        self.save_weights_only = save_weights_only
        self.mode = mode
        self.auto_insert_metric_name = auto_insert_metric_name
        no_trigger = every_n_train_steps is None and every_n_epochs is None and train_time_interval is None
        self._every_n_train_steps = every_n_train_steps or 0
        self._every_n_epochs = 1 if no_trigger else every_n_epochs or 0
        self._train_time_interval = train_time_interval
        self._save_on_train_epoch_end = save_on_train_epoch_end
        self._enable_version_counter = enable_version_counter
        self.async_save = async_save
        self._check_arguments()

        self.best_model_path = ""
        self.best_model_score = None
        self.last_model_path = ""
        self.best_k_models = {}
        self.kth_best_model_path = ""
        self.kth_value = torch.tensor(self._worst_value())
        self.current_score = None
        self._last_global_step_saved = 0  # a model that made no step is not worth a file
        self._last_checkpoint_saved = ""
        self._last_time_checked: float | None = None
        self._deadline = SharedDeadline()
        self._defer_save_until_validation = False
        self._validation_has_run = False
        self._missing_metric_reported = False
        self._loggers_wait = False
        """There are some that have not heard of the last file, as it was not complete."""
        self._written: set[str] = set()
        """Files of this run; after a worker was lost, those of before the snapshot that it goes on from, and since."""

    def _check_arguments(self) -> None:
        if self.mode not in ("min", "max"):
            raise MisconfigurationException(f"`mode` can be min, max but got {self.mode}")
        if self.save_top_k < -1:
            raise MisconfigurationException(f"Invalid value for save_top_k={self.save_top_k}. Must be >= -1")
        check_triggers(self._every_n_train_steps, self._every_n_epochs, self._train_time_interval)
        if self.monitor is None and self.save_top_k not in (-1, 0, 1):
            raise MisconfigurationException(
                f"ModelCheckpoint(save_top_k={self.save_top_k}, monitor=None) is not a valid configuration. "
                "No quantity for top_k to track: set `monitor`, or save_top_k to -1, 0 or 1."
            )

    @property
    def every_n_epochs(self) -> int:
        return self._every_n_epochs

    # State

    @property
    def state_key(self) -> str:
        return self._generate_state_key(
            monitor=self.monitor,
            mode=self.mode,
            every_n_train_steps=self._every_n_train_steps,
            every_n_epochs=self._every_n_epochs,
            train_time_interval=self._train_time_interval,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor,
            "best_model_score": self.best_model_score,
            "best_model_path": self.best_model_path,
            "current_score": self.current_score,
            "dirpath": self.dirpath,
            "best_k_models": self.best_k_models,
            "kth_best_model_path": self.kth_best_model_path,
            "kth_value": self.kth_value,
            "last_model_path": self.last_model_path,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back the ranking; with another ``dirpath`` only ``best_model_path``, since the rest is not there."""
        self.best_model_path = state_dict["best_model_path"]
        former_dirpath = state_dict.get("dirpath", self.dirpath)
        if former_dirpath != self.dirpath:
            rank_zero_warn(
                f"The dirpath has changed from {former_dirpath!r} to {self.dirpath!r}, therefore `best_model_score`, "
                "`kth_best_model_path`, `kth_value`, `last_model_path` and `best_k_models` won't be reloaded. "
                "Only `best_model_path` will be reloaded."
            )
            return
        self.best_model_score = state_dict["best_model_score"]
        self.kth_best_model_path = state_dict.get("kth_best_model_path", self.kth_best_model_path)
        self.kth_value = state_dict.get("kth_value", self.kth_value)
        self.best_k_models = state_dict.get("best_k_models", self.best_k_models)
        self.last_model_path = state_dict.get("last_model_path", self.last_model_path)

    # Triggers

    def setup(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = trainer.strategy.broadcast(self._resolve_dirpath(trainer))
        self._validation_has_run = False
        if self.save_last == "link" and "://" in self.dirpath:
            raise MisconfigurationException(
                "`ModelCheckpoint(save_last='link')` is only supported for local file paths, "
                f"got `dirpath={self.dirpath}`. Use save_last=True there."
            )
        if stage == "fit":
            self._prepare_fit(trainer, self.dirpath)

    def _prepare_fit(self, trainer: TrainerView, dirpath: str) -> None:
        self._written.clear()
        if self.async_save and not trainer.strategy.checkpoint_io.writes_in_background:
            raise MisconfigurationException(
                f"ModelCheckpoint(async_save=True) has no say beside {type(trainer.strategy.checkpoint_io).__name__}, "
                "which decides by itself how files are written: leave out async_save, or that plugin."
            )
        if trainer.is_global_zero:
            storage.delete_leftovers(dirpath)
            if self.save_top_k != 0 and has_files(dirpath) and not trainer.going_on:
                rank_zero_warn(f"Checkpoint directory {dirpath} exists and is not empty.")

    def teardown(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        self._tell_waiting_loggers(trainer)

    def on_train_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._last_time_checked = time.monotonic()
        self._deadline.restart()
        if trainer.is_global_zero and self.async_save is not False:
            trainer.strategy.checkpoint_io.make_room(functools.partial(self._expected_bytes, trainer))

    def _expected_bytes(self, trainer: TrainerView) -> int | None:
        """Of a checkpoint's tensors, if they are to be written in the background; None before the first step."""
        if trainer.global_step == 0:
            return None
        model = trainer.lightning_module
        tensors = [*model.parameters(), *model.buffers()]
        if not self.save_weights_only:
            states = [state for optimizer in trainer.optimizers for state in list(optimizer.state.values())]
            tensors += [each for state in states for each in list(state.values()) if isinstance(each, torch.Tensor)]
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
        size = sum(storages.values())
        return size if self.async_save or size > LARGE_BYTES else 0

    def _listens_to(self, hook: str) -> bool:
        if hook != "on_train_batch_end" or type(self).on_train_batch_end is not ModelCheckpoint.on_train_batch_end:
            return True
        return bool(self._every_n_train_steps) or self._train_time_interval is not None

    def on_train_batch_end(
        self, trainer: TrainerView, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._every_n_train_steps:
            if trainer.global_step % self._every_n_train_steps:
                return
        elif self._train_time_interval is None or not self._time_is_over(trainer, self._train_time_interval):
            return
        metrics = self._monitor_candidates(trainer)
        if self.monitor is not None and (self.monitor not in metrics or self._metric_is_stale(trainer)):
            self._defer_save_until_validation = True
        elif not self._should_skip_saving(trainer):
            self._save_topk_checkpoint(trainer, metrics)
            self._save_last_checkpoint(trainer, metrics)

    def on_train_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if not self._should_skip_saving(trainer) and self._should_save_on_train_epoch_end(trainer):
            self._save_for_epoch(trainer)

    def on_validation_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._validation_has_run = self._validation_has_run or not trainer.sanity_checking
        if self._should_skip_saving(trainer) or self._should_save_on_train_epoch_end(trainer):
            return
        if not self._defer_save_until_validation:
            self._save_for_epoch(trainer)
            return
        metrics = self._monitor_candidates(trainer)
        self._save_topk_checkpoint(trainer, metrics)
        self._save_last_checkpoint(trainer, metrics)
        self._defer_save_until_validation = False

    def on_train_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if self.save_last and not self._last_checkpoint_saved and not trainer.fast_dev_run:
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_exception(self, trainer: TrainerView, pl_module: LightningModule, exception: BaseException) -> None:
        """Collective when it saves: the engine must call it on every rank or on none."""
        if not self.save_on_exception or self._should_skip_saving(trainer):
            return
        self._tell_waiting_loggers(trainer)
        metrics = self._monitor_candidates(trainer)
        filepath = self.format_checkpoint_name(metrics)
        self._save_checkpoint(trainer, filepath)
        self._save_last_checkpoint(trainer, metrics)
        rank_zero_info(
            f"An {type(exception).__name__} was raised with message: {exception}, saved checkpoint to {filepath}"
        )

    def _time_is_over(self, trainer: TrainerView, interval: timedelta) -> bool:
        if self._last_time_checked is None:
            return False
        now = time.monotonic()
        if not self._deadline.reached(trainer, self._last_time_checked + interval.total_seconds() - now):
            return False
        self._last_time_checked = now
        return True

    def _metric_is_stale(self, trainer: TrainerView) -> bool:
        """Whether a validation that follows at once will log the metric anew."""
        return not self._should_save_on_train_epoch_end(trainer) and validates_after_batch(trainer)

    def _should_skip_saving(self, trainer: TrainerView) -> bool:
        return (
            bool(trainer.fast_dev_run)
            or trainer.state.fn != "fit"
            or trainer.sanity_checking
            or trainer.global_step == self._last_global_step_saved
        )

    def _should_save_on_train_epoch_end(self, trainer: TrainerView) -> bool:
        if self._save_on_train_epoch_end is not None:
            return self._save_on_train_epoch_end
        return saves_on_train_epoch_end(trainer)

    def _save_for_epoch(self, trainer: TrainerView) -> None:
        metrics = self._monitor_candidates(trainer)
        if self._every_n_epochs >= 1 and (trainer.current_epoch + 1) % self._every_n_epochs == 0:
            self._save_topk_checkpoint(trainer, metrics)
        saved_now = self._last_global_step_saved == trainer.global_step
        if saved_now or (self.save_last == "link" and self._last_checkpoint_saved):
            self._save_last_checkpoint(trainer, metrics)

    # The best k

    def _monitor_candidates(self, trainer: TrainerView) -> dict[str, Any]:
        """The metrics, with "epoch" and "step" from the trainer unless they were logged."""
        metrics: dict[str, Any] = dict(trainer.callback_metrics)
        for name, counter in (("epoch", trainer.current_epoch), ("step", trainer.global_step)):
            logged = metrics.get(name)
            metrics[name] = logged.int() if isinstance(logged, Tensor) else torch.tensor(counter)
        return metrics

    def check_monitor_top_k(self, trainer: TrainerView, current: Tensor | None = None) -> bool:
        """Whether ``current`` is among the best k so far; all ranks must agree. Collective once there are k."""
        if current is None:
            return False
        if self.save_top_k == -1 or len(self.best_k_models) < self.save_top_k:
            return True
        kth_value = self.best_k_models[self.kth_best_model_path].to(current.device)
        better = current < kth_value if self.mode == "min" else current > kth_value
        return bool(trainer.strategy.reduce_boolean_decision(bool(better)))

    def _save_topk_checkpoint(self, trainer: TrainerView, metrics: dict[str, Any]) -> None:
        if self.save_top_k == 0:
            return
        self._tell_waiting_loggers(trainer)
        if self.monitor is None:
            self._save_newest(trainer, metrics)
            return
        if self.monitor not in metrics:
            self._report_missing_metric(metrics)
        current = metrics.get(self.monitor)
        if self.check_monitor_top_k(trainer, current):
            assert current is not None
            self._update_best_and_save(current, trainer, metrics)
        elif self.verbose:
            rank_zero_info(f"{_moment(metrics)}: {self.monitor!r} was not in top {self.save_top_k}")

    def _report_missing_metric(self, metrics: Mapping[str, Any]) -> None:
        message = (
            f"`ModelCheckpoint(monitor={self.monitor!r})` could not find the monitored key in the returned metrics: "
            f"{list(metrics)}. HINT: Did you call `log({self.monitor!r}, value)` in the `LightningModule`?"
        )
        if self._validation_has_run:
            raise MisconfigurationException(message)
        if not self._missing_metric_reported:
            rank_zero_warn(message)
        self._missing_metric_reported = True

    def _save_newest(self, trainer: TrainerView, metrics: dict[str, Any]) -> None:
        filepath = self._free_path(trainer, metrics, self.filename, own_path=self.best_model_path)
        # Set before saving: the path stands in the file
        previous, self.best_model_path = self.best_model_path, filepath
        self._save_checkpoint(trainer, filepath)
        if self.save_top_k == 1:
            self._remove_checkpoint(trainer, previous, filepath)

    def _update_best_and_save(self, current: Tensor, trainer: TrainerView, metrics: dict[str, Any]) -> None:
        removed = ""
        if len(self.best_k_models) == self.save_top_k:
            removed = self.kth_best_model_path
            del self.best_k_models[removed]
        filepath = self._free_path(trainer, metrics, self.filename, own_path=removed)
        # On the CPU, since the driver that reads it may have no GPU
        score = current.detach().cpu().clone()
        self._rank(filepath, torch.full_like(score, self._worst_value()) if torch.isnan(score) else score)
        if self.verbose:
            k = self.save_top_k if self.save_top_k != -1 else len(self.best_k_models)
            rank_zero_info(
                f"{_moment(metrics)}: {self.monitor!r} reached {self.current_score:0.5f} "
                f"(best {self.best_model_score:0.5f}), saving model to {filepath!r} as top {k}"
            )
        self._save_checkpoint(trainer, filepath)
        self._remove_checkpoint(trainer, removed, filepath)

    def _rank(self, filepath: str, score: Tensor) -> None:
        """Take ``filepath`` among the best k, and find the best and the worst of them again."""
        best, worst = (min, max) if self.mode == "min" else (max, min)
        self.current_score = score
        self.best_k_models[filepath] = score
        if self.save_top_k in (-1, len(self.best_k_models)):
            self.kth_best_model_path = worst(self.best_k_models, key=self.best_k_models.__getitem__)
            self.kth_value = self.best_k_models[self.kth_best_model_path]
        self.best_model_path = best(self.best_k_models, key=self.best_k_models.__getitem__)
        self.best_model_score = self.best_k_models[self.best_model_path]

    def _worst_value(self) -> float:
        return float("inf" if self.mode == "min" else "-inf")

    # Names

    def format_checkpoint_name(
        self,
        metrics: Mapping[str, Any],
        filename: str | None = None,
        ver: int | None = None,
        prefix: str | None = None,
    ) -> str:
        """Path of a checkpoint with these metrics.

        Args:
            metrics: Values for the template's placeholders.
            filename: Template; None is this callback's ``filename``.
            ver: Version to append as ``-v<ver>``.
            prefix: What to put before the name, with a "-" between.

        >>> ModelCheckpoint(filename="{epoch}-{val_loss:.2f}").format_checkpoint_name({"epoch": 2, "val_loss": 0.123})
        'epoch=2-val_loss=0.12.ckpt'
        """
        template = filename or self.filename or "{epoch}" + self.CHECKPOINT_JOIN_CHAR + "{step}"
        name = fill_template(template, metrics, self.auto_insert_metric_name, self.CHECKPOINT_EQUALS_CHAR)
        parts = [] if prefix is None else [prefix]
        parts.append(name)
        if ver is not None:
            parts.append(f"v{ver}")
        name = self.CHECKPOINT_JOIN_CHAR.join(parts) + self.FILE_EXTENSION
        return storage.join(self.dirpath, name) if self.dirpath else name

    def file_exists(self, filepath: str | os.PathLike[str], trainer: TrainerView) -> bool:
        """Whether rank 0 sees a file that is to stay. Collective: every rank must call it, and gets the same answer."""
        exists = trainer.is_global_zero and _is_taken(trainer, filepath)
        return bool(trainer.strategy.reduce_boolean_decision(exists, all=False))

    def _free_path(self, trainer: TrainerView, metrics: Mapping[str, Any], template: str | None, own_path: str) -> str:
        """First version of the name that is free, or is ``own_path``, which will be replaced. Collective."""
        path = self.format_checkpoint_name(metrics, template)
        if self._enable_version_counter:
            version = self.STARTING_VERSION
            # One broadcast, however many versions: only rank 0 looks at the disk
            while trainer.is_global_zero and path != own_path and _is_taken(trainer, path):
                path = self.format_checkpoint_name(metrics, template, ver=version)
                version += 1
        return str(trainer.strategy.broadcast(path))

    def _resolve_dirpath(self, trainer: TrainerView) -> str:
        return self.dirpath if self.dirpath is not None else default_dirpath(trainer)

    def find_last_checkpoints(self, trainer: TrainerView) -> set[str]:
        """Files named after ``CHECKPOINT_NAME_LAST``, versions included: candidates for ``ckpt_path="last"``."""
        return find_files(self._resolve_dirpath(trainer), self.CHECKPOINT_NAME_LAST, self.FILE_EXTENSION)

    # Files

    def _save_checkpoint(self, trainer: TrainerView, filepath: str) -> None:
        """Collective: every rank must call it."""
        with trainer.strategy.checkpoint_io.in_background(self.async_save):
            trainer.save_checkpoint(filepath, self.save_weights_only)
        self._written.add(filepath)
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath
        self._loggers_wait = True
        if trainer.strategy.checkpoint_io.expects(filepath) is None or not any(map(_takes_files, trainer.loggers)):
            self._tell_waiting_loggers(trainer)

    def _tell_waiting_loggers(self, trainer: TrainerView) -> None:
        """Before anything changes here, as loggers look at what this object says of the file."""
        if not self._loggers_wait:
            return
        self._loggers_wait = False
        if trainer.is_global_zero:
            if any(map(_takes_files, trainer.loggers)):
                trainer.strategy.checkpoint_io.wait()
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)

    def _save_last_checkpoint(self, trainer: TrainerView, metrics: Mapping[str, Any]) -> None:
        """Collective: every rank must call it."""
        if not self.save_last:
            return
        self._tell_waiting_loggers(trainer)
        filepath = self._free_path(trainer, metrics, self.CHECKPOINT_NAME_LAST, own_path=self.last_model_path)
        # Set before saving: the path stands in the file
        previous, self.last_model_path = self.last_model_path, filepath
        if self.save_last == "link" and self._last_checkpoint_saved and self.save_top_k != 0:
            if trainer.is_global_zero:
                trainer.strategy.checkpoint_io.link_checkpoint(self._last_checkpoint_saved, filepath)
            self._written.add(filepath)
            trainer.strategy.barrier()
        else:
            self._save_checkpoint(trainer, filepath)
        self._remove_checkpoint(trainer, previous, filepath)

    def _remove_checkpoint(self, trainer: TrainerView, previous: str, current: str) -> None:
        """Delete ``previous``, unless it is ``current``, the file this run resumed from, or in a foreign folder."""
        assert self.dirpath is not None
        if not previous or previous == current or not lies_in(previous, self.dirpath):
            return
        if trainer.ckpt_path is not None and same_path(previous, str(trainer.ckpt_path)):
            return
        self._written.discard(previous)
        if trainer.is_global_zero:
            trainer.strategy.remove_checkpoint(previous)

    def to_yaml(self, filepath: str | os.PathLike[str] | None = None) -> None:
        """Write ``best_k_models``, path and score of each; None is ``best_k_models.yaml`` in ``dirpath``."""
        import yaml

        if filepath is None:
            assert self.dirpath is not None
            filepath = storage.join(self.dirpath, "best_k_models.yaml")
        content = yaml.dump({path: score.item() for path, score in self.best_k_models.items()}).encode()

        def write(stream: BinaryIO) -> None:
            stream.write(content)

        storage.write_atomic(filepath, write)


def _is_taken(trainer: TrainerView, path: str | os.PathLike[str]) -> bool:
    """Whether a file is at ``path``, or will be when what is under way is done, that no save may overwrite.

    It may where an attempt has left the file that is done again.
    """
    expected: bool | None = trainer.strategy.checkpoint_io.expects(path)
    if expected is not None:
        return expected
    try:
        return storage.exists(path) and (_is_written(trainer, path) or not trainer.is_redone(path))
    except OSError as error:
        raise not_written(path, f"{type(error).__name__}: {error}", error.errno) from error


def _is_written(trainer: TrainerView, path: str | os.PathLike[str]) -> bool:
    """Whether this run has the file already, by any of its callbacks."""
    callbacks = (each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint))
    return any(str(path) in each._written for each in callbacks)


def _takes_files(logger: Any) -> bool:
    return bool(getattr(logger, "takes_checkpoints", True))


def _moment(metrics: Mapping[str, Any]) -> str:
    return f"Epoch {metrics['epoch']:d}, global step {metrics['step']:d}"
