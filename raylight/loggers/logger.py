"""Lightning's import path of the base classes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from raylight.loggers.base import DummyExperiment, DummyLogger, Logger, rank_zero_experiment

__all__ = ["DummyExperiment", "DummyLogger", "Logger", "merge_dicts", "rank_zero_experiment"]


def merge_dicts(
    dicts: Sequence[Mapping[str, Any]],
    agg_key_funcs: Mapping[str, Any] | None = None,
    default_func: Callable[[Sequence[float]], float] = statistics.mean,
) -> dict[str, Any]:
    """One dict of several: the values that they have under a key are aggregated, nested dicts likewise.

    Args:
        dicts: A value of None counts as missing; a key that has no other is left out.
        agg_key_funcs: A function of the list of values, for single keys; a mapping of these for a nested dict.
        default_func: For all other keys.

    >>> merge_dicts([{"a": 1.0, "n": {"b": 2}}, {"a": 3.0}], {"a": max})
    {'a': 3.0, 'n': {'b': 2}}
    """
    functions = agg_key_funcs or {}
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for each in dicts for key in each):
        values = [each[key] for each in dicts if each.get(key) is not None]
        if not values:
            continue
        if isinstance(values[0], dict):
            merged[key] = merge_dicts(values, functions.get(key), default_func)
        else:
            merged[key] = (functions.get(key) or default_func)(values)
    return merged
