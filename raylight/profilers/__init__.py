"""Profilers: where the time of a run goes."""

from __future__ import annotations

from typing import Any

from raylight.profilers.advanced import AdvancedProfiler
from raylight.profilers.base import PassThroughProfiler, Profiler
from raylight.profilers.pytorch import PyTorchProfiler
from raylight.profilers.simple import SimpleProfiler
from raylight.profilers.xla import XLAProfiler
from raylight.utilities.exceptions import MisconfigurationException

__all__ = [
    "AdvancedProfiler",
    "PassThroughProfiler",
    "Profiler",
    "PyTorchProfiler",
    "SimpleProfiler",
    "XLAProfiler",
]

NAMES: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
    "xla": XLAProfiler,
}


def make_profiler(profiler: Any) -> Any:
    """What ``Trainer(profiler=...)`` means: a Profiler, or what behaves like one.

    Raises:
        MisconfigurationException: There is no such profiler.
    """
    if profiler is None:
        return PassThroughProfiler()
    if isinstance(profiler, str):
        if profiler.lower() not in NAMES:
            raise MisconfigurationException(
                "When passing string value for the `profiler` parameter of `Trainer`, it can only be one of "
                f"{list(NAMES)}, got {profiler!r}."
            )
        return NAMES[profiler.lower()]()
    if not all(callable(getattr(profiler, name, None)) for name in ("profile", "setup", "describe", "teardown")):
        raise MisconfigurationException(
            f"profiler={profiler!r} must be None, one of {list(NAMES)}, or a raylight.profilers.Profiler."
        )
    return profiler
