"""``raylight.plugins.precision``: the kinds of precision."""

from __future__ import annotations

from typing import NoReturn

from raylight.plugins.absent import explain
from raylight.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision

__all__ = ["DoublePrecision", "HalfPrecision", "MixedPrecision", "Precision"]

__path__: list[str] = []
"""Lightning has a package here: ``raylight.utilities.aliases`` serves its modules."""


def __getattr__(name: str) -> NoReturn:
    explain(__name__, name)
