"""What arguments a function takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def requires(function: Callable[..., Any], name: str) -> bool:
    """Whether ``function`` has an argument ``name`` without a default."""
    parameter = inspect.signature(function).parameters.get(name)
    return parameter is not None and parameter.default is parameter.empty


def has_argument(function: Callable[..., Any], name: str) -> bool:
    """Whether ``function`` names an argument ``name``."""
    return name in inspect.signature(function).parameters


def accepts(function: Callable[..., Any], name: str, min_arguments: int) -> bool:
    """Whether ``function`` takes an argument ``name``, or at least so many positional ones."""
    parameters = inspect.signature(function).parameters.values()
    kinds = [parameter.kind for parameter in parameters]
    if any(kind is inspect.Parameter.VAR_POSITIONAL for kind in kinds):
        return True
    if any(parameter.name == name for parameter in parameters):
        return True
    return sum(kind in POSITIONAL for kind in kinds) >= min_arguments


def count_positional(function: Callable[..., Any]) -> int:
    """Positional arguments that ``function`` names."""
    return sum(p.kind in POSITIONAL for p in inspect.signature(function).parameters.values())


def count_required(function: Callable[..., Any]) -> int:
    """Positional arguments that a call of ``function`` must give."""
    parameters = inspect.signature(function).parameters.values()
    return sum(p.kind in POSITIONAL and p.default is p.empty for p in parameters)
