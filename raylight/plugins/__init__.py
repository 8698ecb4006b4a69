"""What ``Trainer(plugins=...)`` takes: a Precision, a CheckpointIO, a LayerSync; no more than one of each."""

from __future__ import annotations

from typing import Any

from raylight.checkpoint.io import AsyncCheckpointIO, CheckpointIO, TorchCheckpointIO
from raylight.plugins.absent import explain
from raylight.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from raylight.strategies.layer_sync import LayerSync, TorchSyncBatchNorm

__all__ = [
    "AsyncCheckpointIO",
    "CheckpointIO",
    "DoublePrecision",
    "HalfPrecision",
    "LayerSync",
    "MixedPrecision",
    "Precision",
    "TorchCheckpointIO",
    "TorchSyncBatchNorm",
]


def __getattr__(name: str) -> Any:
    return explain(__name__, name)
