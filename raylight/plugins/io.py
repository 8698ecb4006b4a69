"""``raylight.plugins.io``: how checkpoints reach their files."""

from __future__ import annotations

from typing import NoReturn

from raylight.checkpoint.io import AsyncCheckpointIO, CheckpointIO, TorchCheckpointIO
from raylight.plugins.absent import explain

__all__ = ["AsyncCheckpointIO", "CheckpointIO", "TorchCheckpointIO"]

__path__: list[str] = []
"""Lightning has a package here: ``raylight.utilities.aliases`` serves its modules."""


def __getattr__(name: str) -> NoReturn:
    explain(__name__, name)
