"""``raylight.plugins.environments``: the base class that scripts derive from; Ray itself places the workers."""

from __future__ import annotations

from abc import ABC
from typing import Any

from raylight.plugins.absent import PLACED_BY_RAY, explain

__all__ = ["ClusterEnvironment"]


class ClusterEnvironment(ABC):  # noqa: B024  those that derive from it say what they need
    """How Lightning's processes find each other. ``Trainer(plugins=...)`` refuses one, as Ray does this."""

    REFUSAL = f"A ClusterEnvironment has no place here: {PLACED_BY_RAY}"


def __getattr__(name: str) -> Any:
    return explain(__name__, name)
