"""What each trial of a sweep does. Runs in the trial's own process."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raylight.callbacks.base import Callback
from raylight.callbacks.checkpoint import Checkpoint
from raylight.callbacks.progress import ProgressBar
from raylight.loggers.tensorboard import TensorBoardLogger
from raylight.sweeps.encoding import encode
from raylight.sweeps.recipe import Recipe, Targets
from raylight.sweeps.record import is_better
from raylight.trainer import Trainer
from raylight.tuner.reporter import TrialReporter
from raylight.tuner.study import TrialResources

if TYPE_CHECKING:
    from raylight.config.messages import Report
    from raylight.core.module import LightningModule
    from raylight.tuner.trial import TrialCall
    from raylight.worker.trainer_view import TrainerView

PARAMS_KEY = "raylight_sweep_params"
"""In a trial's checkpoints: its parameters when they were written."""


@dataclass
class SweepWork:
    """Trains one model, from its recipe and the trial's parameters, or from a checkpoint on."""

    recipe: Recipe
    targets: Targets
    metric: str
    mode: str
    resources: TrialResources
    sources: dict[str, str] = field(default_factory=dict)
    """Trials that an interrupted sweep had begun, and the checkpoints they had reached."""
    secrets: dict[str, Any] = field(default_factory=dict)
    """Parameters of all trials that do not come through Ray Tune."""

    def __call__(self, call: TrialCall) -> None:
        params = {**self.secrets, **call.params}
        built = self.recipe.build(self.targets, params)
        source = call.source or self.sources.get(call.name)
        callbacks = [each for each in as_list(built.flags.get("callbacks")) if not isinstance(each, ProgressBar)]
        flags = {**_quiet(callbacks), **built.flags, **self.resources.flags, "default_root_dir": call.folder}
        logger = _logger(flags, call.folder)
        own = [TrialReporter(self.metric, call.staging), ChangedHyperparameters(call.params)]
        trainer = Trainer(**{**flags, "callbacks": [*callbacks, *own]})
        best = _Best(call.gate.judge, self.metric, self.mode)
        trainer.judge = best.judge
        loaders = self.recipe.train_dataloaders, self.recipe.val_dataloaders
        trainer.fit(built.model, *loaders, datamodule=built.datamodule, ckpt_path=source)
        if logger is not None and best.value is not None:
            logger.log_hyperparams(params, {self.metric: best.value})
            logger.finalize("success")


def _quiet(callbacks: list[Any]) -> dict[str, Any]:
    """Defaults that are not Lightning's: a table shows all trials, and each keeps its checkpoints anyway."""
    return {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "num_sanity_val_steps": 0,
    }


def _logger(flags: dict[str, Any], folder: str) -> TensorBoardLogger | None:
    """The TensorBoard logger that a trial has unless its flags say otherwise; it fills the HParams page."""
    if flags.get("logger", True) is not True or flags.get("barebones") or flags.get("fast_dev_run"):
        return None
    parent, name = os.path.split(folder)
    logger = flags["logger"] = TensorBoardLogger(parent, name=name, version="", default_hp_metric=False)
    return logger


def as_list(callbacks: Any) -> list[Any]:
    """The callbacks of ``Trainer(callbacks=...)``."""
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks] if callbacks is not None else []


class _Best:
    """Passes reports on, and remembers the best value."""

    def __init__(self, judge: Any, metric: str, mode: str) -> None:
        self._judge = judge
        self._metric = metric
        self._mode = mode
        self.value: float | None = None

    def judge(self, report: Report) -> bool:
        value = report.values[self._metric]
        if self.value is None or is_better(value, self.value, self._mode):
            self.value = value
        return bool(self._judge(report))


class ChangedHyperparameters(Callback):
    """Puts the optimizers' hyperparameters, as this trial's parameters make them, over those of the checkpoint.

    A checkpoint brings the learning rate and the weight decay of the trial that wrote it, which population-based
    training has changed since. What a scheduler has made of the learning rate so far stays, as a share of the first.
    Where the parameters are the same, as after a pause, the checkpoint's word stands.
    """

    def __init__(self, params: dict[str, Any]) -> None:
        self._params = encode(params)
        self._loaded: Any = self._params
        self._groups: list[list[dict[str, Any]]] = []
        self._base_lrs: list[Any] = []

    def on_save_checkpoint(self, trainer: TrainerView, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[PARAMS_KEY] = self._params

    def on_load_checkpoint(self, trainer: TrainerView, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded = checkpoint.get(PARAMS_KEY, self._params)

    def on_fit_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """Before the checkpoint's optimizer states are loaded."""
        self._groups = [[_settings(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
        self._base_lrs = [list(getattr(each.scheduler, "base_lrs", [])) for each in trainer.lr_scheduler_configs]

    def on_train_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """After they have been loaded."""
        if self._loaded == self._params:
            return
        for optimizer, groups in zip(trainer.optimizers, self._groups, strict=True):
            for group, fresh in zip(optimizer.param_groups, groups, strict=True):
                group.update(_over_loaded(group, fresh))
        for config, base_lrs in zip(trainer.lr_scheduler_configs, self._base_lrs, strict=True):
            if base_lrs:
                config.scheduler.base_lrs = base_lrs
                config.scheduler._last_lr = [group["lr"] for group in config.scheduler.optimizer.param_groups]
        self._groups.clear()


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}


def _over_loaded(loaded: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """The settings of a parameter group that was just loaded, with fresh hyperparameters."""
    before = loaded.get("initial_lr")
    if before is None or "initial_lr" not in fresh or float(before) == 0.0:
        return fresh
    return {**fresh, "lr": loaded["lr"] * (fresh["initial_lr"] / before)}
