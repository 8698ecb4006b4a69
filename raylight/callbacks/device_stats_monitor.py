"""How busy the device and its memory are."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import torch

from raylight.callbacks.base import Callback
from raylight.callbacks.logging_interval import log_is_due, log_is_due_in_evaluation
from raylight.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView


class DeviceStatsMonitor(Callback):
    """Log the device's statistics before and after every ``log_every_n_steps``-th batch, of the process of rank 0.

    Names are ``DeviceStatsMonitor.<hook>/<statistic>``, as ``DeviceStatsMonitor.on_train_batch_start/cpu_percent``. On
    a GPU these are ``torch.cuda.memory_stats`` (bytes and counts), on the CPU ``cpu_percent``, ``cpu_vm_percent`` and
    ``cpu_swap_percent`` of the whole node.

    Args:
        cpu_stats: Whether to log the CPU's statistics. None: only where training runs on the CPU.

    Raises:
        MisconfigurationException: Training starts without a logger.
        ModuleNotFoundError: Training starts, and the CPU's statistics need psutil, which is not installed.
    """

    def __init__(self, cpu_stats: bool | None = None) -> None:
        self._cpu_stats = cpu_stats

    def setup(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not trainer.loggers:
            raise MisconfigurationException(
                "Cannot use `DeviceStatsMonitor` callback with `Trainer(logger=False)`. "
                "Remove the callback, or use Trainer(logger=True)."
            )
        if self._wants_cpu_stats(trainer.strategy.root_device) and importlib.util.find_spec("psutil") is None:
            raise ModuleNotFoundError(
                "`DeviceStatsMonitor` cannot log CPU stats as `psutil` is not installed. "
                "Install psutil, or use DeviceStatsMonitor(cpu_stats=False)."
            )

    def _wants_cpu_stats(self, device: torch.device) -> bool:
        return device.type == "cpu" if self._cpu_stats is None else self._cpu_stats

    def _log(self, trainer: TrainerView, hook: str) -> None:
        device = trainer.strategy.root_device
        stats: dict[str, float] = dict(torch.cuda.memory_stats(device)) if device.type == "cuda" else {}
        if self._wants_cpu_stats(device):
            stats.update(cpu_stats())
        if not stats:
            return
        for logger in trainer.loggers:
            prefix = f"{type(self).__qualname__}.{hook}{logger.group_separator}"
            logger.log_metrics({prefix + name: value for name, value in stats.items()}, step=trainer.logger_step)

    def on_train_batch_start(
        self, trainer: TrainerView, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if log_is_due(trainer):
            self._log(trainer, "on_train_batch_start")

    def on_train_batch_end(
        self, trainer: TrainerView, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if log_is_due(trainer):
            self._log(trainer, "on_train_batch_end")

    def on_validation_batch_start(
        self, trainer: TrainerView, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if log_is_due_in_evaluation(trainer, trainer.num_val_batches, batch_idx, dataloader_idx):
            self._log(trainer, "on_validation_batch_start")

    def on_validation_batch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if log_is_due_in_evaluation(trainer, trainer.num_val_batches, batch_idx, dataloader_idx):
            self._log(trainer, "on_validation_batch_end")

    def on_test_batch_start(
        self, trainer: TrainerView, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if log_is_due_in_evaluation(trainer, trainer.num_test_batches, batch_idx, dataloader_idx):
            self._log(trainer, "on_test_batch_start")

    def on_test_batch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if log_is_due_in_evaluation(trainer, trainer.num_test_batches, batch_idx, dataloader_idx):
            self._log(trainer, "on_test_batch_end")


def cpu_stats() -> dict[str, float]:
    """Use of the node's CPU, memory and swap, in percent; of the CPU since the last call."""
    import psutil

    return {
        "cpu_percent": psutil.cpu_percent(),
        "cpu_vm_percent": psutil.virtual_memory().percent,
        "cpu_swap_percent": psutil.swap_memory().percent,
    }
