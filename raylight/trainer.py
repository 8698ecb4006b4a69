"""Trainer: flags in; fit, validate, test, predict; what comes back goes into the user's own objects."""

from __future__ import annotations

import dataclasses
import inspect
import os
import time
from collections.abc import Iterable
from typing import Any

from typing_extensions import Self

from raylight.assembly import make_callbacks, make_loggers, with_model_callbacks
from raylight.callbacks.base import Callback
from raylight.checkpoint import storage
from raylight.checkpoint.format import check_weights_only
from raylight.config.accelerators import Placement, place, wants_ray
from raylight.config.flags import TrainerConfig
from raylight.config.messages import (
    DataSource,
    Event,
    Job,
    LoggerCall,
    LoggerInfo,
    Metrics,
    Outcome,
    Progress,
    Text,
    TrainerFn,
    TrainerStatus,
)
from raylight.core.datamodule import LightningDataModule
from raylight.core.module import LightningModule
from raylight.display import Display, print_results
from raylight.engine.base import Engine
from raylight.engine.local import LocalEngine
from raylight.loggers.base import Logger
from raylight.precision import precision_name
from raylight.strategies import make_strategy
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_warn
from raylight.worker import checkpointing
from raylight.worker.ckpt_path import choose as choose_ckpt_path
from raylight.worker.execute import set_torch_flags
from raylight.worker.listeners import warn_of_unknown_hooks
from raylight.worker.run import Run
from raylight.worker.state import TrainerView, TrainState
from raylight.worker.verify import verify

SECONDS_BETWEEN_SAVES = 1.0
"""Between two requests to the loggers to write to disk what they hold."""


class Trainer(TrainerView):
    """Trains a LightningModule in this process or on a Ray cluster.

    Args:
        logger: True (None): TensorBoardLogger in ``default_root_dir``; False: none; a Logger; or several.
        callbacks: One callback or a list of them.
        **flags: The fields of ``raylight.config.flags.TrainerConfig``, where each is described.

    Raises:
        UnknownFlagError: Flags that do not exist, all of them, each with a guess.
        MisconfigurationException: Flags whose values or combinations cannot work.

    Example::

        with Trainer(devices=2, launcher="ray", max_epochs=3) as trainer:
            trainer.fit(model, datamodule=data)
            trainer.test(model, datamodule=data)

    Leaving the block, ``shutdown()``, an idle time or the end of the process lets the workers go.
    """

    def __init__(
        self,
        *,
        logger: Logger | Iterable[Logger] | bool | None = None,
        callbacks: list[Callback] | Callback | None = None,
        **flags: Any,
    ) -> None:
        self.config = TrainerConfig.from_flags(**flags)
        self.state = TrainState()
        self._run: Run | None = None
        self._model: LightningModule | None = None
        self._datamodule: LightningDataModule | None = None
        self._engine: Engine | None = None
        self._ckpt_path: str | None = None
        self._user_ckpt_path: str | None = None
        self._display = Display()
        self._next_save = 0.0
        set_torch_flags(self.config)
        precision_name(self.config.precision)
        make_strategy(self.config.strategy, 2 if wants_ray(self.config) else 1)
        if not wants_ray(self.config):
            self._take_placement(place(self.config))
        self._loggers = make_loggers(self.config, logger)
        self.callbacks = make_callbacks(self.config, callbacks)
        warn_of_unknown_hooks(self.callbacks)

    # ------------------------------------------------------------------------------------------------ methods

    def fit(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Train ``model``.

        Args:
            model: What to train; it holds the trained weights afterwards.
            train_dataloaders: A loader, or a nesting of them; or the datamodule.
            val_dataloaders: A loader, or a list of them.
            datamodule: In place of loaders.
            ckpt_path: A checkpoint to go on from: a path, a URI, "last", "best" or "hpc".
            weights_only: Makes no difference, False is warned about: a file never runs code.

        Raises:
            Whatever the user's code raises, on any worker, with its own type.
            KeyboardInterrupt: After Ctrl-C, when training has stopped and its state is here.
        """
        if isinstance(train_dataloaders, LightningDataModule):
            train_dataloaders, datamodule = None, train_dataloaders
        data = self._source(datamodule, train=train_dataloaders, val=val_dataloaders)
        self._execute(TrainerFn.FITTING, model, data, ckpt_path, weights_only)

    def validate(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> list[dict[str, float]]:
        """Run validation once over every sample, whatever the number of workers.

        Args:
            model: None takes the last one, with the best checkpoint's weights where there is one.
            dataloaders: A loader, or a list of them; or the datamodule.
            ckpt_path: A path, a URI, "best", "last" or "hpc". None keeps the weights of ``model``.
            verbose: Print the results.
            datamodule: In place of loaders.

        Returns:
            What was logged, a dict per loader.
        """
        return self._evaluate(TrainerFn.VALIDATING, model, dataloaders, ckpt_path, verbose, datamodule, weights_only)

    def test(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        verbose: bool = True,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> list[dict[str, float]]:
        """Run the test once over every sample; arguments and result as for ``validate``."""
        return self._evaluate(TrainerFn.TESTING, model, dataloaders, ckpt_path, verbose, datamodule, weights_only)

    def _evaluate(
        self,
        fn: TrainerFn,
        model: LightningModule | None,
        dataloaders: Any,
        ckpt_path: str | os.PathLike[str] | None,
        verbose: bool,
        datamodule: LightningDataModule | None,
        weights_only: bool | None,
    ) -> list[dict[str, float]]:
        if isinstance(dataloaders, LightningDataModule):
            dataloaders, datamodule = None, dataloaders
        kind = "val" if fn == TrainerFn.VALIDATING else "test"
        data = self._source(datamodule, **{kind: dataloaders})
        outcome = self._execute(fn, model, data, ckpt_path, weights_only)
        if verbose and outcome.results:
            print_results(outcome.results, str(fn))
        return outcome.results

    def predict(
        self,
        model: LightningModule | None = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        return_predictions: bool | None = None,
        ckpt_path: str | os.PathLike[str] | None = None,
        weights_only: bool | None = None,
    ) -> list[Any] | None:
        """What ``predict_step`` gives for every batch, in dataset order, whatever the number of workers.

        Args:
            return_predictions: False where a callback writes them; None is True.

        Returns:
            A list of batches, tensors on the CPU; with several loaders a list of those.
        """
        if isinstance(dataloaders, LightningDataModule):
            dataloaders, datamodule = None, dataloaders
        data = self._source(datamodule, predict=dataloaders)
        returned = return_predictions is None or return_predictions
        outcome = self._execute(TrainerFn.PREDICTING, model, data, ckpt_path, weights_only, returned)
        return outcome.predictions if returned else None

    def shutdown(self) -> None:
        """Let the workers go, and the Ray cluster if raylight started it. The next call starts anew."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()

    # ------------------------------------------------------------------------------------------------ one call

    def _execute(
        self,
        fn: TrainerFn,
        model: LightningModule | None,
        data: DataSource,
        ckpt_path: str | os.PathLike[str] | None,
        weights_only: bool | None,
        return_predictions: bool = True,
    ) -> Outcome:
        chosen = self._choose_model(model)
        path = self._choose_ckpt_path(fn, ckpt_path, model is not None)
        self._attach(chosen, data)
        verify(self, fn, chosen, data)
        check_weights_only(weights_only)
        self._ckpt_path = path
        engine, placement = self._start_engine(data)
        job = self._make_job(fn, chosen, data, path, placement, return_predictions)
        self.state = dataclasses.replace(self.state, fn=fn, status=TrainerStatus.RUNNING)
        status = "failed"
        try:
            outcome = engine.execute(job, self._take_event)
            self.state = outcome.state
            status = "failed" if outcome.interrupted else "success"
        except BaseException:
            self.state.status, self.state.stage = TrainerStatus.INTERRUPTED, None
            raise
        finally:
            self._display.close()
            for logger in self._loggers:
                logger.finalize(status)
        if outcome.interrupted:
            raise KeyboardInterrupt("Training was stopped by the user; what it has reached is in the model.")
        return outcome

    def _choose_model(self, model: LightningModule | None) -> LightningModule:
        original: LightningModule | None = getattr(model, "_orig_mod", None)
        if original is not None:
            rank_zero_warn("The model is used without torch.compile; compile its submodules in configure_model.")
            model = original
        if model is None:
            model = self._model
        if model is None:
            raise TypeError("No model: give the LightningModule, as nothing has been run by this Trainer yet.")
        if not isinstance(model, LightningModule):
            raise TypeError(f"`model` must be a `LightningModule`, got `{type(model).__qualname__}`")
        return model

    def _attach(self, model: LightningModule, data: DataSource) -> None:
        self._model, self._datamodule = model, data.datamodule
        model.trainer = self
        if data.datamodule is not None:
            data.datamodule.trainer = self
        self.callbacks = with_model_callbacks(self.callbacks, model.configure_callbacks())

    def _source(self, datamodule: LightningDataModule | None, **loaders: Any) -> DataSource:
        given = [name for name, loader in loaders.items() if loader is not None]
        if datamodule is not None and given:
            raise MisconfigurationException(
                f"You cannot pass {' or '.join(f'`{name}_dataloaders`' for name in given)} together with `datamodule`: "
                "the loaders would be ambiguous. Give one of them."
            )
        return DataSource(datamodule=datamodule, **loaders)

    def _start_engine(self, data: DataSource) -> tuple[Engine, Placement]:
        if not wants_ray(self.config):
            placement = place(self.config)
            self._engine = self._engine or LocalEngine()
        else:
            from raylight.engine import cluster
            from raylight.engine.pool import PoolEngine
            from raylight.engine.portable import verify_portable

            verify_portable(self._model, data, self.callbacks, self.config.strategy)
            expected = place(self.config)
            cluster.connect(expected.num_workers, expected.resources.get("CPU", 0))
            placement = place(self.config, cluster.gpu_count())
            config = self.config
            self._engine = self._engine or PoolEngine(placement, config.resource_timeout, config.idle_timeout)
        self._take_placement(placement)
        return self._engine, placement

    def _take_placement(self, placement: Placement) -> None:
        self.state.world_size = placement.num_workers
        self.state.num_nodes = placement.num_nodes
        self.state.device_type = placement.device_type

    def _make_job(
        self,
        fn: TrainerFn,
        model: LightningModule,
        data: DataSource,
        ckpt_path: str | None,
        placement: Placement,
        return_predictions: bool,
    ) -> Job:
        local = isinstance(self._engine, LocalEngine)
        for logger in self._loggers:
            logger.experiment  # noqa: B018  settles the logger's version and makes its folder
            if fn == TrainerFn.FITTING and not local:
                logger.log_graph(model)  # in this process the run does it, when the model is on its device
        return Job(
            fn=fn,
            config=self.config,
            placement=placement,
            model=model,
            data=data,
            callbacks=self.callbacks,
            progress=self.state.progress(),
            ckpt_path=ckpt_path,
            log_dir=self.log_dir,
            root_dir=str(self.default_root_dir),
            loggers=self._loggers if local else [_logger_info(logger) for logger in self._loggers],
            return_predictions=return_predictions,
            trainer=self if local else None,
        )

    def _take_event(self, event: Event) -> None:
        """Runs on the driver: events of rank 0."""
        if isinstance(event, Metrics):
            for logger in self._loggers:
                logger.log_metrics(event.metrics, event.step)
            self._save_loggers()
        elif isinstance(event, Progress):
            self._display.progress(event)
        elif isinstance(event, Text):
            self._display.text(event.text)
        elif isinstance(event, LoggerCall):
            target: Any = self._loggers[event.index]
            for name in event.path:
                target = getattr(target, name)
            target(*event.args, **event.kwargs)

    def _save_loggers(self) -> None:
        # Writing to disk costs more than the row itself. finalize() writes what is left.
        if time.monotonic() < self._next_save:
            return
        self._next_save = time.monotonic() + SECONDS_BETWEEN_SAVES
        for logger in self._loggers:
            logger.save()

    def _choose_ckpt_path(
        self, fn: TrainerFn, ckpt_path: str | os.PathLike[str] | None, model_given: bool
    ) -> str | None:
        """The file to load from: of this call's argument, or else the one that ``ckpt_path`` was set to."""
        if self._user_ckpt_path and not ckpt_path:
            return self._user_ckpt_path
        if self._user_ckpt_path:
            rank_zero_warn(
                f"`trainer.ckpt_path = {self._user_ckpt_path!r}` was called but then you passed "
                f"`trainer.{fn}(ckpt_path={ckpt_path!r})`. The latter will be loaded."
            )
            self._user_ckpt_path = None
        return choose_ckpt_path(self, fn, ckpt_path, model_given)

    @property
    def ckpt_path(self) -> str | None:
        """The checkpoint that the last call started from. What it is set to, later calls start from, until None."""
        return self._ckpt_path

    @ckpt_path.setter
    def ckpt_path(self, path: str | os.PathLike[str] | None) -> None:
        self._ckpt_path = self._user_ckpt_path = os.fspath(path) if path else None

    # ------------------------------------------------------------------------------------------------ what hooks see

    @property
    def run(self) -> Run | None:
        return self._run

    @property
    def loggers(self) -> list[Any]:
        return self._loggers

    @loggers.setter
    def loggers(self, loggers: list[Any] | None) -> None:
        self._loggers = list(loggers) if loggers else []

    @property
    def logger(self) -> Any:
        """The first logger, or None; setting it replaces all."""
        return self._loggers[0] if self._loggers else None

    @logger.setter
    def logger(self, logger: Any) -> None:
        self._loggers = [logger] if logger is not None else []

    @property
    def log_dir(self) -> str | None:
        if not self._loggers:
            return str(self.default_root_dir)
        first = self._loggers[0]
        log_dir: str | None = first.log_dir if getattr(first, "log_dir", None) is not None else first.save_dir
        return log_dir

    @property
    def default_root_dir(self) -> str | os.PathLike[str]:
        root = self.config.default_root_dir
        if root is None:
            return os.getcwd()
        return os.path.abspath(os.path.expanduser(root)) if storage.is_local(root) else os.fspath(root)

    @property
    def lightning_module(self) -> Any:
        return self._model

    @property
    def datamodule(self) -> Any:
        return self._datamodule

    def save_checkpoint(
        self, filepath: str | os.PathLike[str], weights_only: bool | None = None, storage_options: Any = None
    ) -> None:
        """Write a checkpoint of the run in this process; after a run on Ray, of the weights that came back.

        Raises:
            AttributeError: Nothing has been run yet.
            MisconfigurationException: More than weights are asked for after a run on Ray.
        """
        if self._run is not None:
            super().save_checkpoint(filepath, weights_only, storage_options)
        elif self._model is None:
            raise AttributeError(
                "Saving a checkpoint is only possible if a model is attached to the Trainer. Did you call "
                "`Trainer.save_checkpoint()` before calling `Trainer.{fit,validate,test,predict}`?"
            )
        elif weights_only:
            checkpointing.save_weights(self._model, self._datamodule, self.state, filepath)
        else:
            raise MisconfigurationException(
                "The optimizers of a run on Ray stay in its workers: give weights_only=True, or save during the run, "
                "with ModelCheckpoint or with trainer.save_checkpoint in a hook."
            )


def _logger_info(logger: Any) -> LoggerInfo:
    names = ("name", "version", "save_dir", "log_dir", "root_dir")
    return LoggerInfo(**{name: getattr(logger, name, None) for name in names}, class_name=type(logger).__name__)


def _signature() -> inspect.Signature:
    """``Trainer``'s arguments by name, for help() and editors: its flags are the fields of TrainerConfig."""
    own = [p for p in inspect.signature(Trainer.__init__).parameters.values() if p.name != "flags"]
    flags = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default="auto" if field.default is dataclasses.MISSING else field.default,
            annotation=field.type,
        )
        for field in dataclasses.fields(TrainerConfig)
    ]
    return inspect.Signature([*own, *flags])


Trainer.__init__.__signature__ = _signature()  # type: ignore[attr-defined]
