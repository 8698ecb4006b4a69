"""Environment variables that the user's script has set, for the workers to have as well."""

from __future__ import annotations

import os

_at_start = dict(os.environ)
PRIVATE = ("RAY_", "CUDA_VISIBLE_DEVICES", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_", "PYTEST_")
"""Beginnings of names that belong to this process alone."""


def changed_environment() -> dict[str, str]:
    """Variables that are other than when raylight was imported, or that carry a seed."""
    return {
        name: value
        for name, value in os.environ.items()
        if (_at_start.get(name) != value or name.startswith("PL_")) and not name.startswith(PRIVATE)
    }
