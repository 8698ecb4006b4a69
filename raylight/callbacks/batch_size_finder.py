"""BatchSizeFinder: the largest batch that fits into memory."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch

from raylight.callbacks.base import Callback
from raylight.callbacks.batch_sizes import MODES, Sizes
from raylight.config.messages import TrainerFn
from raylight.utilities.exceptions import MisconfigurationException, TunerExit
from raylight.utilities.memory import garbage_collection_cuda, is_oom_error
from raylight.utilities.parsing import lightning_getattr, lightning_hasattr, lightning_setattr
from raylight.utilities.rank_zero import rank_zero_info, rank_zero_warn

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView

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
        mode: "power": double the size until it does not fit; "binsearch": then search between the last two;
            "throughput": of the sizes of "power", the one with the most samples per second.
        steps_per_trial: Batches to try of each size; with "throughput" the first is not timed, and 10 are better.
        init_val: First size.
        max_trials: Sizes to try at most.
        batch_arg_name: Attribute of the model, its hparams or its datamodule that holds the size.
        margin: With "binsearch": share of the size found that is left free.
        max_val: Largest size to try.
        keep_effective_batch: Return only sizes that ``accumulate_grad_batches`` can make up for, and set that, so that
            as many samples as before lie between two optimizer steps.

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
        keep_effective_batch: bool = False,
    ) -> None:
        mode = mode.lower()
        if mode not in self.SUPPORTED_MODES:
            raise ValueError(f"`mode` should be either of {self.SUPPORTED_MODES}")
        assert 0.0 <= margin < 1.0, f"`margin` should be between 0 and 1. Found margin={margin}"
        self.optimal_batch_size: int | None = init_val
        """What the last search found."""
        self._mode = mode
        self.steps_per_trial = steps_per_trial
        self._init_val = init_val
        self.max_trials = max_trials
        self.batch_arg_name = batch_arg_name
        self._margin = margin
        self._max_val = max_val
        self.keep_effective_batch = keep_effective_batch
        self.is_settled = False
        """The driver has searched before the call: nothing is left to do in it."""
        self._early_exit = False

    def setup(self, trainer: TrainerView, pl_module: LightningModule, stage: str | None = None) -> None:
        self.verify(pl_module, trainer.loaders_were_given)

    def verify(self, pl_module: LightningModule, loaders_given: bool) -> None:
        """See that there is a batch size to change.

        Raises:
            MisconfigurationException: No attribute holds it, and no loaders were given.
        """
        name = self.batch_arg_name
        if not loaders_given and not lightning_hasattr(pl_module, name):
            raise MisconfigurationException(
                f"Field {name} not found in `model`, `datamodule`, nor their `hparams` attributes."
            )
        if name in vars(pl_module) and name in getattr(pl_module, "hparams", ()):
            rank_zero_warn(
                f"Field `model.{name}` and `model.hparams.{name}` are mutually exclusive! `model.{name}` will be used "
                "as the initial batch size for scaling. If this is not the intended behavior, please remove either one."
            )

    def on_fit_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if not trainer.going_on:  # else it has been found before
            self.scale_batch_size(trainer, pl_module)

    def on_validation_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.scale_batch_size(trainer, pl_module)

    def on_test_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self.scale_batch_size(trainer, pl_module)

    def on_predict_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self.scale_batch_size(trainer, pl_module)

    @property
    def searches_first(self) -> bool:
        """Whether the search is the first thing that a call does, as it is unless a subclass has other plans."""
        own = (BatchSizeFinder.on_fit_start, BatchSizeFinder.scale_batch_size)
        return (type(self).on_fit_start, type(self).scale_batch_size) == own

    def scale_batch_size(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """Collective: search now; the result is in ``optimal_batch_size``."""
        if self.is_settled:
            return
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
        run = trainer.run
        assert run is not None
        effective = self.effective_batch(trainer, pl_module, run.source.train)
        trial = SizeTrial(trainer, pl_module, self.batch_arg_name, self.steps_per_trial)
        sizes = self.sizes(effective)
        while sizes.size is not None:
            fits = trial.fits(sizes.size)
            sizes.take(fits, trial.samples, trial.rate)
        trial.set_size(sizes.result)
        if effective is not None:
            trainer.accumulate_grad_batches = effective // sizes.result
        trainer.reload_dataloaders()
        return sizes.result

    def sizes(self, effective: int | None) -> Sizes:
        """The search that this callback asks for; ``effective`` is the batch that is to be kept."""
        return Sizes(self._mode, self._init_val, self._max_val, self._margin, self.max_trials, effective)

    def effective_batch(self, trainer: TrainerView, model: LightningModule, loaders: Any) -> int | None:
        """Samples of one worker between two optimizer steps, where that number is to be kept.

        Args:
            trainer: Says over how many batches gradients are added up.
            model: Holds the batch size, or its datamodule does.
            loaders: For training, of the call; their batch size comes first.

        Raises:
            MisconfigurationException: There is no one number.
        """
        if not self.keep_effective_batch:
            return None
        batches = trainer.config.accumulate_grad_batches
        size = getattr(loaders, "batch_size", None)
        if size is None and lightning_hasattr(model, self.batch_arg_name):
            size = lightning_getattr(model, self.batch_arg_name)
        if not isinstance(batches, int) or not isinstance(size, int):
            raise MisconfigurationException(
                "keep_effective_batch=True needs one batch size and one accumulate_grad_batches to begin with, but "
                f"found {size!r} and {batches!r}."
            )
        return size * batches


class SizeTrial:
    """Tries sizes within a hook of a run, and puts everything back.

    Args:
        trainer: Of the run.
        pl_module: Its model.
        name: Attribute that holds the size.
        steps: Batches to try.
    """

    def __init__(self, trainer: TrainerView, pl_module: LightningModule, name: str, steps: int) -> None:
        self._trainer = trainer
        self._model = pl_module
        self._name = name
        self._steps = steps
        self._given = trainer.loaders_were_given
        self._fn = trainer.state.fn or TrainerFn.FITTING
        self.samples = math.inf
        """Of the data, on one worker; inf where unknown."""
        self.rate = math.nan
        """Samples per second of all workers, in the last trial; the same on all of them."""

    def set_size(self, size: int) -> None:
        if lightning_hasattr(self._model, self._name):
            lightning_setattr(self._model, self._name, size)

    def fits(self, size: int) -> bool:
        """Collective: whether ``size`` fits on all workers. An error that tells of full memory is caught."""
        try:
            self.run(size)
            fits = True
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and not is_oom_error(error):
                raise
            fits = False
        garbage_collection_cuda()
        return bool(self._trainer.strategy.reduce_boolean_decision(fits))

    def run(self, size: int) -> None:
        """Collective: run ``size``, and note what there is to know of it.

        Raises:
            Whatever the run raises: what tells of full memory, too.
        """
        garbage_collection_cuda()
        self.set_size(size)
        watch = _Watch(self._trainer.strategy.device)
        self._trainer.try_out([watch], self._fn, size if self._given else None, **self._flags())
        self.samples = watch.samples
        self.rate = self._trainer.strategy.broadcast(watch.rate(size * self._trainer.world_size))

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
    """Notes how many samples the data of a trial has, and how long its batches take, the first excepted."""

    def __init__(self, device: torch.device) -> None:
        self.samples = math.inf
        self._device = device
        self._batches = 0
        self._times: tuple[float, float, float] = (0.0, 0.0, 0.0)
        """Of the start, the end of the first batch, and that of the last one."""

    def rate(self, samples: int) -> float:
        """Samples per second, for so many in one batch."""
        start, first, last = self._times
        timed = (self._batches - 1, last - first) if self._batches > 1 else (self._batches, last - start)
        return samples * timed[0] / timed[1] if timed[1] > 0 else math.nan

    def on_train_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._measure(trainer)

    def on_validation_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._measure(trainer)

    on_test_start = on_predict_start = on_train_start

    def on_train_batch_end(self, *args: Any) -> None:
        self._tick()

    def on_validation_batch_end(self, trainer: TrainerView, *args: Any) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._tick()

    def on_test_batch_end(self, *args: Any) -> None:
        self._tick()

    def on_predict_batch_end(self, *args: Any) -> None:
        self._tick()

    def _measure(self, trainer: TrainerView) -> None:
        loaders, prefix = trainer.loaders_at_work, PREFIXES.get(trainer.state.fn)
        if prefix is not None and len(loaders) > 1:
            raise MisconfigurationException(f"The Batch size finder cannot be used with multiple {prefix} dataloaders.")
        lengths = [len(loader.dataset) for loader in loaders if hasattr(getattr(loader, "dataset", None), "__len__")]
        if lengths:
            self.samples = min(self.samples, max(lengths) / trainer.world_size)
        now = self._now()
        self._times = (now, now, now)

    def _tick(self) -> None:
        self._batches += 1
        now = self._now()
        start, first, _ = self._times
        self._times = (start, now if self._batches == 1 else first, now)

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
