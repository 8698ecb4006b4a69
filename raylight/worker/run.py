"""Run: one call of fit, validate, test or predict on one rank. Owns everything that works together in it."""

from __future__ import annotations

import functools
import io
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raylight.callbacks.base import Callback
from raylight.callbacks.schedules import Timer
from raylight.callbacks.shared_deadline import SharedDeadline
from raylight.config.messages import Event, Job, LoggerInfo, Metrics, RunningStage, Text, TrainerFn, TrainerStatus
from raylight.core.datamodule import LightningDataModule
from raylight.core.module import LightningModule
from raylight.precision import make_precision
from raylight.strategies import make_strategy
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_warn
from raylight.worker import checkpointing, data, listeners
from raylight.worker.control import StopRequest
from raylight.worker.metrics import MetricStore
from raylight.worker.optimizers import LightningOptimizer, LRSchedulerConfig, configure, needs_closure, raw
from raylight.worker.remote_logger import RemoteLogger
from raylight.worker.state import TrainerView, TrainState, scalars

if TYPE_CHECKING:
    from torch.optim import Optimizer

Emit = Callable[[Event], None]


class Run:
    """One call on one rank: built from a Job, given to the loops, read by hooks through ``trainer``.

    Args:
        job: What to do.
        ranks: ``global_rank``, ``local_rank``, ``node_rank``, ``world_size`` of this process.
        device: Where it computes.
        emit: Takes events to the driver; called on rank 0 only.
        stop: The driver's requests.
    """

    def __init__(self, job: Job, ranks: dict[str, int], device: torch.device, emit: Emit, stop: StopRequest) -> None:
        # What was asked for
        self.job = job
        self.config = job.config
        self.source = job.data
        self.model: LightningModule = job.model
        self.callbacks = job.callbacks
        self.stop_request = stop
        self._emit = emit

        # Where it stands
        self.state = TrainState(fn=job.fn, num_nodes=job.placement.num_nodes, device_type=device.type)
        self.state.take({**ranks, **job.progress})

        # How it works
        self.precision = make_precision(self.config.precision, device.type)
        self.strategy = make_strategy(self.config.strategy, ranks["world_size"])
        self.strategy.attach(device, **ranks)
        self.loggers = self._make_loggers()
        self.trainer: TrainerView = job.trainer if job.trainer is not None else WorkerTrainer(self)
        self.listeners: dict[str, list[listeners.Listener]] = {}

        # What it trains
        self.optimizers: list[Optimizer] = []
        self.lightning_optimizers: list[LightningOptimizer] = []
        self.lr_scheduler_configs: list[LRSchedulerConfig] = []
        self._toggled: dict[int, dict[Tensor, bool]] = {}

        # What it reads and logs
        self.train_data: data.TrainData | None = None
        self.eval_data: dict[str, data.EvalData] = {}
        self.transfers: list[Callable[..., Any]] = []
        self.last_train_load = 0
        """Epoch in which the training loaders were last asked for."""
        self.last_val_load = 0
        self.last_validation = time.monotonic()
        self.val_deadline = SharedDeadline()
        self.val_check_seconds: float | None = None
        """Seconds between two validations, where the interval is one of time."""
        self.metrics = self.make_metrics(training=job.fn == TrainerFn.FITTING)
        self.checkpoint: dict[str, Any] | None = None
        self.loader_states: list[dict[str, Any]] = []
        """Of a checkpoint, for training loaders that keep their own place."""
        self.resumed = False
        """Training goes on from a checkpoint."""
        self.validated_last = False
        """Nothing was trained since the last validation."""

        # What the step path need not ask again; settled in start()
        self.hears_backward = True
        self.needs_closure = False
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

    def of_callbacks(self, hook: str, *args: Any, **kwargs: Any) -> None:
        """Call ``hook`` of every callback that has its own; nothing may be logged there."""
        outer, self.metrics.hook = self.metrics.hook, None
        for callback in self.callbacks:
            if listeners.overrides(callback, hook, Callback):
                getattr(callback, hook)(self.trainer, self.model, *args, **kwargs)
        self.metrics.hook = outer

    # ------------------------------------------------------------------------------------------------ life

    def start(self) -> None:
        """From the Job to a model that is ready to run. Collective."""
        self.state.status = TrainerStatus.RUNNING
        if self.state.fn == TrainerFn.FITTING:
            self.state.max_epochs, self.state.min_epochs = epoch_limits(self)
            base = self.config.accumulate_grad_batches
            self.state.accumulate_grad_batches = base if isinstance(base, int) else 1
        self.model._attach(self)
        datamodule = self.source.datamodule
        if datamodule is not None:
            datamodule.trainer = self.trainer
        self.listeners = listeners.collect(self.model, self.callbacks, self.trainer)
        self._prepare_data()
        self._setup_hooks()
        self.model.configure_model()
        self.checkpoint = checkpointing.read(self)
        if self.checkpoint is not None:
            checkpointing.restore_model_and_callbacks(self, self.checkpoint)
        self._setup_strategy()
        self._settle_step_path()

    def _prepare_data(self) -> None:
        for owner in (self.source.datamodule, self.model):
            if owner is None:
                continue
            per_node = getattr(owner, "prepare_data_per_node", True)
            if (self.strategy.local_rank if per_node else self.strategy.global_rank) == 0:
                owner.prepare_data()
        self.strategy.barrier("prepare_data")

    def _setup_hooks(self) -> None:
        stage = str(self.state.fn)
        if self.source.datamodule is not None:
            self.source.datamodule.setup(stage=stage)
        self.of_callbacks("setup", stage=stage)
        self.model.setup(stage=stage)
        self.strategy.barrier("setup")

    def _setup_strategy(self) -> None:
        fitting = self.state.fn == TrainerFn.FITTING
        self.precision.convert_module(self.model)
        self.strategy.setup(self.model, for_training=fitting, sync_batchnorm=self.config.sync_batchnorm)
        if fitting:
            self._configure_optimizers()

    def _settle_step_path(self) -> None:
        """Ask once what the model overrides, so that a step pays only for what is there."""
        self.transfers = self._find_transfers()
        backward_hooks = self.listeners["on_before_backward"] + self.listeners["on_after_backward"]
        self.hears_backward = bool(backward_hooks) or self.overrides("backward")
        self.needs_closure = self.overrides("optimizer_step") or any(map(needs_closure, self.optimizers))
        zero_grad_hooks = self.listeners["on_before_zero_grad"]
        self.hears_zero_grad = bool(zero_grad_hooks) or self.overrides("optimizer_zero_grad")
        self.skips_epoch = self.overrides("on_train_batch_start")
        self.clips_gradients = bool(self.config.gradient_clip_val) or self.overrides("configure_gradient_clipping")
        self.prepares_step = self.clips_gradients or bool(self.listeners["on_before_optimizer_step"])

    def _configure_optimizers(self) -> None:
        optimizers, self.lr_scheduler_configs = configure(self.model)
        self.set_optimizers(optimizers)

    def set_optimizers(self, optimizers: list[Optimizer]) -> None:
        """Use these from now on."""
        self.optimizers = [raw(optimizer) for optimizer in optimizers]
        self.lightning_optimizers = [LightningOptimizer(optimizer, self) for optimizer in self.optimizers]

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
        if self.state.fn == TrainerFn.FITTING:
            self.notify("on_fit_end")
        self.teardown_hooks()
        self.state.status = TrainerStatus.FINISHED
        self.state.stage = None

    def fail(self, error: BaseException) -> None:
        """The call ends by an exception: tell everyone, the user's teardown hooks included."""
        self.state.status = TrainerStatus.INTERRUPTED
        self.metrics.hook = None
        self.of_callbacks("on_exception", error)
        if self.source.datamodule is not None:
            self.source.datamodule.on_exception(error)
        self.teardown_hooks()
        self.state.stage = None

    def teardown_hooks(self) -> None:
        stage = str(self.state.fn)
        if self.source.datamodule is not None:
            self.source.datamodule.teardown(stage=stage)
        self.of_callbacks("teardown", stage=stage)
        self.model.teardown(stage=stage)

    def close(self) -> None:
        """Let go of what only a live run needs; the optimizers stay readable."""
        self.take_metrics()
        self.metrics = self.make_metrics(training=False)
        self.state.metrics_to_cpu()
        self.strategy.teardown()
        self.model._attach(None)

    # ------------------------------------------------------------------------------------------------ data

    def load_train_data(self) -> data.TrainData:
        """Ask for the training loaders and take this rank's share of them."""
        loaders = self._request("train")
        if self.config.overfit_batches:
            loaders = data.map_loaders(data.without_shuffling, loaders)
        self.train_data = data.TrainData(self._share(loaders, data.share_for_training), self.config.limit("train"))
        self.state.num_training_batches = self.train_data.num_batches
        return self.train_data

    def load_eval_data(self, stage: RunningStage) -> data.EvalData:
        """Ask for an evaluation's loaders and take this rank's share of them."""
        prefix = stage.dataloader_prefix
        loaders = self._share(self._request(prefix), data.share_for_evaluation)
        evaluated = data.EvalData(loaders, self.config.limit(prefix), f"limit_{prefix}_batches")
        evaluated.is_empty = self.strategy.reduce_boolean_decision(evaluated.is_empty, all=True)
        self.eval_data[prefix] = evaluated
        setattr(self.state, f"num_{prefix}_batches", evaluated.num_batches)
        if prefix == "val":
            most = self.trainer.num_sanity_val_steps
            self.state.num_sanity_val_batches = [min(most, batches) for batches in evaluated.num_batches]
        return evaluated

    def _request(self, prefix: str) -> Any:
        given = getattr(self.source, prefix)
        if given is not None:
            return given
        owner = self.source.datamodule if self.source.datamodule is not None else self.model
        return getattr(owner, f"{prefix}_dataloader")()

    def _share(self, loaders: Any, share: Callable[[Any, int, int], Any]) -> Any:
        def prepare(loader: Any) -> Any:
            _check_iterable(loader)
            if self.strategy.world_size > 1 and self.config.use_distributed_sampler:
                loader = share(loader, self.strategy.world_size, self.strategy.global_rank)
            return data.prepare_workers(loader)

        return data.map_loaders(prepare, loaders)

    def loaders_of(self, prefix: str) -> Any:
        """The loaders of "train", "val", "test" or "predict", as they are used; None before they are asked for."""
        used = self.train_data if prefix == "train" else self.eval_data.get(prefix)
        return used.combined.iterables if used is not None else None

    def transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """The batch on the device, in the precision's dtype, through the user's transfer hooks."""
        for step in self.transfers:
            batch = step(batch, dataloader_idx)
        return batch

    def _find_transfers(self) -> list[Callable[..., Any]]:
        """What must be done to a batch; nothing for a plain run on CPU."""
        steps: list[Callable[..., Any]] = []
        if self.precision.converts_input:
            steps.append(lambda batch, _: self.precision.convert_input(batch))
        for hook in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"):
            owner = self._owner_of(hook)
            if owner is None:
                if hook == "transfer_batch_to_device" and self.strategy.device.type != "cpu":
                    steps.append(functools.partial(self._own_transfer, self.model))
            elif hook == "transfer_batch_to_device":
                steps.append(
                    lambda batch, index, o=owner: o.transfer_batch_to_device(batch, self.strategy.device, index)
                )
            else:
                steps.append(getattr(owner, hook))
        return steps

    def _own_transfer(self, owner: Any, batch: Any, dataloader_idx: int) -> Any:
        return owner.transfer_batch_to_device(batch, self.strategy.device, dataloader_idx)

    def _owner_of(self, hook: str) -> Any:
        """The datamodule or the model, whichever has its own ``hook``; the datamodule wins."""
        datamodule = self.source.datamodule
        if datamodule is not None and listeners.overrides(datamodule, hook, LightningDataModule):
            return datamodule
        return self.model if self.overrides(hook) else None

    # ------------------------------------------------------------------------------------------------ optimizing

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients of ``loss``, announced to hooks, scaled where the precision scales; for manual optimization."""
        self.strategy.before_manual_backward(loss)
        self.notify("on_before_backward", loss)
        self.model.backward(self.precision.scale_loss(loss), *args, **kwargs)
        self.notify("on_after_backward")

    def step_optimizer(self, optimizer: Any, closure: Callable[[], Any] | None, **kwargs: Any) -> Any:
        """What ``LightningOptimizer.step`` does: announce, clip (automatic optimization), step, count."""
        own = raw(optimizer)
        if closure is None:
            self.before_step(own)
            result = self.precision.step(own)
        else:

            def announced() -> Any:
                outcome = closure()
                self.before_step(own)
                return outcome

            result = self.precision.step(own, announced)
        if not self.model.automatic_optimization:  # else counted when the model's optimizer_step has returned
            self.state.global_step += 1
        return result

    def before_step(self, optimizer: Optimizer) -> None:
        """Gradients are complete: unscale, announce, clip."""
        clips = self.model.automatic_optimization and self.clips_gradients
        if clips or self.listeners["on_before_optimizer_step"]:
            self.precision.unscale(optimizer)
            self.notify("on_before_optimizer_step", optimizer)
        if clips:
            outer, self.metrics.hook = self.metrics.hook, "configure_gradient_clipping"
            self.model.configure_gradient_clipping(
                optimizer, self.config.gradient_clip_val, self.config.gradient_clip_algorithm
            )
            self.metrics.hook = outer

    def toggle_optimizer(self, optimizer: Optimizer) -> None:
        """See ``LightningModule.toggle_optimizer``."""
        own = _parameters(raw(optimizer))
        others = {p for other in self.optimizers for p in _parameters(other)} - own
        self._toggled[id(raw(optimizer))] = {parameter: parameter.requires_grad for parameter in others}
        for parameter in others:
            parameter.requires_grad = False

    def untoggle_optimizer(self, optimizer: Optimizer) -> None:
        """See ``LightningModule.untoggle_optimizer``."""
        for parameter, required in self._toggled.pop(id(raw(optimizer)), {}).items():
            parameter.requires_grad = required

    def estimate_steps(self) -> float:
        """See ``TrainerView.estimated_stepping_batches``."""
        trainer = self.trainer
        batches = (self.train_data or self.load_train_data()).num_batches
        if math.isinf(batches):
            if trainer.max_steps == -1:
                raise MisconfigurationException(
                    "The number of steps cannot be estimated: the train loader has no length. Set max_steps."
                )
            return trainer.max_steps
        if trainer.max_epochs in (-1, None):
            return math.inf if trainer.max_steps == -1 else trainer.max_steps
        steps = math.ceil(batches / trainer.accumulate_grad_batches) * max(trainer.max_epochs, 1)
        return min(steps, trainer.max_steps) if trainer.max_steps != -1 else steps

    # ------------------------------------------------------------------------------------------------ speaking

    def make_metrics(self, training: bool) -> MetricStore:
        """An empty store for one loop."""
        return MetricStore(
            self.model, self.strategy, training, enabled=not self.config.barebones, has_logger=bool(self.loggers)
        )

    def emit(self, event: Event) -> None:
        """Send an event to the driver; on ranks other than 0 nothing happens."""
        if self.strategy.is_global_zero:
            self._emit(event)

    def emit_text(self, text: str) -> None:
        """Print on the driver's terminal, beside the progress bar."""
        self.emit(Text(text))

    def print(self, *args: Any, **kwargs: Any) -> None:
        """``print`` on the driver's terminal, from rank 0 only."""
        if kwargs.get("file") is not None:
            print(*args, **kwargs)
            return
        buffer = io.StringIO()
        print(*args, **{**kwargs, "file": buffer, "end": kwargs.get("end", "")})
        self.emit_text(buffer.getvalue())

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        """A row of numbers or one-element tensors for every logger. Waits for the device."""
        if self.loggers and metrics:
            self.state.logged_metrics.update({k: v for k, v in metrics.items() if isinstance(v, Tensor)})
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
            if self.state.fn == TrainerFn.FITTING and self.job.trainer is not None:
                logger.log_graph(self.model)
            logger.save()

    def _make_loggers(self) -> list[Any]:
        emit = self._emit if self.state.global_rank == 0 else None
        return [
            RemoteLogger(index, logger, emit) if isinstance(logger, LoggerInfo) else logger
            for index, logger in enumerate(self.job.loggers)
        ]

    # ------------------------------------------------------------------------------------------------ files

    def save_checkpoint(
        self, filepath: str | os.PathLike[str], weights_only: bool | None = None, storage_options: Any = None
    ) -> None:
        """Collective: write a checkpoint; rank 0 writes the file, atomically, and all wait for it."""
        if storage_options is not None:
            raise MisconfigurationException("storage_options is not supported: give a path or a pyarrow.fs URI.")
        checkpointing.save(self, os.fspath(filepath), bool(weights_only))


class WorkerTrainer(TrainerView):
    """What hooks see as ``trainer`` in a worker process."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.config = run.config
        self.state = run.state
        self.callbacks = run.callbacks

    @property
    def run(self) -> Run:
        return self._run

    @property
    def loggers(self) -> list[Any]:
        return self._run.loggers

    @property
    def log_dir(self) -> str | None:
        return self._run.job.log_dir

    @property
    def default_root_dir(self) -> str:
        return self._run.job.root_dir


def _parameters(optimizer: Optimizer) -> set[Tensor]:
    return {parameter for group in optimizer.param_groups for parameter in group["params"]}


def _check_iterable(loader: Any) -> None:
    if not hasattr(loader, "__iter__") and not hasattr(loader, "__getitem__"):
        raise TypeError(f"A dataloader must be iterable, got {loader!r}: return a DataLoader or a list of them.")


def merged_hparams(model: Any, datamodule: Any) -> dict[str, Any] | None:
    """The saved hyperparameters of model and datamodule; None where neither saved any to be logged.

    Raises:
        RuntimeError: The two hold different values under one name.
    """
    owners = [o for o in (model, datamodule) if o is not None and getattr(o, "_log_hyperparams", False)]
    if not owners:
        return None
    merged: dict[str, Any] = {}
    for owner in owners:
        for name, value in dict(owner.hparams_initial).items():
            if name in merged and _differ(merged[name], value):
                raise RuntimeError(
                    f"Error while merging hparams: the keys ['{name}'] are present in both the LightningModule's and "
                    "LightningDataModule's hparams but have different values."
                )
            merged[name] = value
    return merged


def _differ(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return True
    if isinstance(left, Tensor):
        return not torch.equal(left, right)
    return bool(left != right)


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
