"""Bars that raylight draws: the half of them that decides, in the worker of rank 0, when and what to show."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raylight.callbacks.progress.progress_bar import ProgressBar
from raylight.config.messages import Progress

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView

SECONDS_BETWEEN_REFRESHES = 0.2


class DrawnBar(ProgressBar):
    """Sends a ``Progress`` event for what is to be shown; ``draw`` shows it on the driver's terminal.

    Both halves are methods of the same callback, so that what a subclass overrides counts wherever training runs. In
    this process they are one object; with workers elsewhere the deciding half is that worker's copy.
    """

    _enabled = True
    _leave = False
    _next_refresh = 0.0
    _drawn_elsewhere = False
    _batches_between_refreshes = 1
    _shows_every_batch = False
    _completed = 0
    _trained = 0
    _epoch = ""
    _total: float = 0
    _metrics: Mapping[str, Any] = MappingProxyType({})

    @property
    def is_enabled(self) -> bool:
        raise NotImplementedError

    @property
    def is_disabled(self) -> bool:
        return not self.is_enabled

    def enable(self) -> None:
        """Show the bar again."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing until ``enable``."""
        self._enabled = False

    # The drawing half. Runs on the driver.

    def draw(self, trainer: TrainerView, event: Progress) -> None:
        """Show the bar as ``event`` says."""
        raise NotImplementedError

    def move(self, key: str, completed: int) -> None:
        """Set the position of a bar of this process, without drawing it."""

    @property
    def shows_line(self) -> bool:
        """Whether a line of text below the bars can be kept up to date: on a terminal only."""
        return False

    def show_line(self, text: str) -> None:
        """Have ``text`` below the bars, in place of the last such line; not before there is a bar."""

    def close_bars(self) -> None:
        """Leave the terminal to others."""

    # The deciding half. Runs in every worker; enabled on rank 0.

    def seconds_between_refreshes(self) -> float:
        """Of the terminal, at the least."""
        return SECONDS_BETWEEN_REFRESHES

    def describe_epoch(self, trainer: TrainerView) -> str:
        """What stands before the training bar."""
        return f"Epoch {trainer.current_epoch}"

    def setup(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._drawn_elsewhere = trainer.run is not None and trainer.run.job.trainer is None
        self._next_refresh = 0.0  # another process has another clock
        # Own get_metrics may count, and own hooks read the bar; on a GPU reading metrics waits for it, so not there
        kind = type(self)
        overridden = (
            kind.get_metrics is not ProgressBar.get_metrics
            or kind.on_train_batch_end is not DrawnBar.on_train_batch_end
        )
        self._shows_every_batch = overridden and trainer.state.device_type == "cpu"

    def on_train_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._describe_training(trainer)  # training may go on within an epoch, which has no start then
        self._show(trainer, "train", self.train_description, 0, math.inf, starts=True)

    def on_train_epoch_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._describe_training(trainer)
        self._show(trainer, "train", self._epoch, 0, self._total, starts=True)

    def on_train_batch_end(
        self, trainer: TrainerView, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._advances("train", batch_idx + 1, trainer.state.is_last_batch):
            self._show_training(trainer, pl_module, self._trained)

    def on_train_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._show_training(trainer, pl_module, self._trained, done=self._leave)

    def on_train_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if not self._leave:  # else it has been closed
            self._show(trainer, "train", self._epoch, self._trained, self._total, self._metrics, done=True)

    def on_validation_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._start_evaluation(trainer)

    def on_validation_batch_start(
        self, trainer: TrainerView, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.has_dataloader_changed(dataloader_idx):
            self._start_loader(trainer, self.total_val_batches_current_dataloader)

    def on_validation_batch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._end_batch(trainer, batch_idx + 1, self.total_val_batches_current_dataloader)

    def on_validation_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._end_evaluation(trainer, trainer.num_val_batches)
        if trainer.state.fn != "fit":
            return
        if trainer.sanity_checking:
            self._read_metrics(trainer, pl_module)
        else:
            self._show_training(trainer, pl_module, self._trained)

    def on_test_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._start_evaluation(trainer)

    def on_test_batch_start(
        self, trainer: TrainerView, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.has_dataloader_changed(dataloader_idx):
            self._start_loader(trainer, self.total_test_batches_current_dataloader)

    def on_test_batch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._end_batch(trainer, batch_idx + 1, self.total_test_batches_current_dataloader)

    def on_test_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._end_evaluation(trainer, trainer.num_test_batches)

    def on_predict_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._start_evaluation(trainer)

    def on_predict_batch_start(
        self, trainer: TrainerView, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.has_dataloader_changed(dataloader_idx):
            self._start_loader(trainer, self.total_predict_batches_current_dataloader)

    def on_predict_batch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._end_batch(trainer, batch_idx + 1, self.total_predict_batches_current_dataloader)

    def on_predict_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._end_evaluation(trainer, trainer.num_predict_batches)

    def _start_evaluation(self, trainer: TrainerView) -> None:
        self.reset_dataloader_idx_tracker()
        self._show(trainer, str(trainer.state.stage), self._describe(trainer), 0, math.inf, starts=True)

    def _start_loader(self, trainer: TrainerView, total: float) -> None:
        description = f"{self._describe(trainer)} DataLoader {self._current_eval_dataloader_idx}"
        self._show(trainer, str(trainer.state.stage), description, 0, total, starts=True)

    def _end_batch(self, trainer: TrainerView, completed: int, total: float) -> None:
        stage, self._completed = str(trainer.state.stage), completed
        if self._advances(stage, completed, completed == total):
            description = f"{self._describe(trainer)} DataLoader {self._current_eval_dataloader_idx}"
            self._show(trainer, stage, description, completed, total)

    def _end_evaluation(self, trainer: TrainerView, batches: list[float]) -> None:
        total = batches[self._current_eval_dataloader_idx or 0]
        self._show(trainer, str(trainer.state.stage), self._describe(trainer), self._completed, total, done=True)
        self.reset_dataloader_idx_tracker()

    def _describe_training(self, trainer: TrainerView) -> None:
        self._epoch, self._total, self._trained = self.describe_epoch(trainer), self.total_train_batches, 0

    def _describe(self, trainer: TrainerView) -> str:
        return {
            "sanity_check": self.sanity_check_description,
            "validate": self.validation_description,
            "test": self.test_description,
            "predict": self.predict_description,
        }[str(trainer.state.stage)]

    def _advances(self, key: str, completed: int, is_last: bool) -> bool:
        """Note the position, and tell whether it is time to show it."""
        if not self.is_enabled or (completed % self._batches_between_refreshes and not is_last):
            return False
        self.move(key, completed)
        if key == "train":
            self._trained = completed
        return is_last or self._shows_every_batch or time.monotonic() >= self._next_refresh

    def _show_training(
        self, trainer: TrainerView, pl_module: LightningModule, completed: int, done: bool = False
    ) -> None:
        self._read_metrics(trainer, pl_module)
        self._show(trainer, "train", self._epoch, completed, self._total, self._metrics, done=done)

    def _read_metrics(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if self.is_enabled and self._may_read_metrics(trainer):
            self._metrics = self.get_metrics(trainer, pl_module)

    def _show(
        self,
        trainer: TrainerView,
        key: str,
        description: str,
        completed: int,
        total: float,
        metrics: Mapping[str, Any] | None = None,
        starts: bool = False,
        done: bool = False,
    ) -> None:
        if self.is_enabled:
            self._next_refresh = time.monotonic() + self.seconds_between_refreshes()
            trainer.emit(Progress(key, description, completed, total, dict(metrics or {}), starts, done))

    def _may_read_metrics(self, trainer: TrainerView) -> bool:
        # Reading a metric waits for the GPU: there only where the loggers read them as well.
        if trainer.state.device_type == "cpu" or not trainer.training or trainer.state.is_last_batch:
            return True
        return bool(trainer.log_every_n_steps) and (trainer.logger_step + 1) % trainer.log_every_n_steps == 0
