"""Hyperparameters on their way to a file or a logger: without secrets, and the user is told once."""

from __future__ import annotations

from typing import Any

from raylight.utilities import secrets
from raylight.utilities.rank_zero import WarningCache

_warned = WarningCache()


def without_secrets(value: Any) -> Any:
    """``value`` as ``secrets.redact`` makes it; what was redacted is named, by one warning."""
    clean, found = secrets.redact(value)
    if found:
        names = sorted(each for each in found if not each.startswith("$"))
        variables = sorted(each[1:] for each in found if each.startswith("$"))
        parts = [", ".join(map(repr, names))] if names else []
        parts += [f"the value of the environment variable {', '.join(variables)}"] if variables else []
        told = sorted({name.partition(".")[0] for name in names})
        _warned.warn(
            f"Secrets are not written: files and loggers get {secrets.REDACTED!r} in place of {' and '.join(parts)}. "
            f"Leave them out with `self.save_hyperparameters(ignore={told or ['...']})` to be without this warning; "
            "give them to `load_from_checkpoint`, for a checkpoint does not have them."
        )
    return clean
