"""Callbacks that other packages add to every Trainer."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from raylight.callbacks.base import Callback
from raylight.utilities.rank_zero import rank_zero_info

GROUPS = ("raylight.callbacks_factory", "lightning.pytorch.callbacks_factory")
"""Entry points: functions without arguments that return a callback or a list of them."""


def external_callbacks() -> list[Any]:
    """What the installed packages' factories make; one that stands in both groups is called once."""
    factories: dict[Any, str] = {}
    installed = importlib.metadata.entry_points()  # reads every package's files: once for both groups
    for group in GROUPS:
        for entry_point in installed.select(group=group):
            factories.setdefault(entry_point.load(), entry_point.name)
    callbacks: list[Any] = []
    for factory, name in factories.items():
        made = factory()
        added = [made] if isinstance(made, Callback) else list(made)
        if added:
            names = ", ".join(type(callback).__name__ for callback in added)
            rank_zero_info(f"Adding {len(added)} callbacks from entry point '{name}': {names}")
        callbacks += added
    return callbacks
