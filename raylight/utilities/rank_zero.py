"""Speak once: on N workers, a message meant for the user comes from rank 0 only."""

import functools
import logging
import os
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("raylight")


class PossibleUserWarning(UserWarning):
    """A warning about something that is probably, but not certainly, a mistake of the user's."""


def rank() -> int:
    """Global rank of this process: 0 on the driver and outside any run."""
    return int(os.environ.get("RANK", "0"))


def rank_zero_only(function: Callable[P, T]) -> Callable[P, T | None]:
    """Call ``function`` on rank 0; on every other rank do nothing and return None."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T | None:
        return function(*args, **kwargs) if rank() == 0 else None

    return wrapped


@rank_zero_only
def rank_zero_warn(message: str | Warning, stacklevel: int = 5, category: type[Warning] = UserWarning) -> None:
    """``warnings.warn`` on rank 0; the default ``stacklevel`` points at the caller's caller."""
    warnings.warn(message, stacklevel=stacklevel, category=category)


@rank_zero_only
def rank_zero_deprecation(message: str, stacklevel: int = 6) -> None:
    """A notice that an old name still works, and what its new name is."""
    warnings.warn(message, stacklevel=stacklevel, category=DeprecationWarning)


@rank_zero_only
def rank_zero_info(message: str) -> None:
    """Log ``message`` at INFO level under the logger "raylight" on rank 0."""
    log.info(message)


@rank_zero_only
def rank_zero_debug(message: str) -> None:
    """Log ``message`` at DEBUG level under the logger "raylight" on rank 0."""
    log.debug(message)
