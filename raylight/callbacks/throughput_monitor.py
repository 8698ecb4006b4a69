"""How fast training and evaluation are."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from raylight.callbacks.base import Callback
from raylight.callbacks.logging_interval import log_is_due, log_is_due_in_evaluation
from raylight.config.messages import RunningStage, TrainerFn
from raylight.utilities.rank_zero import rank_zero_warn
from raylight.utilities.throughput import Throughput, get_available_flops

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView


@dataclass
class _Pace:
    """Of one stage, on rank 0."""

    throughput: Throughput
    start: float = 0.0
    """On ``time.perf_counter``'s clock; moved on by the time that other stages took."""
    elapsed: float = 0.0
    batches: int = 0
    samples: int = 0
    lengths: int = 0
    step: int = 0
    """Batches of all calls or, in fit, of the training epoch at work: the loggers' x axis in evaluation."""


class ThroughputMonitor(Callback):
    """Log how many batches, samples, items and operations are done per second, every ``log_every_n_steps`` steps.

    Names are ``<stage>/<name>``, such as ``train/device/samples_per_sec``, with the names of ``Throughput.compute``.
    All batches are taken to be as large as those of rank 0. On a GPU it waits for the device after every batch.

    Args:
        batch_size_fn: Number of samples in a batch.
        length_fn: Number of items, such as tokens, in a batch. None: items are not counted.
        **kwargs: For ``Throughput``: ``window_size``, ``separator``, and ``available_flops`` for a device that raylight
            does not know.

    The model may have an attribute or property ``flops_per_batch``, best found with
    ``raylight.utilities.throughput.measure_flops``; without it operations are not counted.
    """

    def __init__(
        self, batch_size_fn: Callable[[Any], int], length_fn: Callable[[Any], int] | None = None, **kwargs: Any
    ) -> None:
        self.kwargs = kwargs
        self.batch_size_fn = batch_size_fn
        self.length_fn = length_fn
        self.available_flops: float | None = None
        self._paces: dict[tuple[TrainerFn, RunningStage], _Pace] = {}
        self._counts_flops: bool | None = None

    def setup(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        dtype = getattr(trainer.precision_plugin, "dtype", torch.float32)
        self.available_flops = self.kwargs.get("available_flops")
        if self.available_flops is None:
            self.available_flops = get_available_flops(trainer.strategy.root_device, dtype)
        for pace in self._paces.values():
            pace.throughput = self._make_throughput(trainer)

    def _make_throughput(self, trainer: TrainerView) -> Throughput:
        settings = {**self.kwargs, "available_flops": self.available_flops, "world_size": trainer.world_size}
        return Throughput(**settings)

    def _pace(self, trainer: TrainerView) -> _Pace:
        fn, stage = trainer.state.fn, trainer.state.stage
        assert fn is not None
        assert stage is not None
        if (fn, stage) not in self._paces:
            self._paces[fn, stage] = _Pace(self._make_throughput(trainer))
        return self._paces[fn, stage]

    def _start(self, trainer: TrainerView) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        pace = self._pace(trainer)
        if trainer.state.fn == TrainerFn.FITTING:
            pace.throughput.reset()
            pace.batches = pace.samples = pace.lengths = 0
        pace.start, pace.elapsed = time.perf_counter(), 0.0

    @torch.inference_mode()  # the user's functions may compute on the batch
    def _update(self, trainer: TrainerView, pl_module: LightningModule, batch: Any) -> None:
        pace = self._pace(trainer)
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()  # else the clock is read before the work is done
        pace.elapsed = time.perf_counter() - pace.start
        pace.batches += 1
        pace.step += 1
        pace.samples += self.batch_size_fn(batch)
        if self.length_fn is not None:
            pace.lengths += self.length_fn(batch)
        pace.throughput.update(
            time=pace.elapsed,
            batches=pace.batches,
            samples=pace.samples,
            lengths=None if self.length_fn is None else pace.lengths,
            flops=self._flops_per_batch(pl_module),
        )

    def _flops_per_batch(self, pl_module: LightningModule) -> int | None:
        if self._counts_flops is None:
            self._counts_flops = hasattr(pl_module, "flops_per_batch")
            if not self._counts_flops:
                rank_zero_warn(
                    "When using the `ThroughputMonitor`, you need to define a `flops_per_batch` attribute or property "
                    f"in {type(pl_module).__name__} to compute the FLOPs."
                )
        return int(pl_module.flops_per_batch) if self._counts_flops else None

    def _log(self, trainer: TrainerView, step: int, **extra: float) -> None:
        throughput = self._pace(trainer).throughput
        prefix = f"{trainer.state.stage}{throughput.separator}"
        metrics = {prefix + name: value for name, value in throughput.compute().items()}
        trainer.log_metrics({**metrics, **extra}, step=step)

    def on_train_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._start(trainer)

    def on_train_epoch_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        validating = self._paces.get((TrainerFn.FITTING, RunningStage.VALIDATING))
        if validating is not None:
            validating.step = 0

    def on_train_batch_end(
        self, trainer: TrainerView, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not trainer.is_global_zero:
            return
        self._update(trainer, pl_module, batch)
        if not trainer.state.is_accumulating and log_is_due(trainer):  # a rate includes the optimizer's step
            self._log(trainer, trainer.logger_step, epoch=trainer.current_epoch)

    def _evaluation_batch(
        self, trainer: TrainerView, pl_module: LightningModule, limits: list[float], batch: Any, *index: int
    ) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        self._update(trainer, pl_module, batch)
        if log_is_due_in_evaluation(trainer, limits, *index):
            self._log(trainer, self._pace(trainer).step)

    def on_validation_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._start(trainer)

    def on_validation_batch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        limits = trainer.num_val_batches
        self._evaluation_batch(trainer, pl_module, limits, batch, batch_idx, dataloader_idx)

    def on_validation_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """Training's clock goes on from where it stood before the validation."""
        training = self._paces.get((TrainerFn.FITTING, RunningStage.TRAINING))
        if training is not None and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            training.start = time.perf_counter() - training.elapsed

    def on_test_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._start(trainer)

    def on_test_batch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        limits = trainer.num_test_batches
        self._evaluation_batch(trainer, pl_module, limits, batch, batch_idx, dataloader_idx)

    def on_predict_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._start(trainer)

    def on_predict_batch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        limits = trainer.num_predict_batches
        self._evaluation_batch(trainer, pl_module, limits, batch, batch_idx, dataloader_idx)
