"""Tuner: find a batch size or a learning rate before training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylight.callbacks.batch_size_finder import BatchSizeFinder
from raylight.callbacks.lr_finder import LearningRateFinder, LRFinder
from raylight.core.datamodule import LightningDataModule
from raylight.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from raylight.core.module import LightningModule

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
    ) -> int | None:
        """The largest batch size that fits into memory; it is set wherever ``batch_arg_name`` is an attribute.

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
        finder = BatchSizeFinder(mode, steps_per_trial, init_val, max_trials, batch_arg_name, margin, max_val)
        self._run(finder, model, method, train_dataloaders, val_dataloaders, dataloaders, datamodule)
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
