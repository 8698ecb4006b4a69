"""SweepResult: what a sweep has found."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from raylight.checkpoint import format as checkpoint_format
from raylight.checkpoint.weights import load_weights
from raylight.sweeps import report
from raylight.sweeps.recipe import Recipe, Targets, make
from raylight.sweeps.record import FAILED, SweepRecord, TrialRecord
from raylight.trainer import Trainer
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.secrets import redact

if TYPE_CHECKING:
    import pandas as pd

    from raylight.core.datamodule import LightningDataModule
    from raylight.core.module import LightningModule


class SweepResult:
    """What a sweep has found.

    Args:
        record: The trials.
        recipe: What they were made of.
        targets: What the names of their parameters reach.
        interrupted: Ctrl-C ended the sweep before all trials were over.
    """

    def __init__(self, record: SweepRecord, recipe: Recipe, targets: Targets, interrupted: bool) -> None:
        self._record = record
        self._recipe = recipe
        self._targets = targets
        self.interrupted = interrupted
        """Ctrl-C ended the sweep early; ``raylight.sweep.resume(result.path)`` does the rest."""

    def __repr__(self) -> str:
        best = self._record.best
        found = (
            f"best {self.metric}={self.best_value:.4g} with {redact(self.best_params)[0]}"
            if best is not None
            else "no result"
        )
        return f"SweepResult({len(self.trials)} trials, {found}, path={self.path!r})"

    @property
    def path(self) -> str:
        """The sweep's folder."""
        return self._record.folder

    @property
    def metric(self) -> str:
        """What the trials were compared by."""
        return self._record.metric

    @property
    def trials(self) -> list[TrialRecord]:
        """All of them, in the order of their beginning: parameters, state, reports, checkpoints, error."""
        return list(self._record.trials.values())

    @property
    def failed(self) -> dict[str, str]:
        """Name of each trial that raised an exception, and what that was."""
        return {trial.name: trial.error or "" for trial in self.trials if trial.status == FAILED}

    @property
    def best_trial(self) -> TrialRecord:
        """The trial with the best report.

        Raises:
            MisconfigurationException: No trial has reported anything.
        """
        best = self._record.best
        if best is None:
            raise MisconfigurationException(f"No trial of {self.path} has reported {self.metric!r} yet.")
        return best

    @property
    def best_params(self) -> dict[str, Any]:
        """Parameters of the best report, by their names in the space."""
        assert self.best_trial.best is not None
        return dict(self.best_trial.best.params)

    @property
    def best_value(self) -> float:
        """The metric of the best report."""
        value = self.best_trial.value(self.metric)
        assert value is not None
        return value

    @property
    def best_checkpoint(self) -> str:
        """The file of the best report; Lightning's format."""
        assert self.best_trial.best is not None
        return self._record.path(self.best_trial.best)

    def best_model(self) -> LightningModule:
        """A model with the parameters and the weights of the best report."""
        model: LightningModule = make(self._recipe.model, self._of("model"))
        checkpoint = checkpoint_format.load(self.best_checkpoint)
        model.configure_model()
        load_weights(model, checkpoint, model.strict_loading)
        return model

    def best_datamodule(self) -> LightningDataModule | None:
        """The datamodule with the parameters of the best report; None where the sweep had none."""
        datamodule: LightningDataModule | None = make(self._recipe.datamodule, self._of("data"))
        return datamodule

    def best_trainer(self, **flags: Any) -> Trainer:
        """A Trainer with the flags of the best trial whose ``fit`` continues it from the state of its best report.

        The state is all of a checkpoint: weights, optimizers, schedulers, epoch and step. Where the trial has trained
        for all of its ``max_epochs``, a larger number makes it go on.

        Args:
            **flags: In place of the trial's, or beside them: ``max_epochs``, ``devices``, ``num_workers``, ...

        Example::

            trainer = result.best_trainer(max_epochs=50, devices=4)
            trainer.fit(result.best_model(), datamodule=result.best_datamodule())
        """
        trainer = Trainer(**{**copy.deepcopy(self._recipe.trainer), **self._of("trainer"), **flags})
        trainer.ckpt_path = self.best_checkpoint
        return trainer

    def _of(self, owner: str) -> dict[str, Any]:
        reached = {name: self._targets[name] for name in self.best_params}
        return {reached[name][1]: value for name, value in self.best_params.items() if reached[name][0] == owner}

    def dataframe(self) -> pd.DataFrame:
        """A row per trial: name, state, parameters, the metrics of its best report, checkpoints, error."""
        import pandas as pd

        rows = []
        for trial in self.trials:
            metrics = trial.reports[trial.best.report] if trial.best is not None else {}
            paths = {
                f"{kind}_checkpoint": self._record.path(point) if point is not None else None
                for kind, point in (("best", trial.best), ("last", trial.last))
            }
            named = {"trial": trial.name, "state": trial.status}
            rows.append({**named, **redact(trial.params)[0], **metrics, **paths, "error": trial.error})
        return pd.DataFrame(rows)

    def plot(self) -> Any:
        """The metric of all trials over their steps, and parallel coordinates of their parameters; brighter is better.

        Returns:
            A matplotlib figure: ``result.plot().savefig("sweep.png")``.

        Raises:
            MisconfigurationException: matplotlib is not installed.
        """
        return report.plot(self._record)

    def print_table(self) -> None:
        """Print all trials, the best first."""
        report.console().print(report.table(self._record))
