"""Tuner: find a batch size or a learning rate before training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylight.callbacks.batch_size_finder import BatchSizeFinder
from raylight.callbacks.lr_finder import LearningRateFinder, LRFinder, rate_attribute
from raylight.config.accelerators import wants_ray
from raylight.config.messages import DataSource
from raylight.core.datamodule import LightningDataModule
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.parsing import lightning_hasattr, lightning_setattr
from raylight.utilities.rank_zero import rank_zero_info

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.tuner.lr_search import LRSearch

METHODS = ("fit", "validate", "test", "predict")


class Tuner:
    """Searches that use a Trainer's flags; the Trainer, the model's weights and random numbers stay as they are.

    Args:
        trainer: A Trainer, on any number of workers.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def scale_batch_size(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        method: str = "fit",
        mode: str = "power",
        steps_per_trial: int = 3,
        init_val: int = 2,
        max_trials: int = 25,
        batch_arg_name: str = "batch_size",
        margin: float = 0.05,
        max_val: int = 8192,
        keep_effective_batch: bool = False,
    ) -> int | None:
        """The largest batch size that fits into memory; it is set wherever ``batch_arg_name`` is an attribute.

        A Trainer that runs on Ray searches in trials of Ray Tune, each in a process of its own (or as many as it has
        workers): a process that is killed for want of memory has not fitted, and the search goes on.

        Args:
            model: What to run.
            train_dataloaders: For "fit"; tried with other batch sizes, and left with their own.
            val_dataloaders: Likewise.
            dataloaders: For the other methods.
            datamodule: In place of loaders.
            method: "fit", "validate", "test" or "predict".
            mode: See ``BatchSizeFinder``, as for the rest.

        Returns:
            None under fast_dev_run.

        Raises:
            ValueError: The method does not exist, or the Trainer has a BatchSizeFinder already.
        """
        self._check(BatchSizeFinder, method, train_dataloaders, val_dataloaders, dataloaders)
        finder = BatchSizeFinder(
            mode, steps_per_trial, init_val, max_trials, batch_arg_name, margin, max_val, keep_effective_batch
        )
        trainer, data = self._trainer, _source(method, train_dataloaders, val_dataloaders, dataloaders, datamodule)
        if wants_ray(trainer.config) and not trainer.fast_dev_run:
            _search_apart(trainer, finder, method, model, data)
            return finder.optimal_batch_size
        with trainer.only_with(finder):
            trainer.attach(model, data)
            effective = finder.effective_batch(trainer, model, data.train)
        self._run(finder, model, method, train_dataloaders, val_dataloaders, dataloaders, datamodule)
        if effective is not None and finder.optimal_batch_size is not None:
            _accumulate(trainer, effective // finder.optimal_batch_size)
        return finder.optimal_batch_size

    def lr_find(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        method: str = "fit",
        min_lr: float = 1e-8,
        max_lr: float = 1,
        num_training: int = 100,
        mode: str = "exponential",
        early_stop_threshold: float | None = 4.0,
        update_attr: bool = True,
        attr_name: str = "",
    ) -> LRFinder | None:
        """A learning-rate range test; its suggestion is set on the model where ``update_attr``.

        Args:
            model: What to train, with one optimizer.
            train_dataloaders: Training data.
            val_dataloaders: Not used.
            dataloaders: Must be None.
            datamodule: In place of loaders.
            method: Must be "fit".
            min_lr: See ``LearningRateFinder``, as for the rest.

        Returns:
            None under fast_dev_run.

        Raises:
            MisconfigurationException: There is not exactly one optimizer.
            ValueError: The Trainer has a LearningRateFinder already.
        """
        if method != "fit":
            raise MisconfigurationException("method='fit' is the only valid configuration to run lr finder.")
        self._check(LearningRateFinder, method, train_dataloaders, val_dataloaders, dataloaders)
        finder = LearningRateFinder(min_lr, max_lr, num_training, mode, early_stop_threshold, update_attr, attr_name)
        self._run(finder, model, method, train_dataloaders, val_dataloaders, dataloaders, datamodule)
        return finder.optimal_lr

    def lr_search(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        min_lr: float = 1e-5,
        max_lr: float = 1.0,
        num_rates: int = 9,
        num_training: int = 100,
        reduction_factor: float = 2.0,
        update_attr: bool = True,
        attr_name: str = "",
    ) -> LRSearch:
        """Learning rates tried side by side on Ray Tune, each from the model as it is, with successive halving.

        Slower than ``lr_find``, and more to be trusted: every rate is trained by itself, for as long as it is among
        the better ones. What is compared is the smoothed training loss; schedulers stand still.

        Args:
            model: What to train; it is left as it is.
            train_dataloaders: Training data.
            val_dataloaders: Not used.
            datamodule: In place of loaders.
            min_lr: Smallest rate.
            max_lr: Largest rate.
            num_rates: Rates, each a multiple of the one before.
            num_training: Optimizer steps of the best ones.
            reduction_factor: Of so many rates one goes on to a run so many times as long.
            update_attr: Set the suggestion on the model.
            attr_name: Attribute that holds the rate; "": "lr" or "learning_rate".

        Raises:
            MisconfigurationException: launcher="local", where nothing can run side by side; or bad bounds.
            AttributeError: No attribute holds the rate.
        """
        from raylight.engine.portable import verify_portable
        from raylight.tuner.lr_search import search_rates
        from raylight.tuner.study import trial_resources

        trainer, data = self._trainer, DataSource(train_dataloaders, val_dataloaders, datamodule=datamodule)
        if trainer.config.launcher == "local":
            raise MisconfigurationException("lr_search runs on Ray: use launcher='ray' or 'auto', or lr_find.")
        if not 0 < min_lr < max_lr or num_rates < 2 or num_training < 1 or reduction_factor <= 1:
            raise MisconfigurationException(
                f"Give 0 < min_lr < max_lr, num_rates >= 2, num_training >= 1 and reduction_factor > 1; got {min_lr}, "
                f"{max_lr}, {num_rates}, {num_training} and {reduction_factor}."
            )
        trainer.attach(model, data)
        attribute = rate_attribute(model, attr_name) if update_attr else None
        verify_portable(model, data, [])
        step = (max_lr / min_lr) ** (1 / (num_rates - 1))
        rates = [*(min_lr * step**index for index in range(num_rates - 1)), max_lr]
        resources = trial_resources(trainer.config)
        found = search_rates(trainer, model, data, resources, rates, num_training, reduction_factor)
        if attribute is not None:
            lightning_setattr(model, attribute, found.suggestion())
            rank_zero_info(f"Learning rate set to {found.suggestion()}")
        return found

    def _check(self, kind: type, method: str, train: Any, val: Any, dataloaders: Any) -> None:
        if method not in METHODS:
            raise ValueError(f"method {method!r} is invalid. Should be one of {METHODS}.")
        if method == "fit" and dataloaders is not None:
            raise MisconfigurationException(
                f"In tuner with method={method!r}, `dataloaders` argument should be None, please consider setting "
                "`train_dataloaders` and `val_dataloaders` instead."
            )
        if method != "fit" and (train is not None or val is not None):
            raise MisconfigurationException(
                f"In tuner with `method`={method!r}, `train_dataloaders` and `val_dataloaders` arguments should be "
                "None, please consider setting `dataloaders` instead."
            )
        if any(isinstance(callback, kind) for callback in self._trainer.callbacks):
            raise ValueError(
                f"Trainer is already configured with a `{kind.__name__}` callback. Please remove it if you want to use "
                "the Tuner."
            )

    def _run(
        self, finder: Any, model: LightningModule, method: str, train: Any, val: Any, dataloaders: Any, datamodule: Any
    ) -> None:
        finder._early_exit = True
        with self._trainer.only_with(finder):
            if method == "fit":
                self._trainer.fit(model, train, val, datamodule)
            else:
                getattr(self._trainer, method)(model, dataloaders, datamodule=datamodule)


def _source(method: str, train: Any, val: Any, dataloaders: Any, datamodule: Any) -> DataSource:
    """The data of a call."""
    if method == "fit":
        return DataSource(train=train, val=val, datamodule=datamodule)
    return DataSource(**{"val" if method == "validate" else method: dataloaders}, datamodule=datamodule)


def _accumulate(trainer: Any, batches: int) -> None:
    """From the next run on, be it one that is about to begin."""
    trainer.accumulate_grad_batches = batches
    trainer.change_flags(accumulate_grad_batches=batches)


def search_beforehand(trainer: Any, method: str, model: LightningModule, data: DataSource) -> None:
    """Runs on the driver, before a call that goes to Ray: what its BatchSizeFinder would do at its beginning.

    In trials of their own it can be seen that a size has killed its process; in the call's own workers it cannot. A
    call that is itself part of a trial has no resources for others.
    """
    from raylight.engine import cluster

    for finder in [each for each in trainer.callbacks if isinstance(each, BatchSizeFinder)]:
        apart = wants_ray(trainer.config) and finder.searches_first and not trainer.fast_dev_run
        finder.is_settled = apart and not cluster.inside_trial()
        if finder.is_settled:
            _search_apart(trainer, finder, str(method), model, data)


def _search_apart(trainer: Any, finder: BatchSizeFinder, method: str, model: LightningModule, data: DataSource) -> None:
    """Search in trials of Ray Tune, and set what is found."""
    from raylight.engine.portable import verify_portable
    from raylight.tuner.batch_size import SizeWork, search_on_tune
    from raylight.tuner.study import quiet_flags, trial_resources

    with trainer.only_with(finder):
        trainer.attach(model, data)
    given = (data.train,) if method == "fit" else (data.val, data.test, data.predict)
    finder.verify(model, any(loaders is not None for loaders in given))
    verify_portable(model, data, [])
    resources = trial_resources(trainer.config)
    flags = quiet_flags(trainer.config, resources)
    name, steps = finder.batch_arg_name, finder.steps_per_trial
    work = SizeWork(type(trainer), flags, model, data, method, name, steps)
    size = search_on_tune(trainer, finder, work, resources)
    effective = finder.effective_batch(trainer, model, data.train)
    finder.optimal_batch_size = size
    if lightning_hasattr(model, name):
        lightning_setattr(model, name, size)
    if effective is not None:
        _accumulate(trainer, effective // size)
    rank_zero_info(f"Finished batch size finder, will continue with full run using batch size {size}")


OLD_ORDER = ("datamodule", "scale_batch_size_kwargs", "lr_find_kwargs")
NEW_ORDER = ("dataloaders", "datamodule", "scale_batch_size_kwargs", "lr_find_kwargs", "method")


def tune_arguments(positional: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """What follows the loaders in ``Trainer.tune``, in the order of Lightning 1.3 to 1.7 or that of 1.8 and 1.9.

    Raises:
        TypeError: Too many arguments, one given twice, or an unknown one.
    """
    old = bool(positional) and (
        isinstance(positional[0], LightningDataModule) or any(isinstance(each, dict) for each in positional[1:2])
    )
    order = OLD_ORDER if old else NEW_ORDER
    by_position = dict(zip(order, positional, strict=False))
    wrong = [name for name in named if name not in NEW_ORDER or name in by_position]
    if len(positional) > len(order) or wrong:
        raise TypeError(
            f"tune(model, train_dataloaders, val_dataloaders, ...) takes {', '.join(order)} next; got "
            f"{len(positional)} by position{' and ' if wrong else ''}{', '.join(wrong)}."
        )
    defaults = dict.fromkeys(NEW_ORDER)
    return {**defaults, "method": "fit", **by_position, **named}
