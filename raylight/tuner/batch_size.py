"""The search for a batch size as trials of Ray Tune: each in a process of its own, whose death is an answer too."""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from raylight.callbacks.base import Callback
from raylight.callbacks.batch_size_finder import BatchSizeFinder, SizeTrial
from raylight.callbacks.batch_sizes import Sizes
from raylight.config.messages import DataSource, Report
from raylight.tuner.study import Study, TrialResources, failure_in
from raylight.utilities.exceptions import TunerExit, WorkerError
from raylight.utilities.memory import is_oom_error

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.tuner.trial import TrialCall
    from raylight.worker.trainer_view import TrainerView

SIZE, FITS, SAMPLES, RATE = "batch_size", "fits", "samples", "samples_per_second"
MORE_TRIALS = 64
"""Beside ``max_trials``, for sizes that a margin or an effective batch asks for."""


@dataclass
class SizeWork:
    """Runs a few batches of one size and reports whether they fitted. Runs in the trial's own process."""

    trainer_class: type
    flags: dict[str, Any]
    model: LightningModule
    data: DataSource
    method: str
    name: str
    """Attribute that holds the size."""
    steps: int

    def __call__(self, call: TrialCall) -> None:
        probe = SizeProbe(call.params[SIZE], self.name, self.steps)
        # Whatever ends a process is an answer, nothing to recover from.
        trainer = self.trainer_class(**{**self.flags, "max_failures": 0, "callbacks": [probe]})
        trainer.judge = call.gate.judge
        try:
            self._run(trainer)
        except (RuntimeError, MemoryError, WorkerError) as error:
            if not isinstance(error, MemoryError | WorkerError) and not is_oom_error(error):
                raise
            call.gate.judge(Report({FITS: 0.0, SAMPLES: math.inf, RATE: math.nan}))

    def _run(self, trainer: Any) -> None:
        data = self.data
        if self.method == "fit":
            trainer.fit(self.model, data.train, data.val, datamodule=data.datamodule)
        else:
            loaders = {"validate": data.val, "test": data.test, "predict": data.predict}[self.method]
            getattr(trainer, self.method)(self.model, loaders, datamodule=data.datamodule)


class SizeProbe(Callback):
    """Tries one size when a call begins, reports, and ends the call. Memory that runs out is left to whoever called.

    Args:
        size: To try.
        name: Attribute that holds it.
        steps: Batches to try.
    """

    def __init__(self, size: int, name: str, steps: int) -> None:
        self._size = size
        self._name = name
        self._steps = steps

    def on_fit_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        trial = SizeTrial(trainer, pl_module, self._name, self._steps)
        trial.run(self._size)
        trainer.report(Report({FITS: 1.0, SAMPLES: trial.samples, RATE: trial.rate}))
        raise TunerExit

    on_validation_start = on_test_start = on_predict_start = on_fit_start


class SizeSearcher(Searcher):
    """Lets Ray Tune try one size after another. A trial that is gone without a word, as when it is killed for want of
    memory, has not fitted.

    Args:
        sizes: The search.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(metric=FITS, mode="max")
        self.sizes = sizes
        self._at_work: str | None = None
        self.failure: BaseException | None = None
        """An exception of the user's, which says nothing of memory."""
        self.tried: dict[int, bool] = {}
        """Each size that was run, and whether it fitted."""

    def suggest(self, trial_id: str) -> Any:
        if self._at_work is not None:
            return None
        if self.failure is not None or self.sizes.size is None:
            return Searcher.FINISHED
        self._at_work = trial_id
        return {SIZE: self.sizes.size}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._at_work = None
        found = result or {}
        self.failure = failure_in(found)
        if self.failure is None and self.sizes.size is not None:
            fits = not error and bool(found.get(FITS))
            self.tried[self.sizes.size] = fits
            self.sizes.take(fits, found.get(SAMPLES, math.inf), found.get(RATE, math.nan))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a search that was interrupted begins anew."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was saved."""


def search_on_tune(trainer: Any, finder: BatchSizeFinder, work: SizeWork, resources: TrialResources) -> int:
    """Runs on the driver: search as ``finder`` says; nothing of the user's objects changes.

    Raises:
        MisconfigurationException: No size fits.
        KeyboardInterrupt: Ctrl-C.
        Whatever the user's code raises, unless it is for want of memory.
    """
    effective = finder.effective_batch(trainer, work.model, work.data.train)
    searcher = SizeSearcher(finder.sizes(effective))
    folder = tempfile.mkdtemp(prefix="raylight-batch-size-")
    try:
        study = Study(
            work=work,
            searcher=searcher,
            num_samples=finder.max_trials + MORE_TRIALS,
            resources=resources,
            storage=folder,
            name="search",
            max_concurrent=1,
            resource_timeout=trainer.config.resource_timeout,
        )
        study.prepare()
        interrupted = study.run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if searcher.failure is not None:
        raise searcher.failure
    if interrupted:
        raise KeyboardInterrupt("The search for a batch size was stopped by the user.")
    return searcher.sizes.result
