"""What is logged beside the metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.optim import Optimizer

from raylight.callbacks.base import Callback
from raylight.callbacks.logging_interval import log_is_due
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView


class LearningRateMonitor(Callback):
    """Log the learning rate of every optimizer.

    A parameter group is named after its scheduler's ``name`` or, without one, ``lr-<class of the optimizer>``; a second
    optimizer of that class gets ``-1``, and several groups of one optimizer get ``/pg1``, ``/pg2``, or ``/<name>`` if
    the groups have a "name".

    Args:
        logging_interval: "step": every ``log_every_n_steps`` steps; "epoch": when an epoch starts; None: each
            scheduler by its own ``interval``, and an optimizer without scheduler by both.
        log_momentum: Log ``<name>-momentum`` too (the first of "betas", else "momentum", else 0).
        log_weight_decay: Log ``<name>-weight_decay`` too.

    Attributes:
        lrs: Every value logged so far, by name.

    Raises:
        MisconfigurationException: ``logging_interval`` is unknown, or the Trainer has no logger.
    """

    def __init__(
        self,
        logging_interval: Literal["step", "epoch"] | None = None,
        log_momentum: bool = False,
        log_weight_decay: bool = False,
    ) -> None:
        if logging_interval not in (None, "step", "epoch"):
            raise MisconfigurationException("logging_interval should be `step` or `epoch` or `None`.")
        self.logging_interval = logging_interval
        self.log_momentum = log_momentum
        self.log_weight_decay = log_weight_decay
        self.lrs: dict[str, list[float]] = {}
        self.last_momentum_values: dict[str, float | None] = {}
        self.last_weight_decay_values: dict[str, float | None] = {}

    def on_train_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if not trainer.loggers:
            raise MisconfigurationException(
                "Cannot use `LearningRateMonitor` callback with `Trainer` that has no logger. "
                "Remove the callback, or use Trainer(logger=True)."
            )
        watched = _watch(trainer)
        if self.log_momentum and any(_momentum_key(each.optimizer) is None for each in watched):
            rank_zero_warn(
                "You have set log_momentum=True, but some optimizers do not have momentum. "
                "This will log a value 0 for the momentum.",
                category=RuntimeWarning,
            )
        names = [name for each in watched for name in each.names]
        self.lrs = {name: [] for name in names}
        self.last_momentum_values = {f"{name}-momentum": None for name in names}
        self.last_weight_decay_values = {f"{name}-weight_decay": None for name in names}

    def on_train_batch_start(
        self, trainer: TrainerView, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.logging_interval != "epoch" and log_is_due(trainer):
            self._log(trainer, "step")

    def on_train_epoch_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if self.logging_interval != "step":
            self._log(trainer, "epoch")

    def _log(self, trainer: TrainerView, interval: str) -> None:
        values: dict[str, float] = {}
        for watched in _watch(trainer):  # anew each time: a callback may have added parameter groups
            self._follow_renaming(watched.names)
            if self.logging_interval is not None or watched.interval in (None, interval):
                values.update(self._read(watched))
        if values:
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
            trainer.log_metrics(values, step=trainer.logger_step)

    def _read(self, watched: _Watched) -> dict[str, float]:
        values: dict[str, float] = {}
        momentum_key = _momentum_key(watched.optimizer)
        for name, group in zip(watched.names, watched.optimizer.param_groups, strict=True):
            values[name] = float(group["lr"])  # a tensor when the optimizer is capturable
            self.lrs[name].append(values[name])
            if self.log_momentum:
                momentum = _momentum(group, momentum_key)
                values[f"{name}-momentum"] = self.last_momentum_values[f"{name}-momentum"] = momentum
            if self.log_weight_decay:
                weight_decay = float(group.get("weight_decay", 0))
                values[f"{name}-weight_decay"] = self.last_weight_decay_values[f"{name}-weight_decay"] = weight_decay
        return values

    def _follow_renaming(self, names: Iterable[str]) -> None:
        """A first group "lr-SGD" is called "lr-SGD/pg1" once there is a second one: it takes its values along."""
        for name in names:
            if name not in self.lrs:
                former = name.removesuffix("/pg1")
                self.lrs[name] = self.lrs.pop(former, []) if former != name else []


@dataclass
class _Watched:
    optimizer: Optimizer
    names: list[str]
    """One for each parameter group."""
    interval: str | None
    """Of its scheduler; None without one."""


def _watch(trainer: TrainerView) -> list[_Watched]:
    """The optimizers with a scheduler in the order of the schedulers, then those without."""
    seen: Counter[type[Optimizer]] = Counter()
    watched: list[_Watched] = []
    for config in trainer.lr_scheduler_configs:
        optimizer = config.scheduler.optimizer
        watched.append(_Watched(optimizer, _group_names(optimizer, config.name, seen), config.interval))
    scheduled = {id(each.optimizer) for each in watched}
    for wrapped in trainer.optimizers:
        optimizer = getattr(wrapped, "optimizer", wrapped)
        if id(optimizer) not in scheduled:
            watched.append(_Watched(optimizer, _group_names(optimizer, None, seen), None))
    return watched


def _group_names(optimizer: Optimizer, name: str | None, seen: Counter[type[Optimizer]]) -> list[str]:
    """A name for each parameter group; ``seen`` counts the optimizers of a class that have no ``name`` of their own."""
    if name is None:
        name = f"lr-{type(optimizer).__name__}"
        seen[type(optimizer)] += 1
    if seen[type(optimizer)] > 1:
        name = f"{name}-{seen[type(optimizer)] - 1}"
    groups = optimizer.param_groups
    if len(groups) == 1:
        return [f"{name}/{groups[0]['name']}" if groups[0].get("name") else name]
    suffixes = [group.get("name", f"pg{number}") for number, group in enumerate(groups, start=1)]
    duplicates = {suffix for suffix, count in Counter(suffixes).items() if count > 1}
    if duplicates:
        raise MisconfigurationException(
            "A single `Optimizer` cannot have multiple parameter groups with identical `name` values. "
            f"{name} has duplicated parameter group names {duplicates}"
        )
    return [f"{name}/{suffix}" for suffix in suffixes]


def _momentum(group: dict[str, Any], key: str | None) -> float:
    if key is None:
        return 0.0
    return float(group["betas"][0] if key == "betas" else group.get(key, 0))


def _momentum_key(optimizer: Optimizer) -> str | None:
    return next((key for key in ("betas", "momentum") if key in optimizer.defaults), None)
