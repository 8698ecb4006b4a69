"""Metrics, hyperparameters and graphs as TensorBoard event files."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Module

from raylight.checkpoint.names import verify_below
from raylight.core.export import readable_by_torchscript
from raylight.loggers.base import (
    LocalLogger,
    convert_params,
    flatten_params,
    rank_zero_experiment,
    sanitize_params,
    save_hparams_to_yaml,
    scalar,
)
from raylight.utilities.example_input import transferred
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_only, rank_zero_warn

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

WRITER_ARGUMENTS = frozenset({"comment", "purge_step", "max_queue", "flush_secs", "filename_suffix"})
"""What ``TensorBoardLogger`` hands on to ``SummaryWriter``."""

SECONDS_BETWEEN_WRITES = 1.0


class TensorBoardLogger(LocalLogger):
    """Event files and ``hparams.yaml`` in ``save_dir/name/version_N[/sub_dir]``.

    Args:
        save_dir: A local directory.
        name: Directory below it; None or "" drops this level.
        version: N, or the whole name of the directory when it is a string; None takes the next free number.
        log_graph: Record the model's graph, traced with ``model.example_input_array``.
        default_hp_metric: Hyperparameters logged without a metric get ``hp_metric`` = -1, for TensorBoard shows none
            without one. False leaves them out of the event files; ``hparams.yaml`` has them in any case.
        prefix: Stands before every metric's name, with a "-" between them.
        sub_dir: Directory below the version's for the files; None for none.
        **kwargs: ``purge_step``, ``max_queue``, ``flush_secs`` (seconds) or ``filename_suffix``, for ``SummaryWriter``;
            its ``comment`` too, which says nothing where the directory is given.

    Raises:
        MisconfigurationException: ``save_dir`` is a URI, ``SummaryWriter`` has no such argument, or ``name``,
            ``version`` or ``sub_dir`` would leave ``save_dir``.

    A pickled or copied logger opens its own event file, in the same directory, when it is used.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        log_graph: bool = False,
        default_hp_metric: bool = True,
        prefix: str = "",
        sub_dir: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(save_dir, name, version, prefix)
        if unknown := sorted(kwargs.keys() - WRITER_ARGUMENTS):
            raise MisconfigurationException(
                f"TensorBoardLogger has no argument {', '.join(unknown)}. "
                f"Beside its own it takes those of SummaryWriter: {', '.join(sorted(WRITER_ARGUMENTS))}."
            )
        self._log_graph = log_graph
        self._default_hp_metric = default_hp_metric
        self._sub_dir = None if sub_dir is None else verify_below(os.fspath(sub_dir), "TensorBoardLogger(sub_dir=...)")
        self._kwargs = kwargs
        self._experiment: SummaryWriter | None = None
        self._rows: list[tuple[Any, int | None, float]] = []
        """Summaries not yet handed to the writer, each with its step and wall time."""
        self._next_write = 0.0
        self.hparams: dict[str, Any] = {}

    @property
    def sub_dir(self) -> str | None:
        """Directory below the version's, or None."""
        return self._sub_dir

    @property
    def log_dir(self) -> str:
        """The directory of the files, ``sub_dir`` included; it need not exist yet."""
        return super().log_dir if self._sub_dir is None else os.path.join(super().log_dir, self._sub_dir)

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        """The ``SummaryWriter``; its first use makes the directory and an event file."""
        if self._experiment is None:
            from raylight.loggers.summary_writer import Writer

            self._experiment = Writer(log_dir=self.log_dir, **self._kwargs)
        self._write_rows()
        return self._experiment

    def _write_rows(self) -> None:
        rows, self._rows = self._rows, []
        writer = self._experiment._get_file_writer() if self._experiment is not None and rows else None
        for summary, step, wall_time in rows:
            writer.add_summary(summary, step, wall_time)  # type: ignore[union-attr]

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record numbers; a dict of numbers becomes one chart with a line for each.

        Raises:
            ValueError: A value is neither a number, a tensor of one element, nor a dict.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        numbers = []
        for name, value in self._prefixed(metrics).items():
            if isinstance(value, dict):
                self.experiment.add_scalars(name, value, step)
                continue
            try:
                numbers.append(Summary.Value(tag=name, simple_value=float(scalar(value))))
            except (AssertionError, RuntimeError, TypeError, ValueError) as error:
                raise ValueError(
                    f"TensorBoard cannot record {name!r}: {value!r}. Log a number, a tensor of one element, "
                    "or a dict of these."
                ) from error
        if not numbers:
            return
        # Each event that the writer gets wakes its thread, which then takes turns with the training: so a row is one
        # event, and the rows of a second go together.
        self._rows.append((Summary(value=numbers), step, time.time()))
        if time.monotonic() >= self._next_write:
            self._next_write = time.monotonic() + SECONDS_BETWEEN_WRITES
            self.experiment  # noqa: B018  writes the rows

    @rank_zero_only
    def log_hyperparams(
        self, params: Mapping[str, Any] | Namespace | None, metrics: Any = None, step: int | None = None
    ) -> None:
        """Record hyperparameters, for TensorBoard's HParams page and for ``hparams.yaml``.

        Args:
            params: May be nested; the HParams page shows "a/b" keys, ``hparams.yaml`` keeps the nesting.
            metrics: Shown beside them: a dict, or one number, which is called ``hp_metric``. None: see
                ``default_hp_metric``.
            step: Step at which ``metrics`` are recorded.
        """
        params = convert_params(params)
        self.hparams.update(params)
        if metrics is None:
            metrics = {"hp_metric": -1} if self._default_hp_metric else {}
        elif not isinstance(metrics, dict):
            metrics = {"hp_metric": metrics}
        if metrics:
            self.log_metrics(metrics, step)
            self._add_hparams_summary(params, metrics, step)

    def _add_hparams_summary(self, params: dict[str, Any], metrics: dict[str, Any], step: int | None) -> None:
        from torch.utils.tensorboard.summary import hparams

        # SummaryWriter.add_hparams would put them into a directory of their own.
        writer = self.experiment._get_file_writer()
        for summary in hparams(sanitize_params(flatten_params(params)), metrics):
            writer.add_summary(summary, step)

    @rank_zero_only
    def log_graph(self, model: Module, input_array: Any = None) -> None:
        """Record the graph of ``model`` if the logger was made with ``log_graph=True``.

        Args:
            input_array: A tensor, or a tuple of the arguments of ``forward``; None takes ``model.example_input_array``.
        """
        if not self._log_graph:
            return
        if input_array is None:
            input_array = getattr(model, "example_input_array", None)
        if input_array is None:
            rank_zero_warn(
                "Could not log computational graph to TensorBoard: The `model.example_input_array` attribute is not "
                "set or `input_array` was not given."
            )
        elif not isinstance(input_array, (Tensor, tuple)):
            rank_zero_warn(
                "Could not log computational graph to TensorBoard: The `input_array` or `model.example_input_array` "
                f"has type {type(input_array)} which can't be traced by TensorBoard. Make the input array a tuple "
                "representing the positional arguments to the model's `forward()` implementation."
            )
        else:
            device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
            with readable_by_torchscript(model):  # SummaryWriter has no other way, and the user did not choose it
                self.experiment.add_graph(model, transferred(model, input_array, device))

    @rank_zero_only
    def save(self) -> None:
        """Write what is still in memory, and ``hparams.yaml`` (``{}`` without hyperparameters) unless it is there.

        A directory that somebody has removed stays removed.
        """
        self.experiment.flush()
        hparams_file = os.path.join(self.log_dir, self.NAME_HPARAMS_FILE)
        if os.path.isdir(self.log_dir) and not os.path.isfile(hparams_file):
            save_hparams_to_yaml(hparams_file, self.hparams)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Save, if ``status`` is "success", and close the event files; what is logged later opens new ones."""
        if status == "success":
            self.save()
        if self._experiment is not None:
            self._write_rows()
            self._experiment.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_experiment": None, "_rows": []}  # its rows stay with the original
