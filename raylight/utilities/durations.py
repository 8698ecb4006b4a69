"""Lengths of time, as Lightning writes them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from raylight.utilities.exceptions import MisconfigurationException


def parse_duration(value: Any, flag: str) -> timedelta:
    """A "DD:HH:MM:SS" string (of a validation interval each part any int), a dict of timedelta's arguments, or one.

    Args:
        flag: What the value was given for, for the error.

    Raises:
        MisconfigurationException: The value is none of these.
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, dict):
        return timedelta(**value)
    is_interval = flag == "val_check_interval"
    part = r"(-?\d+)" if is_interval else r"(\d\d)"
    fields = re.fullmatch(rf"(-?\d+):{part}:{part}:{part}", str(value).strip())
    if fields is None:
        raise MisconfigurationException(
            f"Invalid time format for `val_check_interval`: {value!r}. Expected 'DD:HH:MM:SS'."
            if is_interval
            else f"`{flag}={value!r}{')' * flag.count('(')}` is not a valid duration. "
            "Expected a string in the format DD:HH:MM:SS."
        )
    days, hours, minutes, seconds = map(int, fields.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
