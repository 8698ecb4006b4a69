"""How hooks in the workers, and users on the driver, see a run: what ``trainer`` is to them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import Tensor
from torch.utils._pytree import tree_leaves

from raylight.callbacks.checkpoint import Checkpoint
from raylight.callbacks.early_stopping import EarlyStopping
from raylight.callbacks.progress import ProgressBar
from raylight.config.flags import TrainerConfig, whole
from raylight.config.messages import RunningStage, TrainerFn, TrainerStatus
from raylight.utilities.empty_init import EmptyInit
from raylight.worker.fit_loop import EvaluationLoop, FitLoop
from raylight.worker.legacy_attributes import old_attribute
from raylight.worker.predict_loop import PredictLoop

if TYPE_CHECKING:
    import os

    from raylight.config.messages import Event, Report
    from raylight.worker.run import Run
    from raylight.worker.state import TrainState

T = TypeVar("T")


class _flag(Generic[T]):  # noqa: N801  used as ``property`` is
    """A property for a flag that may be changed between two calls: assigning it replaces the config."""

    def __init__(self, read: Callable[[Any], T]) -> None:
        self.read = read
        self.__doc__ = read.__doc__

    def __get__(self, trainer: TrainerView, owner: type) -> T:
        return self if trainer is None else self.read(trainer)

    def __set__(self, trainer: TrainerView, value: T) -> None:
        trainer.change_flags(**{self.read.__name__: value})


class TrainerView:
    """What ``trainer`` offers to hooks in every worker, and to the user on the driver, under Lightning's names.

    On the driver, the objects of a run (optimizers, loaders, strategy) are there while and after it ran in this
    process; for a run in other processes they are empty.
    """

    config: TrainerConfig
    state: TrainState
    callbacks: list[Any]
    profiler: Any
    """What records this trainer's runs; a PassThroughProfiler where none was asked for."""

    if not TYPE_CHECKING:  # else any misspelt name would be taken for an attribute

        def __getattr__(self, name: str) -> Any:
            return old_attribute(self, name)

    @property
    def run(self) -> Run | None:
        """The run of this process, live or last; None where there was none."""
        raise NotImplementedError

    @property
    def going_on(self) -> bool:
        """The run takes up where an attempt was ended by the loss of a worker, and is not there yet."""
        return self.run is not None and self.run.going_on

    def is_redone(self, path: str | os.PathLike[str]) -> bool:
        """Whether such an attempt wrote the file, and this one is about to write it again."""
        return self.run is not None and self.run.is_redone(path)

    # ------------------------------------------------------------------------------------------------ position

    @property
    def global_step(self) -> int:
        """Optimizer steps taken; with manual optimization, of all optimizers together."""
        return self.state.global_step

    @property
    def current_epoch(self) -> int:
        """Epochs completed: 0-based index of the epoch at work."""
        return self.state.epoch

    @property
    def logger_step(self) -> int:
        """Batches in which an optimizer stepped: the loggers' x axis."""
        return self.state.logger_step

    @property
    def is_last_batch(self) -> bool:
        """Whether the batch at work is the epoch's last."""
        return self.state.is_last_batch

    @property
    def fit_loop(self) -> FitLoop:
        """Limits and position under Lightning's names."""
        return FitLoop(self)

    @property
    def validate_loop(self) -> EvaluationLoop:
        """What ``validate`` has to do."""
        return EvaluationLoop(self, "val", "validate_loop")

    @property
    def test_loop(self) -> EvaluationLoop:
        """What ``test`` has to do."""
        return EvaluationLoop(self, "test", "test_loop")

    @property
    def predict_loop(self) -> PredictLoop:
        """What ``predict`` has made on this rank."""
        return self.run.predict_loop if self.run is not None else PredictLoop()

    @property
    def should_stop(self) -> bool:
        """Set it to True to stop after the batch at work."""
        return self.state.should_stop

    @should_stop.setter
    def should_stop(self, stop: bool) -> None:
        self.state.should_stop = stop

    @property
    def estimated_stepping_batches(self) -> float:
        """Optimizer steps of the whole fit: ``ceil(batches / accumulate) * epochs``, no more than max_steps.

        Without an end it is inf; max_steps, be it -1, where the loader has no length.
        """
        if self.run is None:
            return math.inf
        return self.run.estimate_steps()

    # ------------------------------------------------------------------------------------------------ stage

    def _set_stage(self, stage: RunningStage, yes: bool) -> None:
        if yes:
            self.state.stage = stage
        elif self.state.stage == stage:
            self.state.stage = None

    @property
    def training(self) -> bool:
        return self.state.stage == RunningStage.TRAINING

    @training.setter
    def training(self, yes: bool) -> None:
        self._set_stage(RunningStage.TRAINING, yes)

    @property
    def validating(self) -> bool:
        return self.state.stage == RunningStage.VALIDATING

    @validating.setter
    def validating(self, yes: bool) -> None:
        self._set_stage(RunningStage.VALIDATING, yes)

    @property
    def testing(self) -> bool:
        return self.state.stage == RunningStage.TESTING

    @testing.setter
    def testing(self, yes: bool) -> None:
        self._set_stage(RunningStage.TESTING, yes)

    @property
    def predicting(self) -> bool:
        return self.state.stage == RunningStage.PREDICTING

    @predicting.setter
    def predicting(self, yes: bool) -> None:
        self._set_stage(RunningStage.PREDICTING, yes)

    @property
    def sanity_checking(self) -> bool:
        return self.state.stage == RunningStage.SANITY_CHECKING

    @sanity_checking.setter
    def sanity_checking(self, yes: bool) -> None:
        self._set_stage(RunningStage.SANITY_CHECKING, yes)

    @property
    def evaluating(self) -> bool:
        return self.state.stage is not None and self.state.stage.evaluating

    @property
    def interrupted(self) -> bool:
        """Whether the last call ended by an exception or a request of the user's, or an attempt at it is left."""
        return self.state.status == TrainerStatus.INTERRUPTED

    @property
    def received_sigterm(self) -> bool:
        """Always False: a run is stopped by its driver, not by signals to its workers."""
        return False

    # ------------------------------------------------------------------------------------------------ metrics

    @property
    def callback_metrics(self) -> dict[str, Tensor]:
        """Everything logged, for callbacks to monitor."""
        if self.run is not None:
            self.state.callback_metrics.update(self.run.metrics.callback_values())
        return self.state.callback_metrics

    @property
    def logged_metrics(self) -> dict[str, Tensor]:
        """Everything sent to the loggers."""
        if self.run is not None:
            self.state.logged_metrics.update(self.run.metrics.logged_values())
        return self.state.logged_metrics

    @property
    def progress_bar_metrics(self) -> dict[str, float]:
        """What the progress bar shows. Waits for the device."""
        if self.run is not None:
            self.state.progress_bar_metrics.update(self.run.metrics.progress_bar_values())
        return self.state.progress_bar_metrics

    # ------------------------------------------------------------------------------------------------ flags in force

    def change_flags(self, **flags: Any) -> None:
        """Use other flags from now on; for those that the loops ask anew, in the middle of a run too.

        Raises:
            MisconfigurationException: As ``TrainerConfig``.
        """
        self.config = dataclasses.replace(self.config, **flags)
        if self.run is not None:
            self.run.config = self.config

    @property
    def max_epochs(self) -> int | None:
        """Epochs to train; -1 has no limit. May be raised between two calls of fit."""
        if self.state.max_epochs is not None:
            return self.state.max_epochs
        return 1 if self.config.num_dev_batches else self.config.max_epochs

    @max_epochs.setter
    def max_epochs(self, epochs: int | None) -> None:
        self.state.max_epochs = epochs

    @property
    def min_epochs(self) -> int | None:
        """Epochs before which a request to stop is not honoured."""
        return self.state.min_epochs if self.state.min_epochs is not None else self.config.min_epochs

    @min_epochs.setter
    def min_epochs(self, epochs: int | None) -> None:
        self.change_flags(min_epochs=epochs)
        self.state.min_epochs = epochs

    @_flag
    def max_steps(self) -> int:
        return self.config.num_dev_batches or self.config.max_steps

    @_flag
    def min_steps(self) -> int | None:
        return self.config.min_steps

    @property
    def accumulate_grad_batches(self) -> int:
        """Batches per optimizer step now; may be set at the start of an epoch."""
        return int(self.state.accumulate_grad_batches / self.state.shares)

    @accumulate_grad_batches.setter
    def accumulate_grad_batches(self, batches: int) -> None:
        self.state.accumulate(batches)
        if self.state.status != TrainerStatus.RUNNING:
            self.change_flags(accumulate_grad_batches=batches)

    @_flag
    def gradient_clip_val(self) -> int | float | None:
        return self.config.gradient_clip_val

    @_flag
    def gradient_clip_algorithm(self) -> str | None:
        return self.config.gradient_clip_algorithm

    @_flag
    def fast_dev_run(self) -> bool | int:
        return True if self.config.fast_dev_run == 1 else self.config.fast_dev_run

    @_flag
    def barebones(self) -> bool:
        return self.config.barebones

    @_flag
    def enable_autolog_hparams(self) -> bool:
        return self.config.enable_autolog_hparams

    @_flag
    def log_every_n_steps(self) -> int:
        """Optimizer steps between two writes of step metrics; 0 never."""
        if self.config.barebones:
            return 0
        return 50 if self.config.log_every_n_steps is None else self.config.log_every_n_steps

    @_flag
    def val_check_interval(self) -> Any:
        interval = self.config.val_check_interval
        if interval is None or self.config.num_dev_batches:
            return 1.0
        return whole(interval) if isinstance(interval, int | float) else interval

    @_flag
    def check_val_every_n_epoch(self) -> int | None:
        return 1 if self.config.num_dev_batches else self.config.check_val_every_n_epoch

    @property
    def num_sanity_val_steps(self) -> float:
        """Batches of the sanity check; inf for all."""
        if self.config.num_dev_batches or self.config.barebones:
            return 0
        steps = 2 if self.config.num_sanity_val_steps is None else self.config.num_sanity_val_steps
        return math.inf if steps == -1 else steps

    @num_sanity_val_steps.setter
    def num_sanity_val_steps(self, steps: float) -> None:
        self.change_flags(num_sanity_val_steps=-1 if math.isinf(steps) else steps)

    @_flag
    def limit_train_batches(self) -> int | float:
        return self.config.limit("train")

    @_flag
    def limit_val_batches(self) -> int | float:
        return self.config.limit("val")

    @_flag
    def limit_test_batches(self) -> int | float:
        return self.config.limit("test")

    @_flag
    def limit_predict_batches(self) -> int | float:
        return self.config.limit("predict")

    @_flag
    def overfit_batches(self) -> int | float:
        return whole(self.config.overfit_batches)

    @_flag
    def reload_dataloaders_every_n_epochs(self) -> int:
        return self.config.reload_dataloaders_every_n_epochs

    @property
    def precision(self) -> str:
        """Such as "bf16-mixed"."""
        return str(self.precision_plugin.precision)

    @property
    def val_check_batch(self) -> float:
        """Validation comes whenever this many batches are done; inf: at the epoch's end, or by the clock."""
        return self.state.val_check_batch

    @property
    def enable_validation(self) -> bool:
        """Whether fit validates: there is a validation_step and data for it."""
        return self.state.enable_validation

    # ------------------------------------------------------------------------------------------------ workers

    @property
    def world_size(self) -> int:
        return self.state.world_size

    @property
    def num_nodes(self) -> int:
        return self.state.num_nodes

    @property
    def global_rank(self) -> int:
        return self.state.global_rank

    @property
    def local_rank(self) -> int:
        return self.state.local_rank

    @property
    def node_rank(self) -> int:
        return self.state.node_rank

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the worker that writes files and speaks to the user."""
        return self.state.global_rank == 0

    @property
    def num_devices(self) -> int:
        """Workers per node."""
        return max(self.state.world_size // self.state.num_nodes, 1)

    @property
    def device_ids(self) -> list[int]:
        return list(range(self.num_devices))

    @property
    def accelerator(self) -> Any:
        """What kind of device the workers compute on: an Accelerator."""
        return self.strategy.accelerator

    # ------------------------------------------------------------------------------------------------ the run's objects

    @property
    def lightning_module(self) -> Any:
        """The user's model."""
        return self.run.model if self.run is not None else None

    @property
    def model(self) -> Any:
        """The model in the wrapper that training calls."""
        if self.run is None:
            return None
        return self.run.strategy.model if self.run.strategy.model is not None else self.run.model

    @property
    def datamodule(self) -> Any:
        return self.run.source.datamodule if self.run is not None else None

    @property
    def strategy(self) -> Any:
        """How the workers act together."""
        raise NotImplementedError

    @property
    def precision_plugin(self) -> Any:
        return self.strategy.precision_plugin

    @property
    def scaler(self) -> Any:
        """torch.amp.GradScaler of a 16-mixed run; None for the others."""
        return self.precision_plugin.scaler

    @property
    def optimizers(self) -> list[Any]:
        return self.run.optimizers if self.run is not None else []

    @optimizers.setter
    def optimizers(self, optimizers: list[Any]) -> None:
        if self.run is not None:
            self.run.set_optimizers(optimizers)

    @property
    def lr_scheduler_configs(self) -> list[Any]:
        return self.run.lr_scheduler_configs if self.run is not None else []

    def use_lr_scheduler(self, scheduler: Any) -> None:
        """Step ``scheduler`` once per epoch from now on, in place of what configure_optimizers returned."""
        self._live_run().use_lr_scheduler(scheduler)

    @property
    def train_dataloader(self) -> Any:
        """The loader, or loaders, as training uses them."""
        return self.run.loaders_of("train") if self.run is not None else None

    @property
    def val_dataloaders(self) -> Any:
        return self.run.loaders_of("val") if self.run is not None else None

    @property
    def test_dataloaders(self) -> Any:
        return self.run.loaders_of("test") if self.run is not None else None

    @property
    def predict_dataloaders(self) -> Any:
        return self.run.loaders_of("predict") if self.run is not None else None

    @property
    def loaders_were_given(self) -> bool:
        """Whether the loaders at work were handed to the call, and not made by model or datamodule."""
        return self._live_run().loaders_were_given

    @property
    def loaders_at_work(self) -> list[Any]:
        """The loaders of the stage at work, as it uses them."""
        stage = self.state.stage
        used = self._live_run().loaders_of(stage.dataloader_prefix) if stage is not None else None
        return tree_leaves(used)

    def reload_dataloaders(self) -> None:
        """Forget the loaders: the next stage, or the evaluation that is about to begin, asks for them anew."""
        self._live_run().forget_loaders()

    @property
    def num_training_batches(self) -> float:
        """Batches per epoch and worker; inf for a loader without length."""
        return self.state.num_training_batches

    @property
    def num_sanity_val_batches(self) -> list[float]:
        return self.state.num_sanity_val_batches

    @property
    def num_val_batches(self) -> list[float]:
        if self.sanity_checking:
            return self.state.num_sanity_val_batches
        return self.state.num_val_batches

    @property
    def num_test_batches(self) -> list[float]:
        return self.state.num_test_batches

    @property
    def num_predict_batches(self) -> list[float]:
        return self.state.num_predict_batches

    @property
    def distributed_sampler_kwargs(self) -> dict[str, int] | None:
        """num_replicas and rank for a sampler of the user's own; None on one worker."""
        if self.state.world_size == 1:
            return None
        return {"num_replicas": self.state.world_size, "rank": self.state.global_rank}

    # ------------------------------------------------------------------------------------------------ callbacks

    @property
    def early_stopping_callbacks(self) -> list[Any]:
        return [callback for callback in self.callbacks if isinstance(callback, EarlyStopping)]

    @property
    def early_stopping_callback(self) -> Any:
        return next(iter(self.early_stopping_callbacks), None)

    @property
    def checkpoint_callbacks(self) -> list[Any]:
        return [callback for callback in self.callbacks if isinstance(callback, Checkpoint)]

    @property
    def checkpoint_callback(self) -> Any:
        return next(iter(self.checkpoint_callbacks), None)

    @property
    def progress_bar_callback(self) -> Any:
        return next((callback for callback in self.callbacks if isinstance(callback, ProgressBar)), None)

    # ------------------------------------------------------------------------------------------------ files and loggers

    @property
    def loggers(self) -> list[Any]:
        raise NotImplementedError

    @property
    def logger(self) -> Any:
        """The first logger, or None."""
        return self.loggers[0] if self.loggers else None

    @property
    def log_dir(self) -> str | None:
        """Where this run's logs are; a path of the driver's. No collective, unlike Lightning's."""
        raise NotImplementedError

    @property
    def default_root_dir(self) -> str | os.PathLike[str]:
        raise NotImplementedError

    @property
    def ckpt_path(self) -> str | None:
        """The checkpoint that this call started from."""
        return self.run.job.ckpt_path if self.run is not None else None

    # ------------------------------------------------------------------------------------------------ doing

    def _live_run(self) -> Run:
        if self.run is None:
            raise AttributeError("Call this while a run is live, or after it ran in this process.")
        return self.run

    def try_out(
        self, callbacks: list[Any], fn: TrainerFn = TrainerFn.FITTING, batch_size: int | None = None, **flags: Any
    ) -> TrainState:
        """Collective, for hooks: a short run of this model inside the one at work; the model is put back afterwards.

        Args:
            callbacks: The only ones that it has.
            fn: What it does.
            batch_size: Of loaders that were handed to ``fit`` and the like; None leaves them.
            **flags: Trainer flags that differ from this run's.

        Returns:
            Its counters.
        """
        return self._live_run().try_out(callbacks, fn, batch_size, **flags)

    @contextlib.contextmanager
    def init_module(self, empty_init: bool | None = None) -> Iterator[None]:
        """Modules made inside have this run's precision, and are on this process's device.

        Args:
            empty_init: Leave out the initialization, of weights that are to be loaded anyway; None: False.
        """
        initialization = EmptyInit() if empty_init else contextlib.nullcontext()
        with initialization, self.strategy.root_device, self.precision_plugin.module_init_context():
            yield

    def save_checkpoint(
        self, filepath: str | os.PathLike[str], weights_only: bool | None = None, storage_options: Any = None
    ) -> None:
        """Collective: write a checkpoint; rank 0 writes the file, atomically, and all wait for it."""
        self._live_run().save_checkpoint(filepath, weights_only, storage_options)

    def log_metrics(self, metrics: dict[str, Any], step: int) -> None:
        """A row of numbers or one-element tensors for every logger. Waits for the device."""
        self._live_run().log_metrics(metrics, step)

    def emit(self, event: Event) -> None:
        """Send an event to the driver; on ranks other than 0 nothing happens."""
        self._live_run().emit(event)

    def report(self, report: Report) -> bool:
        """Collective: tell whoever drives this trial what it has reached; False: the call is to end here."""
        return self._live_run().report(report)

    def emit_text(self, text: str) -> None:
        """Print on the driver's terminal, beside the progress bar."""
        self._live_run().emit_text(text)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """``print`` on the driver's terminal, from rank 0 only."""
        say = print if self.run is None else self.run.print
        say(*args, **kwargs)
