"""Run: one call of fit, validate, test or predict on one rank. Owns everything that works together in it."""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raylight.callbacks.base import Callback
from raylight.callbacks.schedules import Timer
from raylight.callbacks.shared_deadline import SharedDeadline
from raylight.checkpoint import storage
from raylight.config.messages import (
    Event,
    Job,
    LoggerInfo,
    Metrics,
    Record,
    Report,
    RunningStage,
    Text,
    TrainerFn,
    TrainerStatus,
)
from raylight.core.module import LightningModule
from raylight.plugins.selection import equipped_strategy
from raylight.utilities.exceptions import MisconfigurationException, SIGTERMException
from raylight.utilities.model_helpers import is_overridden
from raylight.utilities.rank_zero import WarningCache, rank_zero_warn
from raylight.utilities.secrets import redact_texts
from raylight.utilities.types import LRSchedulerConfig
from raylight.worker import checkpointing, data, legacy, listeners, loading
from raylight.worker.control import NoSnapshots, StopRequest
from raylight.worker.hparams import merged_hparams
from raylight.worker.metrics import MetricStore
from raylight.worker.optimizers import LightningOptimizer, configure, needs_closure, raw
from raylight.worker.predict_loop import PredictLoop
from raylight.worker.prediction_parts import PartWriter
from raylight.worker.profiling import make_recorder
from raylight.worker.remote_logger import RemoteLogger
from raylight.worker.state import TrainState, scalars
from raylight.worker.throughput import Throughput
from raylight.worker.transfers import find_transfers
from raylight.worker.verify import has_loader
from raylight.worker.worker_trainer import WorkerTrainer

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from raylight.strategies import Strategy
    from raylight.worker.trainer_view import TrainerView

Emit = Callable[[Event], Any]
"""Takes an event to the driver; for a Report it waits for the answer and returns it."""
TryOut = Callable[..., TrainState]
Adapt = Callable[[str, Any], Any]
"""``(prefix, loader) -> loader``, where the prefix is "train", "val", "test" or "predict"."""

FIRST_STAGE = {
    TrainerFn.FITTING: RunningStage.TRAINING,
    TrainerFn.VALIDATING: RunningStage.VALIDATING,
    TrainerFn.TESTING: RunningStage.TESTING,
    TrainerFn.PREDICTING: RunningStage.PREDICTING,
}


class Run:
    """One call on one rank: built from a Job, given to the loops, read by hooks through ``trainer``.

    Args:
        job: What to do.
        ranks: ``global_rank``, ``local_rank``, ``node_rank``, ``world_size`` of this process.
        device: Where it computes.
        emit: Takes events to the driver; called on rank 0 only.
        stop: The driver's requests.
        snapshots: Takes snapshots, and has the one that the run goes on from.
    """

    def __init__(
        self,
        job: Job,
        ranks: dict[str, int],
        device: torch.device,
        emit: Emit,
        stop: StopRequest,
        snapshots: NoSnapshots | None = None,
    ) -> None:
        # What was asked for
        self.job = job
        self.config = job.config
        self.source = job.data
        self.model: LightningModule = job.model
        self.callbacks = job.callbacks
        self.stop_request = stop
        self.snapshots = snapshots or NoSnapshots()
        self.going_on = self.snapshots.start is not None
        """After a worker was lost; until training goes on, or once it has left, nothing is recorded."""
        self.redone_since = job.redone_since
        self.num_records = 0
        """Events of the kind ``Record`` so far."""
        self._emit = emit

        # Where it stands
        self.state = TrainState(fn=job.fn, num_nodes=job.placement.num_nodes, device_type=device.type)
        self.state.take({**ranks, **job.progress})
        if job.placement.keeps_global_batch:
            self.state.shares = Fraction(job.placement.num_workers, ranks["world_size"])

        # How it works
        self.strategy: Strategy = job.strategy or equipped_strategy(self.config, ranks["world_size"], device.type)
        self.strategy.attach(device, **ranks)
        self.precision = self.strategy.precision_plugin
        self.loggers = self._make_loggers()
        self.trainer: TrainerView = job.trainer if job.trainer is not None else WorkerTrainer(self)
        self.listeners: dict[str, list[listeners.Listener]] = {}
        self.throughput = Throughput() if job.trainer is None else None
        """Counts for those who look on from other processes; None in the user's own."""
        self.recorder = make_recorder(self.trainer.profiler)
        self.hooked: Any = self.recorder.hooks("LightningModule", self.model)
        """The model, where a hook of it is called that its profiler is to know of."""
        self.hooked_data: Any = self.recorder.hooks("LightningDataModule", self.source.datamodule)
        """The datamodule, likewise; None where there is none."""
        self.announced_backward: Callable[..., None] = self._announced_backward
        self.step_optimizer: Callable[..., Any] = self._step_optimizer

        # What it trains
        self.optimizers: list[Optimizer] = []
        self.lightning_optimizers: list[LightningOptimizer] = []
        self.lr_scheduler_configs: list[LRSchedulerConfig] = []
        self.optimizer_idx: int = 0
        """Of the optimizer at work, where there are several."""
        self.frequencies: list[int] = []
        """Batches in a row that each optimizer is for; empty where every batch is for all."""

        # What it reads and logs
        self.train_data: data.TrainData | None = None
        self.eval_data: dict[str, data.EvalData] = {}
        self.predict_loop: PredictLoop = PredictLoop()
        self.part_writer: PartWriter | None = None
        """Of ``predict(write_to=...)``."""
        self.adapt: Adapt = lambda prefix, loader: loader
        """The engine's, for loaders that only it can read."""
        self.transfers: list[Callable[..., Any]] = []
        self.last_train_load = 0
        """Epoch in which the training loaders were last asked for."""
        self.last_val_load = -math.inf
        """Likewise the validation loaders; a sanity check counts where the epoch at work validates."""
        self.last_validation = time.monotonic()
        self.val_deadline = SharedDeadline()
        self.val_check_seconds: float | None = None
        """Seconds between two validations, where the interval is one of time."""
        self.metrics = self.fit_metrics = self.make_metrics(training=job.fn == TrainerFn.FITTING)
        self.epoch_outputs: list[Any] | None = None
        """What the batches of this epoch gave, where a hook of Lightning 1.x wants it at the epoch's end."""
        self.checkpoint: dict[str, Any] | None = None
        self.loader_states: list[dict[str, Any]] = []
        """From the checkpoint, for loaders that keep a state of their own."""
        self.own_state: dict[str, Any] | None = None
        """From the checkpoint, for ``exact.restore``."""
        self.resumed = False
        """Training goes on from a checkpoint."""
        self.resumed_within = False
        """That checkpoint was made within an epoch."""
        self.validated_last = False
        """Nothing was trained since the last validation."""
        self.notices = WarningCache()
        """What is said once in a run."""

        self.try_out: TryOut
        """See ``raylight.worker.trial``."""

        # What the step path need not ask again; settled in start()
        self.calls: legacy.ModelCalls
        self.backward_arguments: Callable[[], tuple[Any, ...]]
        """What the model's backward takes beside the loss; something only in Lightning 1.x."""
        self.hears_backward = True
        self.needs_closure = False
        self.keeps_outputs = True
        self.hears_zero_grad = True
        self.prepares_step = True
        self.skips_epoch = True
        self.clips_gradients = False

    # ------------------------------------------------------------------------------------------------ hooks

    def notify(self, hook: str, *args: Any) -> Any:
        """Call ``hook`` of the callbacks and the model that have one; the result is the last one's."""
        called = self.listeners[hook]
        if not called:
            return None
        metrics = self.metrics
        outer, metrics.hook = metrics.hook, hook
        result = None
        for listener in called:
            result = listener(*args)
        metrics.hook = outer
        return result

    def overrides(self, name: str) -> bool:
        """Whether the model has its own method ``name``."""
        return listeners.overrides(self.model, name, LightningModule)

    def of_callbacks(self, hook: str, *args: Any, without: Sequence[Any] = (), **kwargs: Any) -> list[tuple[Any, Any]]:
        """Call ``hook`` of every callback that has its own, which are returned with what they returned.

        Nothing may be logged there.
        """
        returned = []
        outer, self.metrics.hook = self.metrics.hook, hook
        for callback in [each for each in self.callbacks if each not in without]:
            if self.recorder.records or listeners.overrides(callback, hook, Callback):
                called = self.recorder.call(listeners.action_of(callback, hook), getattr(callback, hook))
                returned.append((callback, called(self.trainer, self.model, *args, **kwargs)))
        self.metrics.hook = outer
        return returned

    def of_model(self, hook: str, **kwargs: Any) -> None:
        """Call ``hook`` of the model, in which nothing may be logged."""
        outer, self.metrics.hook = self.metrics.hook, hook
        getattr(self.hooked, hook)(**kwargs)
        self.metrics.hook = outer

    # ------------------------------------------------------------------------------------------------ life

    def start(self) -> None:
        """From the Job to a model that is ready to run. Collective."""
        self._take_over()
        self._prepare_device()
        legacy.warn_of_old_hooks(self.model)
        self.recorder.start(self)
        self._prepare_data()
        self._setup_hooks()
        self._configure_model()
        self.checkpoint = checkpointing.read(self)
        if self.checkpoint is not None:
            checkpointing.restore_model_and_callbacks(self, self.checkpoint)
        self._setup_strategy()
        self._settle_step_path()

    def start_within(self, outer: Run) -> None:
        """As ``start``, for a run inside another's hook: what that has prepared is used, but for the optimizers."""
        self._take_over()
        if self.state.fn == TrainerFn.FITTING:
            self._configure_optimizers()
        self._settle_step_path()

    def give_back(self, outer: Run) -> None:
        """The end of a run that was started ``start_within``: model and datamodule belong to ``outer`` again."""
        self.model._attach(outer)
        self.strategy.lr_scheduler_configs = outer.lr_scheduler_configs
        if self.source.datamodule is not None:
            self.source.datamodule.trainer = outer.trainer

    def _take_over(self) -> None:
        """Stage and limits from the Job; model and datamodule belong to this run now."""
        self.state.status, self.state.stage = TrainerStatus.RUNNING, FIRST_STAGE[self.job.fn]
        self.state.enable_validation = (
            self.overrides("validation_step")
            and has_loader("val", self.model, self.source)
            and self.config.limit("val") > 0
        )
        if self.state.fn == TrainerFn.FITTING:
            self.state.max_epochs, self.state.min_epochs = epoch_limits(self)
            base = self.config.accumulate_grad_batches
            self.state.accumulate(base if isinstance(base, int) else 1)
        self.model._attach(self)
        if self.source.datamodule is not None:
            self.source.datamodule.trainer = self.trainer
        listeners.lend_log(self.callbacks, self.model)
        self.listeners = listeners.collect(self)

    def _configure_model(self) -> None:
        for hook in ("configure_sharded_model", "configure_model"):
            if is_overridden(hook, self.model):
                with self.strategy.device, self.precision.module_init_context():
                    self.of_model(hook)

    def _prepare_device(self) -> None:
        self.strategy.connect(self.model)
        assert self.strategy.accelerator is not None
        self.strategy.accelerator.setup_device(self.strategy.device)
        self.strategy.accelerator.setup(self.trainer)

    def _prepare_data(self) -> None:
        datamodule = self.source.datamodule
        for owner, overridden in (
            (self.hooked_data, is_overridden("prepare_data", datamodule)),
            (self.hooked, is_overridden("prepare_data", self.model)),
        ):
            if not overridden:
                continue
            per_node = self.config.prepare_data_per_node and getattr(owner, "prepare_data_per_node", True)
            if (self.strategy.local_rank if per_node else self.strategy.global_rank) == 0:
                owner.prepare_data()
        self.strategy.barrier("prepare_data")

    def _setup_hooks(self) -> None:
        stage = str(self.state.fn)
        if self.hooked_data is not None:
            self.hooked_data.setup(stage=stage)
        self.of_callbacks("setup", stage=stage)
        self.of_model("setup", stage=stage)
        self.strategy.barrier("setup")

    def _setup_strategy(self) -> None:
        fitting = self.state.fn == TrainerFn.FITTING
        self.precision.convert_module(self.model)
        self.strategy.setup(self.model, for_training=fitting)
        if fitting:
            self._configure_optimizers()

    def _settle_step_path(self) -> None:
        """Ask once what the model overrides, so that a step pays only for what is there."""
        self.transfers = find_transfers(self)
        self.calls = legacy.model_calls(self)
        self.backward_arguments = legacy.backward_arguments(self)
        backward_hooks = self.listeners["on_before_backward"] + self.listeners["on_after_backward"]
        custom_backward = self.overrides("backward") or self.precision.handles_backward
        self.hears_backward = bool(backward_hooks) or custom_backward
        closure_is_used = self.overrides("optimizer_step") or self.precision.handles_step or self.recorder.records
        self.needs_closure = closure_is_used or any(map(needs_closure, self.optimizers))
        zero_grad_hooks = self.listeners["on_before_zero_grad"]
        self.hears_zero_grad = bool(zero_grad_hooks) or self.overrides("optimizer_zero_grad")
        self.skips_epoch = self.overrides("on_train_batch_start")
        custom_clipping = self.overrides("configure_gradient_clipping") or self.recorder.records
        self.clips_gradients = bool(self.config.gradient_clip_val) or custom_clipping
        self.prepares_step = self.clips_gradients or bool(self.listeners["on_before_optimizer_step"])
        if legacy.epoch_end_hook(self.model, "training") or legacy.needs_outputs(self.listeners):
            self.epoch_outputs = []
        wanted = bool(self.listeners["on_train_batch_end"]) or self.epoch_outputs is not None
        self.keeps_outputs = self.needs_closure or wanted
        self.announced_backward = self.recorder.call(self.strategy_action("backward"), self._announced_backward)
        if not self.model.automatic_optimization:
            self.step_optimizer = self.recorder.call("optimizer_step", self._step_optimizer)

    def strategy_action(self, name: str) -> str:
        """What a profiler calls the strategy's ``name``."""
        return f"[Strategy]{type(self.strategy).__name__}.{name}"

    def _configure_optimizers(self) -> None:
        action = f"[LightningModule]{type(self.model).__name__}.configure_optimizers"
        self.metrics.hook = "configure_optimizers"
        optimizers, self.lr_scheduler_configs, self.frequencies = self.recorder.call(action, configure)(self.model)
        self.metrics.hook = None
        model, optimizers, self.lr_scheduler_configs = self.precision.connect(
            self.model, optimizers, self.lr_scheduler_configs
        )
        if model is not self.model:
            raise MisconfigurationException(
                f"{type(self.precision).__name__}.connect() returned another model: change it in convert_module()."
            )
        self.strategy.lr_scheduler_configs = self.lr_scheduler_configs
        self.set_optimizers(optimizers)

    def set_optimizers(self, optimizers: list[Optimizer]) -> None:
        """Use these from now on."""
        self.optimizers = self.strategy.optimizers = [raw(optimizer) for optimizer in optimizers]
        self.lightning_optimizers = [LightningOptimizer(optimizer, self) for optimizer in self.optimizers]

    def use_lr_scheduler(self, scheduler: Any) -> None:
        """See ``TrainerView.use_lr_scheduler``."""
        self.lr_scheduler_configs[:] = [LRSchedulerConfig(scheduler)]

    def begin(self) -> None:
        """Everything is ready: the hooks of the start, hyperparameters to the loggers, the rest of the checkpoint."""
        if self.state.fn == TrainerFn.FITTING:
            self.notify("on_fit_start")
        self._log_hyperparameters()
        if self.checkpoint is not None and self.state.fn == TrainerFn.FITTING:
            checkpointing.restore_training(self, self.checkpoint)
            self.resumed = True
        self.checkpoint = None
        self.strategy.barrier("run")
        self.model.zero_grad()

    def end(self) -> None:
        """The call did what it should."""
        self.metrics.hook = None
        self.strategy.checkpoint_io.teardown()
        if self.state.fn == TrainerFn.FITTING:
            self.notify("on_fit_end")
        self.end_early()

    def end_early(self) -> None:
        """Nothing more is to be done; a tuner ends a call like this."""
        self.metrics.hook = None
        self.teardown_hooks()
        self.recorder.report()
        self.state.status = TrainerStatus.FINISHED
        self.state.stage = None

    def leave(self) -> None:
        """The run goes on, in another attempt: it has not failed, and only what is made again is let go of."""
        self.going_on = True  # a record of this end would be taken for the first of those that follow the snapshot
        self.state.status = TrainerStatus.INTERRUPTED  # teardown hooks keep what a call that goes on may need
        self.metrics.hook = None
        self._complete_files()
        self.teardown_hooks()
        self.recorder.abandon()

    def fail(self, error: BaseException) -> None:
        """The call ends by an exception: tell everyone, the user's teardown hooks included."""
        self.state.status = TrainerStatus.INTERRUPTED
        self.metrics.hook = None
        if isinstance(error, KeyboardInterrupt):
            legacy.tell_of_interrupt(self)
        self.of_callbacks("on_exception", error)
        if self.hooked_data is not None:
            self.hooked_data.on_exception(error)
        self.strategy.on_exception(error)
        self._complete_files()
        self.teardown_hooks()
        if isinstance(error, KeyboardInterrupt | SIGTERMException):
            self.recorder.report()
        else:
            self.recorder.abandon()
        self.state.stage = None

    def _complete_files(self) -> None:
        """Wait for checkpoints that are under way; what has become of them neither ends the call nor keeps it here."""
        try:
            self.strategy.checkpoint_io.teardown()
        except Exception as failure:
            rank_zero_warn(f"A checkpoint was not written: {failure!r}.")

    def teardown_hooks(self) -> None:
        stage = str(self.state.fn)
        if self.hooked_data is not None:
            self.hooked_data.teardown(stage=stage)
        self.of_callbacks("teardown", stage=stage)
        self.of_model("teardown", stage=stage)

    def close(self) -> None:
        """Let go of what only a live run needs; the optimizers stay readable."""
        self.take_metrics()
        self.metrics = self.make_metrics(training=False)
        self.state.metrics_to_cpu()
        self.strategy.teardown()
        self.precision.teardown()
        if self.strategy.accelerator is not None:
            self.strategy.accelerator.teardown()
        self.recorder.close()
        listeners.take_log_back(self.callbacks, self.model)
        self.model._attach(None)

    # ------------------------------------------------------------------------------------------------ data

    @property
    def loaders_were_given(self) -> bool:
        """Whether the call was handed its loaders."""
        prefix = {"fit": "train", "validate": "val"}.get(str(self.state.fn), str(self.state.fn))
        return getattr(self.source, prefix) is not None

    def forget_loaders(self) -> None:
        """The next use asks for loaders anew."""
        self.train_data = None
        self.eval_data.clear()

    def loaders_of(self, prefix: str) -> Any:
        """The loaders of "train", "val", "test" or "predict", as they are used; None before they are asked for."""
        used = self.train_data if prefix == "train" else self.eval_data.get(prefix)
        return used.combined.iterables if used is not None else None

    def transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """The batch on the device, in the precision's dtype, through the user's transfer hooks."""
        for step in self.transfers:
            batch = step(batch, dataloader_idx)
        return batch

    # ------------------------------------------------------------------------------------------------ optimizing

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients of ``loss``, announced to hooks, scaled where the precision scales; for manual optimization."""
        if self.train_data is not None and self.train_data.in_shadow:
            loss = loss * 0.0  # see raylight.worker.shadow
        self.strategy.before_manual_backward(loss)
        self._announced_backward(loss, *args, **kwargs)

    def _announced_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.notify("on_before_backward", loss)
        outer, self.metrics.hook = self.metrics.hook, "backward"
        scaled = self.precision.pre_backward(loss, self.model)
        optimizer = None
        if self.model.automatic_optimization:
            optimizer, args = self.optimizers[self.optimizer_idx], self.backward_arguments()
        self.precision.backward(scaled, self.model, optimizer, *args, **kwargs)
        self.precision.post_backward(scaled, self.model)
        self.metrics.hook = outer
        self.notify("on_after_backward")

    def _step_optimizer(self, optimizer: Any, closure: Callable[[], Any] | None, **kwargs: Any) -> Any:
        """What ``LightningOptimizer.step`` does: announce, clip (automatic optimization), step, count."""
        own = raw(optimizer)
        if closure is None and not self.precision.handles_step:
            self.before_step(own)
            result = self.precision.step(own, **kwargs)
        else:
            result = self.precision.optimizer_step(own, model=self.model, closure=closure or _nothing, **kwargs)
        if not self.model.automatic_optimization:  # else counted when the model's optimizer_step has returned
            self.state.global_step += 1
        return result

    def before_step(self, optimizer: Optimizer) -> None:
        """Gradients are complete: unscale, announce, clip."""
        clips = self.model.automatic_optimization and self.clips_gradients
        if clips or self.listeners["on_before_optimizer_step"]:
            self.precision.unscale_gradients(optimizer)
            self.notify("on_before_optimizer_step", optimizer)
        if clips:
            outer, self.metrics.hook = self.metrics.hook, "configure_gradient_clipping"
            self.calls.configure_gradient_clipping(
                optimizer,
                gradient_clip_val=self.config.gradient_clip_val,
                gradient_clip_algorithm=self.config.gradient_clip_algorithm,
            )
            self.metrics.hook = outer

    def is_active(self, optimizer: Optimizer) -> bool:
        """Whether ``optimizer`` is the one at work, of several that take turns."""
        return self.optimizers[self.optimizer_idx] is optimizer

    def estimate_steps(self) -> float:
        """See ``TrainerView.estimated_stepping_batches``."""
        trainer = self.trainer
        batches = (self.train_data or loading.load_train(self)).num_batches
        if math.isinf(batches):
            return trainer.max_steps
        if trainer.max_epochs in (-1, None):
            return math.inf if trainer.max_steps == -1 else trainer.max_steps
        steps = math.ceil(batches / self.state.accumulate_grad_batches) * max(trainer.max_epochs, 1)
        return min(steps, trainer.max_steps) if trainer.max_steps != -1 else steps

    # ------------------------------------------------------------------------------------------------ speaking

    def make_metrics(self, training: bool) -> MetricStore:
        """An empty store for one loop."""
        return MetricStore(
            self.model,
            self.strategy,
            training,
            enabled=not self.config.barebones,
            has_logger=bool(self.loggers),
            has_results=self.job.fn != TrainerFn.PREDICTING,
        )

    def emit(self, event: Event) -> None:
        """Send an event to the driver; on ranks other than 0 nothing happens."""
        if not self.strategy.is_global_zero:
            return
        if isinstance(event, Record):
            if self.going_on:
                return
            self.num_records += 1
        self._emit(event)

    def go_on_speaking(self, num_records: int) -> None:
        """The run is where it was when it had sent so many records."""
        self.num_records, self.going_on = num_records, False

    def is_redone(self, path: str | os.PathLike[str]) -> bool:
        """Whether the file comes of what an earlier attempt has done since the snapshot that this one goes on from."""
        if self.redone_since is None:
            return False
        try:
            return storage.modified(path) >= self.redone_since
        except FileNotFoundError:  # that attempt's last deletion may be under way still
            return False

    def report(self, report: Report) -> bool:
        """Collective: tell the driver what this trial has reached; whether to go on. Waits for the answer."""
        self.num_records += 1
        answer = self._emit(report) if self.strategy.is_global_zero else None
        return bool(self.strategy.broadcast(answer))

    def emit_text(self, text: str) -> None:
        """Print on the driver's terminal, beside the progress bar."""
        self.emit(Text(text))

    def print(self, *args: Any, **kwargs: Any) -> None:
        """``print`` on the driver's terminal, from rank 0 only."""
        args = redact_texts(args)
        if self.job.trainer is not None:
            bar = self.trainer.progress_bar_callback
            (bar.print if bar is not None and getattr(bar, "is_enabled", True) else print)(*args, **kwargs)
            return
        if kwargs.get("file") is not None:
            print(*args, **kwargs)
            return
        buffer = io.StringIO()
        print(*args, **{**kwargs, "file": buffer, "end": kwargs.get("end", "")})
        self.emit_text(buffer.getvalue())

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        """A row of numbers or one-element tensors for every logger. Waits for the device."""
        if self.loggers and metrics:
            tensors: dict[str, Any] = {k: v for k, v in metrics.items() if isinstance(v, Tensor | dict)}
            self.state.logged_metrics.update(tensors)
            self.emit(Metrics(scalars(metrics), step))

    def log_row(self, metrics: dict[str, Any], step: int) -> None:
        """As ``log_metrics``; a value named "step" is the row's step instead, or else "epoch" is added."""
        if not self.loggers or not metrics:
            return
        if "step" in metrics:
            step = int(metrics["step"])
            metrics = {name: value for name, value in metrics.items() if name != "step"}
        else:
            metrics = {"epoch": self.state.epoch, **metrics}
        self.log_metrics(metrics, step)

    def take_metrics(self) -> None:
        """Keep what the store holds now, before it changes. Waits for the device."""
        self.trainer.callback_metrics, self.trainer.logged_metrics, self.trainer.progress_bar_metrics  # noqa: B018

    def _log_hyperparameters(self) -> None:
        if not self.config.enable_autolog_hparams or self.config.barebones:
            return
        merged = merged_hparams(self.model, self.source.datamodule)
        if not self.strategy.is_global_zero:
            return
        for logger in self.loggers:
            if merged is not None:
                logger.log_hyperparams(merged)
            if self.job.trainer is not None:  # else the driver has done it
                logger.log_graph(self.model)
            logger.save()

    def _make_loggers(self) -> list[Any]:
        emit = self.emit if self.state.global_rank == 0 else None
        return [
            RemoteLogger(index, logger, emit) if isinstance(logger, LoggerInfo) else logger
            for index, logger in enumerate(self.job.loggers)
        ]

    # ------------------------------------------------------------------------------------------------ files

    def save_checkpoint(
        self, filepath: str | os.PathLike[str], weights_only: bool | None = None, storage_options: Any = None
    ) -> None:
        """Collective: write a checkpoint; rank 0 writes the file, atomically, and all wait for it."""
        save = self.recorder.call("save_checkpoint", checkpointing.save)
        save(self, os.fspath(filepath), bool(weights_only), storage_options)


def _nothing() -> None:
    """The closure of a step whose gradients are there."""


def epoch_limits(run: Run) -> tuple[int | None, int | None]:
    """max_epochs and min_epochs, with Lightning's defaults."""
    config = run.config
    if config.num_dev_batches:
        return 1, None
    max_epochs = run.state.max_epochs if run.state.max_epochs is not None else config.max_epochs
    if max_epochs is None:
        limited = config.max_steps != -1 or any(isinstance(callback, Timer) for callback in run.callbacks)
        if not limited:
            rank_zero_warn(
                "`max_epochs` was not set. Setting it to 1000 epochs. To train without an epoch limit, set "
                "`max_epochs=-1`."
            )
        max_epochs = -1 if limited else 1000
    min_epochs = config.min_epochs
    if min_epochs is None:
        min_epochs = 0 if config.min_steps is None else 1
    return max_epochs, min_epochs
