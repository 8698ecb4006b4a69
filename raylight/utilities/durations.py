"""Lengths of time, as Lightning writes them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from raylight.utilities.exceptions import MisconfigurationException


def parse_duration(value: Any, flag: str) -> timedelta:
    """A "DD:HH:MM:SS" string, a dict of timedelta's arguments, or a timedelta.

    Args:
        flag: What the value was given for, for the error.

    Raises:
        MisconfigurationException: The value is none of these.
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, dict):
        return timedelta(**value)
    fields = re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", str(value).strip())
    if fields is None:
        raise MisconfigurationException(
            f"`{flag}={value!r}` is not a valid duration. Expected a string in the format DD:HH:MM:SS."
        )
    days, hours, minutes, seconds = map(int, fields.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
