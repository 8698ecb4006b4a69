"""Speak once: on N workers, a message meant for the user comes from rank 0 only."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TextIO, TypeVar, overload

from raylight.utilities.secrets import redact_text, redact_texts

P = ParamSpec("P")
T = TypeVar("T")


class _WhereNobodyListens(logging.StreamHandler[TextIO]):
    """Writes to stderr in a script that has not set up logging; where it has, its own handlers do."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().hasHandlers():
            super().emit(record)


log = logging.getLogger(__name__)
package_log = logging.getLogger("raylight")
if not package_log.handlers:
    package_log.setLevel(logging.INFO)
    package_log.addHandler(_WhereNobodyListens())


class PossibleUserWarning(UserWarning):
    """A warning about something that is probably, but not certainly, a mistake of the user's."""


class LightningDeprecationWarning(DeprecationWarning):
    """An old name or argument still works; the message tells the new one. Shown by default, unlike its base."""


warnings.simplefilter("default", category=LightningDeprecationWarning, append=True)


def rank() -> int:
    """Global rank of this process: 0 on the driver and outside any run."""
    return rank_zero_only.rank


class _RankZeroOnly:
    """The decorator ``rank_zero_only``; its ``rank`` may be set, as Lightning's launchers do."""

    def __init__(self) -> None:
        self._rank: int | None = None

    @property
    def rank(self) -> int:
        """This process's global rank: as it was set, else as the environment says, else 0."""
        return self._rank if self._rank is not None else int(os.environ.get("RANK", "0"))

    @rank.setter
    def rank(self, rank: int | None) -> None:
        self._rank = rank

    @rank.deleter
    def rank(self) -> None:
        self._rank = None

    @overload
    def __call__(self, fn: Callable[P, T]) -> Callable[P, T | None]: ...

    @overload
    def __call__(self, fn: Callable[P, T], default: T) -> Callable[P, T]: ...

    def __call__(self, fn: Callable[P, T], default: T | None = None) -> Callable[P, T | None]:
        """Call ``fn`` on rank 0; on every other rank do nothing and return ``default``."""

        @functools.wraps(fn)
        def wrapped(*args: P.args, **kwargs: P.kwargs) -> T | None:
            return fn(*args, **kwargs) if self.rank == 0 else default

        return wrapped


rank_zero_only = _RankZeroOnly()

ONE_FRAME_LESS = 1
"""Lightning's functions below have a frame more between them and ``warnings.warn``; ``stacklevel`` counts it."""


@rank_zero_only
def rank_zero_warn(message: str | Warning, stacklevel: int = 4, **kwargs: Any) -> None:
    """``warnings.warn`` on rank 0, with its arguments.

    Args:
        message: The text, or the warning itself.
        stacklevel: 4, counted as in Lightning: the line that calls this function; 5: that of its caller.
        kwargs: ``category`` and ``source`` of ``warnings.warn``.
    """
    warnings.warn(_clean(message), stacklevel=stacklevel - ONE_FRAME_LESS, **kwargs)


@rank_zero_only
def rank_zero_deprecation(message: str | Warning, stacklevel: int = 5, **kwargs: Any) -> None:
    """A notice that an old name still works, and what its new name is; ``stacklevel`` as above, but 5 and 6."""
    kwargs.setdefault("category", LightningDeprecationWarning)
    warnings.warn(_clean(message), stacklevel=stacklevel - 1 - ONE_FRAME_LESS, **kwargs)


def _clean(message: str | Warning) -> str | Warning:
    return redact_text(message) if isinstance(message, str) else message


@rank_zero_only
def rank_zero_info(*args: Any, stacklevel: int = 4, **kwargs: Any) -> None:
    """Log at INFO level under the logger "raylight" on rank 0; arguments as for ``logging.info``."""
    log.info(*redact_texts(args), stacklevel=stacklevel - ONE_FRAME_LESS, **kwargs)


@rank_zero_only
def rank_zero_debug(*args: Any, stacklevel: int = 4, **kwargs: Any) -> None:
    """Log at DEBUG level under the logger "raylight" on rank 0; arguments as for ``logging.debug``."""
    log.debug(*redact_texts(args), stacklevel=stacklevel - ONE_FRAME_LESS, **kwargs)


def rank_prefixed_message(message: str, rank: int | None) -> str:
    """``message`` after "[rank: N]"; None leaves it as it is."""
    return message if rank is None else f"[rank: {rank}] {message}"


class WarningCache(set[str]):
    """Says each message once, on rank 0."""

    def warn(self, message: str, stacklevel: int = 5, **kwargs: Any) -> None:
        """``rank_zero_warn``, unless ``message`` has been said."""
        if self._is_new(message):
            rank_zero_warn(message, stacklevel=stacklevel, **kwargs)

    def deprecation(self, message: str, stacklevel: int = 6, **kwargs: Any) -> None:
        """``rank_zero_deprecation``, unless ``message`` has been said."""
        if self._is_new(message):
            rank_zero_deprecation(message, stacklevel=stacklevel, **kwargs)

    def info(self, message: str, stacklevel: int = 5, **kwargs: Any) -> None:
        """``rank_zero_info``, unless ``message`` has been said."""
        if self._is_new(message):
            rank_zero_info(message, stacklevel=stacklevel, **kwargs)

    def _is_new(self, message: str) -> bool:
        known = message in self
        self.add(message)
        return not known
