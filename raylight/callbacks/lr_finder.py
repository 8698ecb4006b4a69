"""LearningRateFinder: a learning-rate range test (L. N. Smith, arXiv 1506.01186) before training begins."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from raylight.callbacks.base import Callback
from raylight.utilities import plotting
from raylight.utilities.exceptions import MisconfigurationException, TunerExit
from raylight.utilities.parsing import lightning_hasattr, lightning_setattr
from raylight.utilities.rank_zero import log, rank_zero_info, rank_zero_warn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView

MODES = ("linear", "exponential")
ATTRIBUTES = ("lr", "learning_rate")
SMOOTHING = 0.98


class LRFinder:
    """What a range test found.

    Args:
        mode: "exponential" or "linear".
        lr_min: First learning rate.
        lr_max: Last learning rate.
        num_training: Steps from one to the other.
    """

    def __init__(self, mode: str, lr_min: float, lr_max: float, num_training: int) -> None:
        if mode not in MODES:
            raise ValueError(f"mode={mode!r} should be either of {MODES}")
        self.mode = mode
        self.lr_min = lr_min
        self.lr_max = lr_max
        self.num_training = num_training
        self.results: dict[str, list[float]] = {"lr": [], "loss": []}
        """"lr" of each step, and its "loss", smoothed."""
        self._total_batch_idx = 0
        self._optimal_idx: int | None = None

    def rate(self, step: int) -> float:
        """Learning rate of a 0-based step."""
        share = (step + 1) / self.num_training if step else 0.0
        if self.mode == "linear":
            return self.lr_min + share * (self.lr_max - self.lr_min)
        return float(self.lr_min * (self.lr_max / self.lr_min) ** share)

    def suggestion(self, skip_begin: int = 10, skip_end: int = 1) -> float | None:
        """The learning rate at which the loss falls most steeply.

        Args:
            skip_begin: Steps at the start that are not looked at.
            skip_end: Steps at the end that are not looked at.

        Returns:
            None where fewer than two steps with a finite loss are left.
        """
        self._optimal_idx = None
        rates, losses = self.results["lr"], self.results["loss"]
        end = len(losses) - skip_end
        finite = [index for index in range(skip_begin, end) if math.isfinite(losses[index])]
        if len(finite) < 2:
            log.error(
                "Failed to compute suggestion for learning rate because there are not enough points. Increase the loop "
                "iteration limits or the size of your dataset/dataloader."
            )
            return None
        (slopes,) = torch.gradient(
            torch.tensor([losses[index] for index in finite]),
            spacing=[torch.tensor([rates[index] for index in finite])],
        )
        self._optimal_idx = finite[int(slopes.argmin())]
        return rates[self._optimal_idx]

    def plot(self, suggest: bool = False, show: bool = False, ax: Axes | None = None) -> Any:
        """The loss over the learning rate, as a matplotlib figure.

        Args:
            suggest: Mark the suggestion.
            show: Open a window.
            ax: Axes to draw into; None makes a figure.
        """
        figure, axes = plotting.figure_and_axes(ax)
        axes.plot(self.results["lr"], self.results["loss"])
        if self.mode == "exponential":
            axes.set_xscale("log")
        axes.set_xlabel("Learning rate")
        axes.set_ylabel("Loss")
        if suggest and (rate := self.suggestion()) is not None and self._optimal_idx is not None:
            axes.plot(rate, self.results["loss"][self._optimal_idx], markersize=10, marker="o", color="red")
        if show:
            plotting.show()
        return figure


class LearningRateFinder(Callback):
    """Find a learning rate before training begins, and train with it.

    For other moments, override ``on_fit_start`` to do nothing and call ``lr_find(trainer, pl_module)`` in another hook
    of fit. The model, the optimizer's state, random numbers and loaders are afterwards as they were.

    Args:
        min_lr: First learning rate.
        max_lr: Last learning rate.
        num_training_steps: Steps from one to the other.
        mode: "exponential": each rate a multiple of the one before; "linear": equal distances.
        early_stop_threshold: Stop where the loss is so many times its least value; None never.
        update_attr: Set the suggested rate on the model and its optimizer.
        attr_name: Attribute of the model, its hparams or its datamodule that holds the rate; "": "lr" or
            "learning_rate".

    Raises:
        MisconfigurationException: There is not exactly one optimizer.
        AttributeError: No attribute holds the rate.
    """

    SUPPORTED_MODES = MODES

    def __init__(
        self,
        min_lr: float = 1e-8,
        max_lr: float = 1,
        num_training_steps: int = 100,
        mode: str = "exponential",
        early_stop_threshold: float | None = 4.0,
        update_attr: bool = True,
        attr_name: str = "",
    ) -> None:
        mode = mode.lower()
        if mode not in self.SUPPORTED_MODES:
            raise ValueError(f"`mode` should be either of {self.SUPPORTED_MODES}")
        self._min_lr = min_lr
        self._max_lr = max_lr
        self._num_training_steps = num_training_steps
        self._mode = mode
        self._early_stop_threshold = early_stop_threshold
        self._update_attr = update_attr
        self._attr_name = attr_name
        self._early_exit = False
        self.optimal_lr: LRFinder | None = None
        """What the last test found."""

    def on_fit_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if not trainer.going_on:  # else it has been found before
            self.lr_find(trainer, pl_module)

    def lr_find(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """Collective: run the range test now; the result is in ``optimal_lr``."""
        if trainer.fast_dev_run:
            rank_zero_warn("Skipping learning rate finder since `fast_dev_run` is enabled.")
        else:
            self.optimal_lr = self._tested(trainer, pl_module)
        if self._early_exit:
            raise TunerExit

    def _tested(self, trainer: TrainerView, pl_module: LightningModule) -> LRFinder:
        attribute = rate_attribute(pl_module, self._attr_name) if self._update_attr else None
        if len(trainer.optimizers) != 1:
            raise MisconfigurationException(
                f"`model.configure_optimizers()` returned {len(trainer.optimizers)}, but learning rate finder only "
                "works with single optimizer"
            )
        finder = LRFinder(self._mode, self._min_lr, self._max_lr, self._num_training_steps)
        test = RangeTest(finder, self._early_stop_threshold)
        counters = trainer.try_out([test], max_steps=self._num_training_steps, **UNLIMITED)
        finder._total_batch_idx = counters.total_batches - 1
        if counters.global_step < self._num_training_steps:
            rank_zero_info(f"LR finder stopped early after {counters.global_step} steps due to diverging loss.")
        if attribute is not None and (rate := finder.suggestion()) is not None:
            lightning_setattr(pl_module, attribute, rate)
            for group in trainer.optimizers[0].param_groups:
                group["lr"] = rate
            rank_zero_info(f"Learning rate set to {rate}")
        return finder


UNLIMITED: dict[str, Any] = {
    "max_epochs": -1, "min_epochs": None, "min_steps": None, "max_time": None, "limit_val_batches": 0,
    "num_sanity_val_steps": 0,
}  # fmt: skip
"""Flags of a trial whose length is max_steps."""


class RangeTest(Callback):
    """Sets the learning rate of each step, and notes its loss.

    Args:
        finder: Gives the rates and takes the results.
        threshold: Stop where the smoothed loss is so many times its least value; None never.
    """

    def __init__(self, finder: LRFinder, threshold: float | None) -> None:
        self.finder = finder
        self.threshold = threshold
        self._average = 0.0
        self._best = 0.0

    def on_train_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        trainer.lr_scheduler_configs.clear()  # the rate is set here

    def on_train_batch_start(self, trainer: TrainerView, pl_module: LightningModule, batch: Any, batch_idx: int) -> Any:
        rate = self.finder.rate(len(self.finder.results["loss"]))
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate
        if not trainer.state.is_accumulating:
            self.finder.results["lr"].append(rate)

    def on_train_batch_end(
        self, trainer: TrainerView, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.state.is_accumulating:
            return
        loss = outputs["loss"] if isinstance(outputs, dict) and "loss" in outputs else None
        if loss is None:  # the step was skipped
            self.finder.results["loss"].append(math.nan)
            return
        self._note(trainer, float(trainer.strategy.reduce(loss.clone(), reduce_op="mean")))

    def _note(self, trainer: TrainerView, loss: float) -> None:
        step = trainer.global_step
        self._average = SMOOTHING * self._average + (1 - SMOOTHING) * loss
        smoothed = self._average / (1 - SMOOTHING ** (step + 1))
        if self.threshold is not None and step > 1 and smoothed > self.threshold * self._best:
            trainer.should_stop = True
        if smoothed < self._best or step == 1:
            self._best = smoothed
        self.finder.results["loss"].append(smoothed)


def rate_attribute(model: LightningModule, name: str = "") -> str:
    """The attribute that holds a model's learning rate: ``name``, or the first of "lr" and "learning_rate".

    Raises:
        AttributeError: There is none.
    """
    options = (name,) if name else ATTRIBUTES
    for option in options:
        if lightning_hasattr(model, option):
            return option
    raise AttributeError(
        "When using the learning rate finder, either `model` or `model.hparams` should have one of these fields: "
        f"{options}. If your model has a different name for the learning rate, set it with `.lr_find(attr_name=...)`."
    )
