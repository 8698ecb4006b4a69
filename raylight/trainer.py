"""Trainer: flags in; fit, validate, test, predict; what comes back goes into the user's own objects."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import os
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, get_type_hints

from typing_extensions import Self

from raylight.assembly import make_callbacks, make_loggers, tell, with_model_callbacks
from raylight.callbacks.base import Callback
from raylight.callbacks.legacy import tell_of_init
from raylight.callbacks.resume_file import FitRecord, ResumeFile
from raylight.checkpoint import storage
from raylight.checkpoint.format import check_weights_only
from raylight.config import legacy
from raylight.config.accelerators import Placement, place, wants_ray
from raylight.config.flags import TrainerConfig
from raylight.config.messages import (
    DataSource,
    Event,
    Incident,
    Job,
    LoggerCall,
    LoggerInfo,
    Metrics,
    Outcome,
    Pace,
    Progress,
    Report,
    Text,
    TrainerFn,
    TrainerStatus,
)
from raylight.config.run_id import below_run, in_run_folder, run_id
from raylight.core.datamodule import LightningDataModule
from raylight.core.module import LightningModule
from raylight.display import Display, print_results
from raylight.engine.base import Engine
from raylight.engine.local import LocalEngine
from raylight.loggers.base import LocalLogger, Logger
from raylight.loggers.wandb import WandbLogger
from raylight.plugins.selection import accelerator_of, equipped_strategy, with_devices_of_strategy, with_registered
from raylight.precision import precision_name
from raylight.profilers import make_profiler
from raylight.strategies import Strategy
from raylight.tuner.tuning import Tuner, search_beforehand, tune_arguments
from raylight.utilities import argparse
from raylight.utilities.aliases import lazy_names
from raylight.utilities.exceptions import SIGTERM_STATUS, MisconfigurationException, SIGTERMException
from raylight.utilities.old_arguments import understands
from raylight.utilities.parsing import clean_namespace
from raylight.utilities.rank_zero import log, rank_zero_warn
from raylight.worker import checkpointing
from raylight.worker.ckpt_path import choose as choose_ckpt_path
from raylight.worker.ckpt_path import fallbacks
from raylight.worker.execute import set_torch_flags, single_rank
from raylight.worker.listeners import warn_of_unknown_hooks
from raylight.worker.run import FIRST_STAGE, Run
from raylight.worker.state import TrainState
from raylight.worker.trainer_view import TrainerView
from raylight.worker.verify import verify

__path__: list[str] = []
"""Lightning has a package here: ``raylight.utilities.aliases`` serves its modules."""
SECONDS_BETWEEN_SAVES = 1.0
"""Between two requests to raylight's own loggers of files to write what they hold."""

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)


class Trainer(TrainerView):
    """Trains a LightningModule in this process or on a Ray cluster.

    Args:
        logger: True (None): TensorBoardLogger in ``default_root_dir``; False: none; a Logger; or several.
        callbacks: One callback or a list of them.
        **flags: The fields of ``raylight.config.flags.TrainerConfig``, where each is described; and the flags of
            Lightning 1.x, in ``raylight.config.legacy``. ``PL_TRAINER_<FLAG>`` in the environment is a flag's default.

    Raises:
        UnknownFlagError: Flags that do not exist, all of them, each with a guess.
        TypeError: Positional arguments, or a flag of the wrong type.
        MisconfigurationException: Flags whose values or combinations cannot work.

    Example::

        with Trainer(devices=2, launcher="ray", max_epochs=3) as trainer:
            trainer.fit(model, datamodule=data)
            trainer.test(model, datamodule=data)

    Leaving the block, ``shutdown()``, an idle time or the end of the process lets the workers go.
    """

    def __init__(self, *positional: Any, **flags: Any) -> None:
        if positional:
            raise TypeError(f"Trainer takes keyword arguments only, got {positional!r}: write Trainer(name=value).")
        flags = _over(legacy.modernize(vars(self.match_env_arguments())), legacy.modernize(flags))
        logger, callbacks = flags.pop("logger", None), flags.pop("callbacks", None)
        self.config = in_run_folder(with_devices_of_strategy(with_registered(TrainerConfig.from_flags(**flags))))
        self.state = TrainState()
        self._run: Run | None = None
        self._model: LightningModule | None = None
        self._datamodule: LightningDataModule | None = None
        self._engine: Engine | None = None
        self._ckpt_path: str | None = None
        self._user_ckpt_path: str | None = None
        self._display = Display(self)
        self.judge: Callable[[Report], bool] = _go_on
        """Answers the reports of a trial: False ends the call. Of a Trainer that no search drives it is always True."""
        self._fallbacks: list[str] = []
        """Checkpoints to start from where that of the call is damaged."""
        self._is_trained = False
        """The fit that is called is over: an earlier submission has done it."""
        self._searches = False
        """A fit that is called is a part of a search."""
        self.incidents: list[Incident] = []
        """Failures of machines that calls of this Trainer have survived."""
        self._next_save = 0.0
        base = self.config.accumulate_grad_batches
        self.state.accumulate_grad_batches = base if isinstance(base, int) else 1
        if self.config.deterministic is not None or self.config.benchmark is not None:
            set_torch_flags(self.config)
        self._equip()
        self._loggers = make_loggers(self.config, logger)
        self.callbacks = make_callbacks(self.config, callbacks, self._loggers)
        self.profiler = make_profiler(self.config.profiler)
        tell(self.config)
        warn_of_unknown_hooks(self.callbacks)
        tell_of_init(self.callbacks, self)

    def _equip(self) -> None:
        """Make the strategy and what belongs to it. Workers of Ray's make theirs; this one is for whoever asks before.

        ``config.precision`` gets its full name, so that what there is to say of a short one or of a CPU is said once.
        """
        if self.config.precision is not None:
            self.config = dataclasses.replace(self.config, precision=precision_name(self.config.precision))
        use_ray = wants_ray(self.config)
        placement = None if use_ray else place(self.config)
        device_type = placement.device_type if placement else "cpu" if self.config.accelerator == "cpu" else "cuda"
        self._strategy = equipped_strategy(self.config, 2 if use_ray else 1, device_type)
        if placement is None:
            return
        self._take_placement(placement)
        self._strategy.attach(placement.device, **single_rank())
        if self.config.precision is not None:
            self.config = dataclasses.replace(self.config, precision=self._strategy.precision_plugin.precision)

    # ------------------------------------------------------------------------------------------------ command line

    @classmethod
    def add_argparse_args(cls, parent_parser: ArgumentParser, **kwargs: Any) -> ArgumentParser:
        """Add Lightning's flags, those of 1.x too, as arguments of the command line.

        raylight's own flags are none of them: scripts have a ``--num_workers`` of their own.

        Args:
            parent_parser: It is returned.
            kwargs: As of ``raylight.utilities.argparse.add_argparse_args``.
        """
        return argparse.add_argparse_args(cls, parent_parser, **kwargs)

    @classmethod
    def from_argparse_args(cls, args: Namespace | ArgumentParser, **kwargs: Any) -> Self:
        """A Trainer of those ``args`` that are its flags; ``kwargs`` win over them."""
        defaults = {name: parameter.default for name, parameter in cls._argparse_parameters().items()}
        given = argparse.init_arguments(cls, args)
        told = {
            name: value for name, value in given.items() if value != defaults[name]
        }  # a default contradicts nothing
        return cls(**{**told, **kwargs})

    @classmethod
    def parse_argparser(cls, arg_parser: ArgumentParser | Namespace) -> Namespace:
        """The arguments given, where a bool that is named without a value is True."""
        return argparse.parse_argparser(cls, arg_parser)

    @classmethod
    def match_env_arguments(cls) -> Namespace:
        """Flags that the environment sets: ``PL_TRAINER_MAX_EPOCHS=3``. Arguments of the call win over them."""
        return argparse.env_arguments(cls.__name__, [*_FLAGS, *legacy.OLD_FLAGS])

    @classmethod
    def default_attributes(cls) -> dict[str, Any]:
        """The flags and their defaults."""
        return {name: parameter.default for name, parameter in _FLAGS.items()}

    @classmethod
    def get_deprecated_arg_names(cls) -> list[str]:
        """The flags of Lightning 1.x that still work."""
        return list(legacy.OLD_FLAGS)

    @classmethod
    def _argparse_parameters(cls) -> argparse.Parameters:
        lightnings = {name: each for name, each in _FLAGS.items() if name not in TrainerConfig.OWN}
        return {**lightnings, **legacy.old_parameters()}

    # ------------------------------------------------------------------------------------------------ methods

    @understands({"train_dataloader": "train_dataloaders"})
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
            ckpt_path: A checkpoint to go on from: a path, a URI, "last", "best" or "hpc". "auto": the script may be
                killed and started again, and goes on where it was; meanwhile two files ``resume-N-a.ckpt`` and ``-b``
                are in ``default_root_dir``, written in turn after each epoch, every ten minutes and after Ctrl-C.
                In a run of ``raylight submit`` each fit does so, and another ckpt_path is where it first begins.
            weights_only: Makes no difference, False is warned about: a file never runs code.

        Raises:
            Whatever the user's code raises, on any worker, with its own type.
            KeyboardInterrupt: After Ctrl-C, when training has stopped and its state is here.
            SIGTERMException: Likewise after a SIGTERM; uncaught it ends the process with status 143.
        """
        if isinstance(train_dataloaders, LightningDataModule):
            train_dataloaders, datamodule = None, train_dataloaders
        data = self._source(datamodule, train=train_dataloaders, val=val_dataloaders)
        with self._resumable(ckpt_path) as path:
            self._execute(TrainerFn.FITTING, model, data, path, weights_only)

    @understands({"val_dataloaders": "dataloaders"})
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

    @understands({"test_dataloaders": "dataloaders"})
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
        write_to: str | os.PathLike[str] | None = None,
    ) -> Any:
        """What ``predict_step`` gives for every batch, in dataset order, whatever the number of workers.

        Args:
            return_predictions: False where they are too many, or a callback writes them; None is True. With
                ``write_to`` they are not returned.
            write_to: A folder, or the URI of one, that the workers write the predictions to as a Parquet dataset: one
                row for each sample, one column "prediction", or one for each key where ``predict_step`` returns a dict.
                Where a call was interrupted, the next one with the same model, weights, data and batch size makes only
                the parts that are missing. ``_SUCCESS`` is there when all are.

        Returns:
            A list of batches, tensors on the CPU; with several loaders a list of those. Of a Ray Dataset a Ray Dataset,
            of a row for each prediction. None where there is no batch, or they are not to be returned.

        Raises:
            MisconfigurationException: The folder of ``write_to`` is of something else, predictions cannot be rows, or
                they are to be both written and returned.
        """
        if isinstance(dataloaders, LightningDataModule):
            dataloaders, datamodule = None, dataloaders
        data = self._source(datamodule, predict=dataloaders)
        returned = write_to is None and return_predictions is not False
        folder = self._prediction_folder(write_to, return_predictions) if write_to is not None else None
        outcome = self._execute(TrainerFn.PREDICTING, model, data, ckpt_path, weights_only, returned, folder)
        return (outcome.predictions or None) if returned else None

    def _prediction_folder(self, path: str | os.PathLike[str], return_predictions: bool | None) -> str:
        if return_predictions:
            raise MisconfigurationException(
                "predict(write_to=...) makes only the parts that the folder lacks, so it cannot return all "
                "predictions, as return_predictions=True asks for. Leave that out, and read them back with "
                f"pyarrow.parquet.read_table({os.fspath(path)!r}) or ray.data.read_parquet({os.fspath(path)!r})."
            )
        limit = self.config.limit("predict")
        if isinstance(limit, int) or limit != 1.0:
            raise MisconfigurationException(
                "predict(write_to=...) writes the predictions of all data: leave out limit_predict_batches and "
                "fast_dev_run, or give it less data."
            )
        path = below_run(path)
        return os.path.abspath(os.path.expanduser(path)) if storage.is_local(path) else storage.join(path)

    @property
    def tuner(self) -> Tuner:
        """Searches with this Trainer, as in Lightning 1.x; today ``Tuner(trainer)``."""
        return Tuner(self)

    @understands({"train_dataloader": "train_dataloaders"})
    def tune(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        *positional: Any,
        **named: Any,
    ) -> dict[str, Any]:
        """The searches that ``auto_scale_batch_size`` and ``auto_lr_find`` ask for, as in Lightning 1.x.

        After the loaders come, by position or name, either ``datamodule, scale_batch_size_kwargs, lr_find_kwargs`` (1.3
        to 1.7) or ``dataloaders, datamodule, scale_batch_size_kwargs, lr_find_kwargs, method`` (1.8 and 1.9).

        Args:
            model: What is found is set on it, its hparams or its datamodule, wherever the attribute is.
            train_dataloaders: As for ``fit``.
            val_dataloaders: As for ``fit``.
            positional: See above.
            named: See above.

        Returns:
            "scale_batch_size" with the batch size, and "lr_find" with the range test, where each was asked for.
        """
        rest = tune_arguments(positional, named)
        batch_kwargs, lr_kwargs = rest.pop("scale_batch_size_kwargs") or {}, rest.pop("lr_find_kwargs") or {}
        batch_flag, lr_flag = self.config.auto_scale_batch_size, self.config.auto_lr_find
        if not batch_flag and not lr_flag:
            rank_zero_warn("tune() has nothing to do: use Trainer(auto_lr_find=True) or (auto_scale_batch_size=True).")
        tuner = Tuner(self)
        found: dict[str, Any] = {}
        loaders = {"train_dataloaders": train_dataloaders, "val_dataloaders": val_dataloaders, **rest}
        if isinstance(train_dataloaders, LightningDataModule):
            loaders.update(train_dataloaders=None, datamodule=train_dataloaders)
        if batch_flag:
            mode = {"mode": batch_flag} if isinstance(batch_flag, str) else {}
            arguments = {**mode, "margin": 0.0, **batch_kwargs}  # 1.x left no margin
            found["scale_batch_size"] = tuner.scale_batch_size(model, **loaders, **arguments)
        if lr_flag:
            attribute = {"attr_name": lr_flag} if isinstance(lr_flag, str) else {}
            found["lr_find"] = tuner.lr_find(model, **loaders, **{**attribute, **lr_kwargs})
        return found

    @contextlib.contextmanager
    def only_with(self, callback: Callback) -> Iterator[None]:
        """Calls inside have this callback alone and no logger; counters, metrics and callbacks are then as before."""
        kept = self.callbacks, self._loggers, self.state
        self.callbacks, self._loggers = [callback], []
        self.state = dataclasses.replace(self.state)
        self._searches = True
        try:
            yield
        finally:
            self.callbacks, self._loggers, self.state = kept
            self._searches = False

    def shutdown(self) -> None:
        """Let the workers go, and the Ray cluster if raylight started it. The next call starts anew."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def __getstate__(self) -> dict[str, Any]:
        # What only a live process has: the last run, the workers, and whoever drives a search.
        return {**self.__dict__, "_run": None, "_engine": None, "judge": _go_on}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()

    # ------------------------------------------------------------------------------------------------ one call

    @contextlib.contextmanager
    def _resumable(self, ckpt_path: str | os.PathLike[str] | None) -> Iterator[str | os.PathLike[str] | None]:
        """The checkpoint of this call; of "auto" it is the newest of the files that such a call writes."""
        submitted, config = run_id(), self.config
        no_part_of_run = submitted is None or self._searches or config.num_dev_batches or config.barebones
        if ckpt_path != "auto" and no_part_of_run:
            yield ckpt_path
            return
        files = ResumeFile(self.default_root_dir, next(_resumable_fits), submitted)
        self.callbacks = [*self.callbacks, files]
        found = files.found()
        self._fallbacks = found[1:]
        start = found[0] if found else None if ckpt_path == "auto" else ckpt_path
        try:
            if submitted is None:
                yield start
            else:
                with self._recorded(files.record, bool(found)):
                    yield start
        finally:
            self.callbacks = [each for each in self.callbacks if each is not files]
            self._is_trained = False

    @contextlib.contextmanager
    def _recorded(self, record: FitRecord, goes_on: bool) -> Iterator[None]:
        """A fit of a run that may be submitted again: it goes on with its logs, and is not done again when it is over.

        Args:
            goes_on: There are files of an earlier submission.
        """
        limits = {name: getattr(self.config, name) for name in ("max_epochs", "max_steps")}
        loggers = [logger for logger in self._loggers if isinstance(logger, LocalLogger)]
        if goes_on:
            told = record.read()
            for logger, version in zip(loggers, told["versions"], strict=False):
                logger.go_on(version)
            self._is_trained = told["over_with"] == limits
            what = "has been trained, and is loaded" if self._is_trained else "goes on"
            log.warning("Run %s: this fit %s from what an earlier submission has saved.", run_id(), what)
        versions = [logger.version for logger in loggers]
        record.write(versions, limits if self._is_trained else None)
        yield
        record.write(versions, limits)

    def _execute(
        self,
        fn: TrainerFn,
        model: LightningModule | None,
        data: DataSource,
        ckpt_path: str | os.PathLike[str] | None,
        weights_only: bool | None,
        return_predictions: bool = True,
        write_to: str | None = None,
    ) -> Outcome:
        chosen = self._choose_model(model, fn)
        self.state = dataclasses.replace(self.state, fn=fn, status=TrainerStatus.RUNNING, stage=FIRST_STAGE[fn])
        try:
            given = model is not None
            return self._run_call(fn, chosen, data, ckpt_path, weights_only, given, return_predictions, write_to)
        except BaseException as error:
            self.state.status, self.state.stage = TrainerStatus.INTERRUPTED, None
            if hasattr(error, "raylight_origin"):  # its way is told by its cause: the engine's frames add nothing
                raise error.with_traceback(None)  # noqa: B904
            raise
        finally:
            self._fallbacks = []

    def _run_call(
        self,
        fn: TrainerFn,
        chosen: LightningModule,
        data: DataSource,
        ckpt_path: str | os.PathLike[str] | None,
        weights_only: bool | None,
        model_given: bool,
        return_predictions: bool,
        write_to: str | None,
    ) -> Outcome:
        if fn == TrainerFn.FITTING and ckpt_path is None:
            ckpt_path = self.config.resume_from_checkpoint
        path = self._choose_ckpt_path(fn, ckpt_path, model_given)
        if ckpt_path == "last":
            self._fallbacks = fallbacks(self, path)
        self.attach(chosen, data)
        verify(self, fn, chosen, data)
        check_weights_only(weights_only)
        self._ckpt_path = path
        search_beforehand(self, fn, chosen, data)
        engine, placement = self._start_engine(data)
        job = self._make_job(fn, chosen, data, path, placement, return_predictions)
        job.write_to = write_to
        status = "failed"
        try:
            outcome = engine.execute(job, self._take_event)
            self.state = outcome.state
            status = "failed" if outcome.interrupted else "success"
        finally:
            self._display.close()
            for logger in self._loggers:
                logger.finalize(status)
        if outcome.terminated:
            raise SIGTERMException(SIGTERM_STATUS)
        if outcome.interrupted:
            raise KeyboardInterrupt("Training was stopped by the user; what it has reached is in the model.")
        return outcome

    def _choose_model(self, model: LightningModule | None, fn: TrainerFn) -> LightningModule:
        original: LightningModule | None = getattr(model, "_orig_mod", None)
        if original is not None:
            rank_zero_warn("The model is used without torch.compile; compile its submodules in configure_model.")
            model = original
        if model is None:
            model = self._model
        if model is None:
            raise TypeError(
                f"`Trainer.{fn}()` requires a `LightningModule` when it hasn't been passed in a previous run"
            )
        if not isinstance(model, LightningModule):
            raise TypeError(
                "`model` must be a `LightningModule` or `torch._dynamo.OptimizedModule`, got "
                f"`{type(model).__qualname__}`"
            )
        return model

    def attach(self, model: LightningModule, data: DataSource) -> None:
        """Model and data belong to this Trainer from now on."""
        self._model, self._datamodule = model, data.datamodule
        clean_namespace(model.hparams)
        model.trainer = self
        if self.config.automatic_optimization is not None:
            model.automatic_optimization = self.config.automatic_optimization
        if data.datamodule is not None:
            data.datamodule.trainer = self
        self.callbacks = with_model_callbacks(self.callbacks, model.configure_callbacks())

    def _source(self, datamodule: LightningDataModule | None, **loaders: Any) -> DataSource:
        given = [name for name, loader in loaders.items() if loader is not None]
        if datamodule is not None and given:
            call = "You cannot pass `train_dataloader` or `val_dataloaders` to `trainer.fit(datamodule=...)`"
            if "train" not in loaders:
                fn = "validate" if "val" in loaders else given[0]
                call = f"You cannot pass both `trainer.{fn}(dataloaders=..., datamodule=...)`"
            raise MisconfigurationException(f"{call}: the loaders would be ambiguous. Give one of them.")
        return DataSource(datamodule=datamodule, **loaders)

    def _start_engine(self, data: DataSource) -> tuple[Engine, Placement]:
        if not wants_ray(self.config):
            placement = place(self.config)
            self._engine = self._engine or LocalEngine()
        else:
            from raylight.engine import cluster, ray_data
            from raylight.engine.pool import PoolEngine
            from raylight.engine.portable import verify_portable

            flags = {"strategy": self.config.strategy, "plugins": self.config.plugins, "profiler": self.profiler}
            verify_portable(self._model, ray_data.without_datasets(data), self.callbacks, **flags)
            expected = place(self.config)
            cluster.connect(expected.num_workers, expected.resources.get("CPU", 0))
            placement = place(self.config, cluster.gpu_count())
            config = self.config
            timeouts = config.resource_timeout, config.idle_timeout, config.elastic_wait
            self._engine = self._engine or PoolEngine(placement, *timeouts)
        self._take_placement(placement)
        return self._engine, placement

    def _take_placement(self, placement: Placement) -> None:
        self.state.world_size = placement.num_workers
        self.state.num_nodes = placement.num_nodes
        self.state.device_type = placement.device_type
        if self._strategy.accelerator is None or self._strategy.accelerator.name() != placement.device_type:
            self._strategy.accelerator = accelerator_of(self.config, placement.device_type)

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
        for logger in sorted(self._loggers, key=lambda each: not isinstance(each, WandbLogger)):
            # Settles the logger's version and makes its folder. W&B comes first, else it misses TensorBoard's writers.
            getattr(logger, "experiment", None)
            if not local:
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
            fallbacks=self._fallbacks,
            is_trained=self._is_trained,
            log_dir=self.log_dir,
            root_dir=str(self.default_root_dir),
            loggers=self._loggers if local else [_logger_info(logger) for logger in self._loggers],
            return_predictions=return_predictions,
            strategy=self._strategy if local else None,
            profiler=self.profiler,
            shows_pace=not local and self._display.shows_pace,
            trainer=self if local else None,
        )

    def _take_event(self, event: Event) -> Any:
        """Runs on the driver: events of rank 0."""
        if isinstance(event, Report):
            return self.judge(event)
        if isinstance(event, Metrics):
            self._log_row(event)
        elif isinstance(event, Progress):
            self._display.progress(event)
        elif isinstance(event, Pace):
            self._display.pace(event, len(self.incidents))
        elif isinstance(event, Text):
            self._display.text(event.text)
        elif isinstance(event, Incident):
            self.incidents.append(event)
            log.warning(
                "%s Training went on from step %d after %.1f s (incident %d of this Trainer).",
                event.what, event.step, event.seconds, len(self.incidents),
            )  # fmt: skip
        elif isinstance(event, LoggerCall):
            target: Any = self._loggers[event.index]
            for name in event.path:
                target = getattr(target, name)
            target(*event.args, **event.kwargs)
        return None

    def _log_row(self, row: Metrics) -> None:
        # A file written after every row costs more than the row itself. finalize() writes what is left.
        saves_files = time.monotonic() >= self._next_save
        if saves_files:
            self._next_save = time.monotonic() + SECONDS_BETWEEN_SAVES
        for logger in self._loggers:
            logger.log_metrics(metrics=row.metrics, step=row.step)
            if saves_files or not isinstance(logger, LocalLogger):
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
    def strategy(self) -> Strategy:
        """How the workers act together; for workers of Ray, one of the kind that each of them makes."""
        return self._strategy

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
        return os.path.abspath(os.path.expanduser(root)) if storage.is_local(root) else storage.join(root)

    @property
    def lightning_module(self) -> Any:
        return self._model if self._model is not None else self._strategy.lightning_module

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
            checkpointing.save_weights(self._strategy, self._model, self._datamodule, self.state, filepath)
        else:
            raise MisconfigurationException(
                "The optimizers of a run on Ray stay in its workers: give weights_only=True, or save during the run, "
                "with ModelCheckpoint or with trainer.save_checkpoint in a hook."
            )


_resumable_fits = itertools.count()
"""Numbers of this process's ``fit(ckpt_path="auto")``."""


def _over(environment: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Flags of the environment, and those of the call in the place of what they replace."""
    if flags.get("num_workers") is not None:  # another way to say how many
        environment = {name: value for name, value in environment.items() if name != "devices"}
    return {**environment, **flags}


def _go_on(report: Report) -> bool:
    return True


def _logger_info(logger: Any) -> LoggerInfo:
    attributes: dict[str, Any] = dict.fromkeys(("name", "version", "save_dir", "log_dir", "root_dir"))
    for name in dir(logger):
        if name.startswith("_") or name == "experiment":
            continue
        with contextlib.suppress(Exception):  # a property of the user's that cannot be read now
            value = getattr(logger, name)
            if value is None or isinstance(value, str | int | float | bool):
                attributes[name] = value
    kind = next((base for base in type(logger).__mro__ if base.__module__.startswith("raylight.")), object)
    return LoggerInfo(attributes, kind, class_name=type(logger).__name__)


def _flags() -> dict[str, inspect.Parameter]:
    """``Trainer``'s arguments by name, for help(), editors and LightningCLI: flags are the fields of TrainerConfig."""
    defaults: dict[str, Any] = {"logger": None, "callbacks": None}
    hints: dict[str, Any] = {
        "logger": Logger | Iterable[Logger] | bool | None,
        "callbacks": list[Callback] | Callback | None,
        **get_type_hints(TrainerConfig),
        "strategy": str | Strategy,
    }
    for field in dataclasses.fields(TrainerConfig):
        if not field.metadata.get("old"):
            defaults[field.name] = "auto" if field.default is dataclasses.MISSING else field.default
    keyword = inspect.Parameter.KEYWORD_ONLY
    return {name: inspect.Parameter(name, keyword, default=defaults[name], annotation=hints[name]) for name in defaults}


_FLAGS = _flags()
_SELF = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
Trainer.__init__.__signature__ = inspect.Signature([_SELF, *_FLAGS.values()])  # type: ignore[attr-defined]
