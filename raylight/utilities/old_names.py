"""Small things that Lightning 1.x had and scripts still import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, Union

from raylight.utilities import tree
from raylight.utilities.types import STEP_OUTPUT

EPOCH_OUTPUT: TypeAlias = Union[list[STEP_OUTPUT], list[list[STEP_OUTPUT]]]  # noqa: UP007  evaluated in annotations
"""What ``..._epoch_end`` is given: of each step, or of each loader the steps."""


def apply_to_collection(
    data: Any,
    dtype: type | tuple[type, ...],
    function: Callable[..., Any],
    *args: Any,
    wrong_dtype: type | tuple[type, ...] | None = None,
    include_none: bool = True,
    **kwargs: Any,
) -> Any:
    """A copy of nested ``data`` with ``function(value, *args, **kwargs)`` in place of every ``dtype``.

    Args:
        data: A value, or a nesting of lists, tuples, mappings and dataclasses; where one of these is a ``dtype``
            itself, the function is given it as a whole if it is ``data``.
        wrong_dtype: These stay as they are.
        include_none: Keep what the function turns into None; False leaves it out of lists, tuples and mappings.
    """

    def changed(value: Any) -> Any:
        fits = isinstance(value, dtype) and not (wrong_dtype is not None and isinstance(value, wrong_dtype))
        return function(value, *args, **kwargs) if fits else value

    if isinstance(data, dtype):
        return changed(data)
    applied = tree.map_leaves(changed, data)
    return applied if include_none else _without_none(applied)


def _without_none(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _without_none(value) for key, value in data.items() if value is not None}
    if type(data) in (list, tuple):
        return type(data)(_without_none(value) for value in data if value is not None)
    return data
