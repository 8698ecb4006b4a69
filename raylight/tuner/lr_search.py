"""Several learning rates tried side by side, as trials of Ray Tune with successive halving."""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler

from raylight.callbacks.base import Callback
from raylight.callbacks.lr_finder import UNLIMITED
from raylight.config.messages import DataSource, Report
from raylight.tuner.study import Study, TrialResources, failure_in, quiet_flags
from raylight.utilities import plotting
from raylight.utilities.exceptions import MisconfigurationException, TunerExit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from raylight.core.module import LightningModule
    from raylight.tuner.trial import TrialCall
    from raylight.worker.trainer_view import TrainerView

SMOOTHING = 0.9
"""Of the training loss: an exponential mean over about ten steps, with its bias corrected."""


@dataclass
class LRSearch:
    """What the trials of ``Tuner.lr_search`` have found, in the order of their rates."""

    rates: list[float]
    curves: list[list[tuple[int, float]]]
    """Of each rate: optimizer steps, and the smoothed training loss after so many."""

    @property
    def results(self) -> dict[str, list[float]]:
        """ "lr" of each trial, the number of its "steps", and its last smoothed "loss"; inf where it diverged."""
        return {
            "lr": list(self.rates),
            "steps": [float(curve[-1][0]) if curve else 0.0 for curve in self.curves],
            "loss": [curve[-1][1] if curve else math.inf for curve in self.curves],
        }

    def suggestion(self) -> float:
        """The rate with the smallest loss among those that were trained the longest.

        Raises:
            MisconfigurationException: All have diverged.
        """
        results = self.results
        finite = [index for index, loss in enumerate(results["loss"]) if math.isfinite(loss)]
        if not finite:
            raise MisconfigurationException("The loss was finite with none of the rates: try smaller ones.")
        best = min(finite, key=lambda index: (-results["steps"][index], results["loss"][index]))
        return self.rates[best]

    def plot(self, suggest: bool = False, show: bool = False, ax: Axes | None = None) -> Any:
        """The last loss of each rate, as a matplotlib figure; rates that were given up early are hollow.

        Args:
            suggest: Mark the suggestion.
            show: Open a window.
            ax: Axes to draw into; None makes a figure.
        """
        figure, axes = plotting.figure_and_axes(ax)
        results = self.results
        longest = max(results["steps"], default=0.0)
        for rate, steps, loss in zip(results["lr"], results["steps"], results["loss"], strict=True):
            axes.plot(rate, loss, marker="o", color="C0", fillstyle="full" if steps == longest else "none")
        axes.set_xscale("log")
        axes.set_xlabel("Learning rate")
        axes.set_ylabel("Loss")
        if suggest:
            best = self.suggestion()
            axes.plot(best, results["loss"][self.rates.index(best)], markersize=10, marker="o", color="red")
        if show:
            plotting.show()
        return figure


@dataclass
class RateWork:
    """Trains with one learning rate, from the model as it is. Runs in the trial's own process."""

    trainer_class: type
    flags: dict[str, Any]
    model: LightningModule
    data: DataSource
    rungs: list[int]

    def __call__(self, call: TrialCall) -> None:
        trainer: Any = self.trainer_class(**{**self.flags, "callbacks": [RateProbe(call.params["lr"], self.rungs)]})
        trainer.judge = call.gate.judge
        trainer.fit(self.model, self.data.train, self.data.val, datamodule=self.data.datamodule)


class RateProbe(Callback):
    """Holds the learning rate, and reports the smoothed training loss at each rung.

    Args:
        rate: The learning rate of all parameters.
        rungs: Optimizer steps after which to report; training ends after the last.
    """

    def __init__(self, rate: float, rungs: list[int]) -> None:
        self._rate = rate
        self._rungs = rungs
        self._mean = 0.0
        self._steps = 0

    def on_train_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        trainer.lr_scheduler_configs.clear()  # the rate is set here
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._rate

    def on_train_batch_end(
        self, trainer: TrainerView, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.state.is_accumulating:
            return
        loss = outputs["loss"] if isinstance(outputs, dict) and "loss" in outputs else None
        if not isinstance(loss, torch.Tensor):
            raise MisconfigurationException("A search for a learning rate needs the loss that training_step returns.")
        self._steps += 1
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * float(trainer.strategy.reduce(loss.clone()))
        if self._steps in self._rungs or not math.isfinite(self._mean):
            self._report(trainer)

    def _report(self, trainer: TrainerView) -> None:
        smoothed = self._mean / (1 - SMOOTHING**self._steps)
        loss = smoothed if math.isfinite(smoothed) else math.inf
        if not trainer.report(Report({"step": self._steps, "loss": loss})) or math.isinf(loss):
            raise TunerExit


def rungs_of(num_training: int, reduction_factor: float) -> list[int]:
    """After how many steps trials are compared: ``num_training`` and its parts, in rising order."""
    rungs, steps = [num_training], num_training / reduction_factor
    while steps >= 1 and len(rungs) < 4:
        rungs.append(math.ceil(steps))
        steps /= reduction_factor
    return sorted(set(rungs))


def _from_the_middle(rates: list[float]) -> list[float]:
    """An order in which good rates come early, so that halving has something to hold the others against."""
    middle = (len(rates) - 1) / 2
    return [rates[index] for index in sorted(range(len(rates)), key=lambda index: abs(index - middle))]


class _Listener(tune.Callback):
    """Keeps what the trials report."""

    def __init__(self) -> None:
        self.curves: dict[float, list[tuple[int, float]]] = {}
        self.failures: list[BaseException] = []

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        if (failure := failure_in(result)) is not None:
            self.failures.append(failure)
        else:
            self.curves.setdefault(trial.config["lr"], []).append((int(result["step"]), float(result["loss"])))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.curves.setdefault(trial.config["lr"], []).append((0, math.inf))


def search_rates(
    trainer: Any,
    model: LightningModule,
    data: DataSource,
    resources: TrialResources,
    rates: list[float],
    num_training: int,
    reduction_factor: float,
) -> LRSearch:
    """Runs on the driver: try all rates; nothing of the user's objects changes.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        Whatever the user's code raises.
    """
    rungs = rungs_of(num_training, reduction_factor)
    flags = {**quiet_flags(trainer.config, resources), **UNLIMITED, "max_steps": num_training}
    listener = _Listener()
    folder = tempfile.mkdtemp(prefix="raylight-lr-search-")
    try:
        study = Study(
            work=RateWork(type(trainer), flags, model, data, rungs),
            space={"lr": tune.grid_search(_from_the_middle(rates))},
            num_samples=1,
            resources=resources,
            storage=folder,
            name="search",
            scheduler=AsyncHyperBandScheduler("step", "loss", "min", num_training, rungs[0], reduction_factor),
            callbacks=[listener],
            resource_timeout=trainer.config.resource_timeout,
        )
        study.prepare()
        interrupted = study.run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if listener.failures:
        raise listener.failures[0]
    if interrupted:
        raise KeyboardInterrupt("The search for a learning rate was stopped by the user.")
    return LRSearch(rates, [listener.curves.get(rate, []) for rate in rates])
