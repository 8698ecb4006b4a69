"""The logger classes of Lightning 1.x, for subclasses of users'."""

from __future__ import annotations

import statistics
from abc import ABC
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from raylight.loggers.base import Logger
from raylight.utilities.rank_zero import rank_zero_deprecation


class LightningLoggerBase(Logger, ABC):
    """The name that ``Logger`` had before Lightning 1.7; its metrics are no longer aggregated by step.

    Args:
        agg_key_funcs: Was for metrics that are logged twice at one step; these are written twice.
        agg_default_func: Likewise.
    """

    def __init__(
        self,
        agg_key_funcs: Mapping[str, Callable[[Sequence[float]], float]] | None = None,
        agg_default_func: Callable[[Sequence[float]], float] = statistics.mean,
    ) -> None:
        notice = "`LightningLoggerBase` is the old name of `raylight.loggers.Logger`: subclass that."
        if agg_key_funcs is not None or agg_default_func is not statistics.mean:
            notice += " Metrics of one step are not aggregated any more, as in Lightning 2: agg_... make no difference."
        rank_zero_deprecation(notice)

    def agg_and_log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """``log_metrics``."""
        self.log_metrics(metrics, step)

    def close(self) -> None:
        """``save``."""
        self.save()


class LoggerCollection(list[Logger]):
    """Several loggers for ``Trainer(logger=...)``: a list of them does."""

    def __init__(self, logger_iterable: Iterable[Logger]) -> None:
        rank_zero_deprecation("`LoggerCollection` was removed in Lightning 1.8: write Trainer(logger=[...]).")
        super().__init__(logger_iterable)

    @property
    def experiment(self) -> list[Any]:
        """Those of the loggers."""
        return [logger.experiment for logger in self]

    @property
    def name(self) -> str:
        """Their different names, joined by "_"."""
        return "_".join(dict.fromkeys(str(logger.name) for logger in self))

    @property
    def version(self) -> str:
        """Likewise."""
        return "_".join(dict.fromkeys(str(logger.version) for logger in self))

    @property
    def save_dir(self) -> str | None:
        """The first one's."""
        return self[0].save_dir if self else None
