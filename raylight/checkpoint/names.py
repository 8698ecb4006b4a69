"""Names that become files: of metrics, runs and experiments."""

from __future__ import annotations

import re

from raylight.checkpoint import storage
from raylight.utilities.exceptions import MisconfigurationException


def below(name: str) -> str:
    """``name``, with "_" for its separators where it would leave the folder that it is joined to."""
    try:
        return storage.safe_name(name) if name else name
    except ValueError:
        return re.sub(r"[/\\:\0]", "_", name) if name.strip(".") else "_"


def verify_below(name: str, what: str) -> str:
    """``name`` itself; an empty one adds no folder.

    Raises:
        MisconfigurationException: It would leave the folder that it is joined to.
    """
    try:
        return storage.safe_name(name) if name else name
    except ValueError as error:
        raise MisconfigurationException(f"{what}: {error} Where files shall lie is said by the folder.") from error
