"""raylight: your PyTorch Lightning script, on a Ray cluster.

``import raylight as pl`` in place of ``import pytorch_lightning as pl`` is the only line that changes.
"""

import importlib
from typing import TYPE_CHECKING, Any

from raylight.importing import without_garbage_collection

with without_garbage_collection():  # of Ray and torch, unless the script has imported them
    import raylight.utilities.environment  # noqa: F401  notes the environment before the script changes it
    from raylight.callbacks import Callback
    from raylight.core import LightningDataModule, LightningModule
    from raylight.trainer import Trainer
    from raylight.utilities.aliases import lazy_names
    from raylight.utilities.seed import seed_everything

__version__ = "0.1.0"

if TYPE_CHECKING:
    from raylight.sweeps import SweepResult, sweep

__all__ = ["Callback", "LightningDataModule", "LightningModule", "SweepResult", "Trainer", "seed_everything", "sweep"]

LATE = ("SweepResult", "sweep")
"""Of ``raylight.sweeps``, which imports Ray Tune: too slow for those that do not search."""


if not TYPE_CHECKING:
    _lightnings = lazy_names(__name__)

    def __getattr__(name: str) -> Any:
        return getattr(importlib.import_module("raylight.sweeps"), name) if name in LATE else _lightnings(name)
