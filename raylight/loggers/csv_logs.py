"""Metrics as a CSV file, hyperparameters as YAML."""

from __future__ import annotations

import csv
import os
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from raylight.loggers.base import LocalLogger, convert_params, rank_zero_experiment, save_hparams_to_yaml, scalar
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_only, rank_zero_warn


class ExperimentWriter:
    """Writes ``metrics.csv`` and ``hparams.yaml`` in ``log_dir``.

    Args:
        goes_on: Add to a ``metrics.csv`` that is already there; else it is deleted.
    """

    NAME_METRICS_FILE = "metrics.csv"
    NAME_HPARAMS_FILE = LocalLogger.NAME_HPARAMS_FILE

    metrics: list[dict[str, Any]]
    """Rows not yet in the file."""
    metrics_keys: list[str]
    """Columns of the file, sorted; "step" is one of them."""
    hparams: dict[str, Any]

    def __init__(self, log_dir: str, goes_on: bool = False) -> None:
        self.metrics = []
        self.metrics_keys = []
        self.hparams = {}
        self.log_dir = log_dir
        self.metrics_file_path = os.path.join(log_dir, self.NAME_METRICS_FILE)
        if goes_on:
            self.metrics_keys = self._columns()
        elif os.path.isdir(log_dir) and os.listdir(log_dir):
            rank_zero_warn(
                f"Experiment logs directory {log_dir} exists and is not empty. A {self.NAME_METRICS_FILE} in it is "
                "deleted, for a new run begins: give the logger another version, or none, to keep it."
            )
            if os.path.isfile(self.metrics_file_path):
                os.remove(self.metrics_file_path)
        os.makedirs(log_dir, exist_ok=True)

    def _columns(self) -> list[str]:
        """Of the file; none where there is none."""
        if not os.path.isfile(self.metrics_file_path):
            return []
        with open(self.metrics_file_path, encoding="utf-8", newline="") as file:
            return next(csv.reader(file), [])

    def log_metrics(self, metrics_dict: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row; without ``step`` it is the number of rows since the last ``save``, as in Lightning."""
        row = {name: scalar(value) for name, value in metrics_dict.items()}
        row["step"] = len(self.metrics) if step is None else step
        self.metrics.append(row)

    def log_hparams(self, params: Mapping[str, Any]) -> None:
        """Add to the hyperparameters and write them all."""
        self.hparams.update(params)
        save_hparams_to_yaml(os.path.join(self.log_dir, self.NAME_HPARAMS_FILE), self.hparams)

    def save(self) -> None:
        """Append the new rows to the file; when they bring new columns, the file is written anew, old rows first."""
        if not self.metrics:
            return
        columns = sorted({*self.metrics_keys, *(name for row in self.metrics for name in row)})
        file_exists = os.path.isfile(self.metrics_file_path)
        if file_exists and columns != self.metrics_keys:
            self._rewrite(columns)
        self.metrics_keys = columns
        with open(self.metrics_file_path, "a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=columns)
            if not file_exists:
                writer.writeheader()
            writer.writerows(self.metrics)
        self.metrics = []

    def _rewrite(self, columns: list[str]) -> None:
        """Give the rows of the file more ``columns``; an interruption leaves the old file whole."""
        temporary = f"{self.metrics_file_path}.tmp"
        with (
            open(self.metrics_file_path, encoding="utf-8", newline="") as old,
            open(temporary, "w", encoding="utf-8", newline="") as new,
        ):
            writer = csv.DictWriter(new, fieldnames=columns)
            writer.writeheader()
            writer.writerows(csv.DictReader(old))
        os.replace(temporary, self.metrics_file_path)

    def __getstate__(self) -> dict[str, Any]:
        # The unsaved rows stay with the original; else both would write them.
        return {**self.__dict__, "metrics": []}


class CSVLogger(LocalLogger):
    """Metrics in ``save_dir/name/version_N/metrics.csv``, hyperparameters in ``hparams.yaml`` beside it.

    Args:
        save_dir: A local directory.
        name: Directory below it; None or "" drops this level.
        version: N, or the whole name of the directory when it is a string; None takes the next free number. A
            ``metrics.csv`` that is already there is deleted; a directory that is not empty gives a warning.
        prefix: Stands before every metric's name, with a "-" between them.
        flush_logs_every_n_steps: The file is written when step + 1 is a multiple of this, and at the end.

    Raises:
        MisconfigurationException: ``save_dir`` is a URI, ``flush_logs_every_n_steps`` is less than 1, or ``name`` or
            ``version`` would leave ``save_dir``.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        prefix: str = "",
        flush_logs_every_n_steps: int = 100,
    ) -> None:
        super().__init__(save_dir, name, version, prefix)
        if flush_logs_every_n_steps < 1:
            raise MisconfigurationException(
                f"CSVLogger(flush_logs_every_n_steps={flush_logs_every_n_steps}) must be at least 1."
            )
        self._flush_logs_every_n_steps = flush_logs_every_n_steps
        self._experiment: ExperimentWriter | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer of the files; its first use makes the directory."""
        if self._experiment is None:
            self._experiment = ExperimentWriter(self.log_dir, self._goes_on)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row; without ``step`` it is the number of rows since the last ``save``, as in Lightning."""
        if step is None:
            step = len(self.experiment.metrics)
        self.experiment.log_metrics(self._prefixed(metrics), step)
        if (step + 1) % self._flush_logs_every_n_steps == 0:
            self.save()

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace | None = None) -> None:
        """Add to the hyperparameters and write them to ``hparams.yaml``."""
        self.experiment.log_hparams(convert_params(params))

    @rank_zero_only
    def save(self) -> None:
        """Write the rows that are still in memory."""
        self.experiment.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the rows that are still in memory; a logger never used leaves no directory."""
        if self._experiment is not None:
            self._experiment.save()
