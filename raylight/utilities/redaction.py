"""Values on their way to a file or a logger: without secrets, and the user is told once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from raylight.utilities import secrets
from raylight.utilities.rank_zero import rank_zero_warn

T = TypeVar("T")
_told: set[str] = set()
"""What has been warned of in this process."""


def without_secrets(hparams: T) -> T:
    """Hyperparameters as ``secrets.redact`` makes them; what was redacted is named in a warning."""
    clean: T
    clean, found = secrets.redact(hparams)
    ignored = sorted({name.partition(".")[0] for name in found if not name.startswith("$")})
    tell(
        found,
        f"Leave them out with `self.save_hyperparameters(ignore={ignored or ['...']})` to be without this warning; "
        "give them to `load_from_checkpoint`, for a checkpoint does not have them.",
    )
    return clean


def tell(found: Iterable[str], remedy: str) -> None:
    """Warn of what ``secrets.redact`` has found and nobody was told of yet."""
    new = set(found) - _told
    if not new:
        return
    _told.update(new)
    names = sorted(repr(each) for each in new if not each.startswith("$"))
    variables = sorted(each[1:] for each in new if each.startswith("$"))
    what = [", ".join(names)] if names else []
    what += [f"the value of the environment variable {', '.join(variables)}"] if variables else []
    rank_zero_warn(
        f"Secrets are not written: files and loggers get {secrets.REDACTED!r} in place of {' and '.join(what)}. "
        f"{remedy}"
    )
