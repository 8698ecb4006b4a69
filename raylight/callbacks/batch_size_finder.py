"""BatchSizeFinder: the largest batch that fits into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylight.callbacks.base import Callback
from raylight.config.messages import TrainerFn
from raylight.utilities.exceptions import MisconfigurationException, TunerExit
from raylight.utilities.memory import garbage_collection_cuda, is_oom_error
from raylight.utilities.parsing import lightning_hasattr, lightning_setattr
from raylight.utilities.rank_zero import rank_zero_info, rank_zero_warn

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.state import TrainerView

MODES = ("power", "binsearch")
PREFIXES: dict[TrainerFn | None, str] = {
    TrainerFn.VALIDATING: "val",
    TrainerFn.TESTING: "test",
    TrainerFn.PREDICTING: "predict",
}


class BatchSizeFinder(Callback):
    """Find the largest batch size that fits into memory before a call begins, and go on with it.

    No size is returned that is larger than what was run. With several workers all try the same size, and it fits where
    it fits on all. Loaders that were handed to ``fit`` are tried with other sizes too, but keep their own.

    Args:
        mode: "power": double the size until it does not fit; "binsearch": then search between the last two.
        steps_per_trial: Batches to try of each size.
        init_val: First size.
        max_trials: Sizes to try at most.
        batch_arg_name: Attribute of the model, its hparams or its datamodule that holds the size.
        margin: With "binsearch": share of the size found that is left free.
        max_val: Largest size to try.

    Raises:
        MisconfigurationException: No attribute holds the size, or several loaders are evaluated.
    """

    SUPPORTED_MODES = MODES

    def __init__(
        self,
        mode: str = "power",
        steps_per_trial: int = 3,
        init_val: int = 2,
        max_trials: int = 25,
        batch_arg_name: str = "batch_size",
        margin: float = 0.05,
        max_val: int = 8192,
    ) -> None:
        mode = mode.lower()
        if mode not in self.SUPPORTED_MODES:
            raise ValueError(f"`mode` should be either of {self.SUPPORTED_MODES}")
        assert 0.0 <= margin < 1.0, f"`margin` should be between 0 and 1. Found margin={margin}"
        self.optimal_batch_size: int | None = init_val
        """What the last search found."""
        self._mode = mode
        self._steps_per_trial = steps_per_trial
        self._init_val = init_val
        self._max_trials = max_trials
        self._batch_arg_name = batch_arg_name
        self._margin = margin
        self._max_val = max_val
        self._early_exit = False

    def setup(self, trainer: TrainerView, pl_module: LightningModule, stage: str | None = None) -> None:
        name = self._batch_arg_name
        if not trainer.loaders_were_given and not lightning_hasattr(pl_module, name):
            raise MisconfigurationException(
                f"Field {name} not found in `model`, `datamodule`, nor their `hparams` attributes."
            )
        if name in vars(pl_module) and name in getattr(pl_module, "hparams", ()):
            rank_zero_warn(
                f"Field `model.{name}` and `model.hparams.{name}` are mutually exclusive! `model.{name}` will be used "
                "as the initial batch size for scaling. If this is not the intended behavior, please remove either one."
            )

    def on_fit_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self.scale_batch_size(trainer, pl_module)

    def on_validation_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.scale_batch_size(trainer, pl_module)

    def on_test_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self.scale_batch_size(trainer, pl_module)

    def on_predict_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self.scale_batch_size(trainer, pl_module)

    def scale_batch_size(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """Collective: search now; the result is in ``optimal_batch_size``."""
        if trainer.fast_dev_run:
            rank_zero_warn("Skipping batch size scaler since `fast_dev_run` is enabled.")
            self.optimal_batch_size = None
        else:
            self.optimal_batch_size = self._search(trainer, pl_module)
            rank_zero_info(
                f"Finished batch size finder, will continue with full run using batch size {self.optimal_batch_size}"
            )
        if self._early_exit:
            raise TunerExit

    def _search(self, trainer: TrainerView, pl_module: LightningModule) -> int:
        trial = _Trial(trainer, pl_module, self._batch_arg_name, self._steps_per_trial)
        search = _Sizes(self._init_val, self._max_val, bisects=self._mode == "binsearch")
        for _ in range(self._max_trials):
            fits, most = trial.fits(search.size)
            search.take(fits, most)
            if search.done:
                break
        size = search.result(self._margin)
        trial.set_size(size)
        trainer.reload_dataloaders()
        return size


class _Sizes:
    """Which size to try next: doubling, then halving the distance between what fits and what does not.

    Args:
        first: First size.
        most: Largest to try.
        bisects: Search between the last size that fitted and the first that did not.
    """

    def __init__(self, first: int, most: int, bisects: bool) -> None:
        self.size = min(first, most)
        self.done = False
        self._most = most
        self._bisects = bisects
        self._fitted = 0
        self._failed: int | None = None

    def take(self, fits: bool, samples: float) -> None:
        """The outcome for ``size``; ``samples`` is the size of the data, inf where unknown."""
        tried = self.size
        if fits:
            self._fitted = max(self._fitted, tried)
        else:
            self._failed = tried if self._failed is None else min(self._failed, tried)
        if self._failed is None:
            self.done = tried >= samples or tried >= self._most
            self.size = min(tried * 2, self._most)
        elif not self._fitted:
            self.done = tried == 1
            self.size = max(tried // 2, 1)
        else:
            self.done = not self._bisects or self._failed - self._fitted <= 1
            self.size = (self._fitted + self._failed) // 2
        if not self.done:
            verdict = "succeeded" if fits else "failed"
            rank_zero_info(f"Batch size {tried} {verdict}, trying batch size {self.size}")

    def result(self, margin: float) -> int:
        """The largest size that fitted; of a search, less the margin.

        Raises:
            MisconfigurationException: None did.
        """
        if not self._fitted:
            raise MisconfigurationException(
                f"No batch size fits into memory, down to {self._failed}: make the model smaller, or use precision="
                "'bf16-mixed'."
            )
        if self._bisects:
            return max(1, int(self._fitted * (1 - margin)))
        return self._fitted


class _Trial:
    """Tries a size."""

    def __init__(self, trainer: TrainerView, pl_module: LightningModule, name: str, steps: int) -> None:
        self._trainer = trainer
        self._model = pl_module
        self._name = name
        self._steps = steps
        self._given = trainer.loaders_were_given
        self._fn = trainer.state.fn or TrainerFn.FITTING

    def set_size(self, size: int) -> None:
        if lightning_hasattr(self._model, self._name):
            lightning_setattr(self._model, self._name, size)

    def fits(self, size: int) -> tuple[bool, float]:
        """Collective: whether ``size`` fits on all workers; and how many samples the data has."""
        garbage_collection_cuda()
        self.set_size(size)
        watch = _Watch()
        try:
            self._trainer.try_out([watch], self._fn, size if self._given else None, **self._flags())
            fits = True
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and not is_oom_error(error):
                raise
            fits = False
        garbage_collection_cuda()
        return self._trainer.strategy.reduce_boolean_decision(fits), watch.samples

    def _flags(self) -> dict[str, Any]:
        if self._fn != TrainerFn.FITTING:
            return {f"limit_{PREFIXES[self._fn]}_batches": self._steps}
        return {
            "max_steps": self._steps,
            "max_epochs": -1,
            "min_epochs": None,
            "min_steps": None,
            "max_time": None,
            "num_sanity_val_steps": 0,
            "limit_train_batches": 1.0,
            "limit_val_batches": self._steps,
            "val_check_interval": 1.0,
            "check_val_every_n_epoch": 1,
        }


class _Watch(Callback):
    """Notes how many samples the data of a trial has."""

    def __init__(self) -> None:
        self.samples = float("inf")

    def on_train_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._measure(trainer)

    def on_validation_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._measure(trainer)

    on_test_start = on_predict_start = on_train_start

    def _measure(self, trainer: TrainerView) -> None:
        loaders, prefix = trainer.loaders_at_work, PREFIXES.get(trainer.state.fn)
        if prefix is not None and len(loaders) > 1:
            raise MisconfigurationException(f"The Batch size finder cannot be used with multiple {prefix} dataloaders.")
        lengths = [len(loader.dataset) for loader in loaders if hasattr(getattr(loader, "dataset", None), "__len__")]
        if lengths:
            self.samples = min(self.samples, max(lengths) / trainer.world_size)
