"""Progress bars: they decide when and what to show; the driver's terminal draws it."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from raylight.callbacks.base import Callback
from raylight.config.messages import Progress
from raylight.utilities.aliases import lazy_names

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.state import TrainerView

__path__: list[str] = []
"""Lightning has a package here: ``raylight.utilities.aliases`` serves its modules."""
if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)

SECONDS_BETWEEN_REFRESHES = 0.2


class ProgressBar(Callback):
    """Show how far a run is, with the metrics logged under ``prog_bar=True``.

    Args:
        refresh_rate: Batches between two refreshes at the least; 0 shows nothing. Refreshes are also at least a fifth
            of a second apart, as a terminal is slower than a training step.
    """

    style = "rich"

    def __init__(self, refresh_rate: int = 1) -> None:
        self.refresh_rate = refresh_rate
        self._enabled = refresh_rate > 0
        self._next_refresh = 0.0
        self._epoch = 0
        self._metrics: dict[str, Any] = {}

    @property
    def is_enabled(self) -> bool:
        return self._enabled and self.refresh_rate > 0

    @property
    def is_disabled(self) -> bool:
        return not self.is_enabled

    def enable(self) -> None:
        """Show the bar again."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing until ``enable``."""
        self._enabled = False

    def get_metrics(self, trainer: TrainerView, pl_module: LightningModule) -> dict[str, int | str | float]:
        """What stands beside the bar: the logger's version as "v_num", then the metrics. Override to change it."""
        version = trainer.logger.version if trainer.logger is not None else None
        standard: dict[str, int | str | float] = {}
        if version is not None and version != "":
            standard["v_num"] = version[-4:] if isinstance(version, str) else version
        return {**standard, **trainer.progress_bar_metrics}

    def print(self, *args: Any, **kwargs: Any) -> None:
        """``print`` beside the bar."""
        print(*args, **kwargs)

    def setup(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        self._next_refresh = 0.0  # another process has another clock

    # One bar for training, another for each evaluation
    def on_train_epoch_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._epoch = trainer.current_epoch
        self._show(trainer, pl_module, "train", 0, trainer.num_training_batches)

    def on_train_batch_end(
        self, trainer: TrainerView, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() >= self._next_refresh or trainer.state.is_last_batch:
            self._refresh(trainer, pl_module, "train", batch_idx + 1, trainer.state.num_training_batches)

    def on_train_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._show(trainer, pl_module, "train", trainer.state.batch_idx + 1, trainer.num_training_batches)

    def on_train_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._show(trainer, pl_module, "train", trainer.state.batch_idx + 1, trainer.num_training_batches, done=True)

    def on_validation_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._show(trainer, pl_module, self._stage(trainer), 0, sum(trainer.num_val_batches))

    def on_validation_batch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._evaluation_batch(trainer, pl_module, trainer.num_val_batches, batch_idx, dataloader_idx)

    def on_validation_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        total = sum(trainer.num_val_batches)
        self._show(trainer, pl_module, self._stage(trainer), total, total, done=True)

    def on_test_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._show(trainer, pl_module, "test", 0, sum(trainer.num_test_batches))

    def on_test_batch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._evaluation_batch(trainer, pl_module, trainer.num_test_batches, batch_idx, dataloader_idx)

    def on_test_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        total = sum(trainer.num_test_batches)
        self._show(trainer, pl_module, "test", total, total, done=True)

    def on_predict_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._show(trainer, pl_module, "predict", 0, sum(trainer.num_predict_batches))

    def on_predict_batch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._evaluation_batch(trainer, pl_module, trainer.num_predict_batches, batch_idx, dataloader_idx)

    def on_predict_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        total = sum(trainer.num_predict_batches)
        self._show(trainer, pl_module, "predict", total, total, done=True)

    def _stage(self, trainer: TrainerView) -> str:
        return str(trainer.state.stage)

    def _evaluation_batch(
        self, trainer: TrainerView, pl_module: LightningModule, totals: list[float], batch_idx: int, dataloader_idx: int
    ) -> None:
        if time.monotonic() >= self._next_refresh:
            done = sum(totals[:dataloader_idx]) + batch_idx + 1
            self._refresh(trainer, pl_module, self._stage(trainer), done, sum(totals))

    def _refresh(
        self, trainer: TrainerView, pl_module: LightningModule, key: str, completed: float, total: float
    ) -> None:
        if completed % self.refresh_rate == 0 or completed == total:
            self._show(trainer, pl_module, key, completed, total)

    def _show(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        key: str,
        completed: float,
        total: float,
        done: bool = False,
    ) -> None:
        if self.is_disabled or not trainer.is_global_zero:
            return
        self._next_refresh = time.monotonic() + SECONDS_BETWEEN_REFRESHES
        if self._may_read_metrics(trainer):
            self._metrics = self.get_metrics(trainer, pl_module)
        completed = 0 if math.isinf(completed) else int(completed)
        trainer.emit(Progress(key, self._description(trainer, key), completed, total, self._metrics, done, self.style))

    def _may_read_metrics(self, trainer: TrainerView) -> bool:
        # Reading a metric waits for the GPU: there only where the loggers read them as well.
        if trainer.state.device_type == "cpu" or not trainer.training or trainer.state.is_last_batch:
            return True
        return bool(trainer.log_every_n_steps) and (trainer.logger_step + 1) % trainer.log_every_n_steps == 0

    def _description(self, trainer: TrainerView, key: str) -> str:
        if key == "train":
            last = "" if trainer.max_epochs in (None, -1) else f"/{int(trainer.max_epochs) - 1}"
            return f"Epoch {self._epoch}{last}"
        return {
            "sanity_check": "Sanity Checking",
            "validate": "Validation",
            "test": "Testing",
            "predict": "Predicting",
        }[key]


class RichProgressBar(ProgressBar):
    """The default bar, drawn by rich.

    Args:
        refresh_rate: As for ProgressBar.
        leave: Keep the finished bar of each epoch on the terminal.
    """

    def __init__(self, refresh_rate: int = 1, leave: bool = False) -> None:
        super().__init__(refresh_rate)
        self.leave = leave

    def on_train_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        batches = trainer.state.batch_idx + 1
        self._show(trainer, pl_module, "train", batches, trainer.num_training_batches, done=self.leave)


class TQDMProgressBar(RichProgressBar):
    """A bar drawn by tqdm.

    Args:
        refresh_rate: As for ProgressBar.
        process_position: Lines to leave free above the bars; only 0 is possible.
        leave: As for RichProgressBar.
    """

    style = "tqdm"

    def __init__(self, refresh_rate: int = 1, process_position: int = 0, leave: bool = False) -> None:
        super().__init__(refresh_rate, leave)
        if process_position:
            raise ValueError("process_position is not supported: raylight draws all of a run's bars from one process.")
