"""raylight: your PyTorch Lightning script, on a Ray cluster.

``import raylight as pl`` in place of ``import pytorch_lightning as pl`` is the only line that changes.
"""

from typing import TYPE_CHECKING

import raylight.utilities.environment  # noqa: F401  notes the environment before the script changes it
from raylight.callbacks import Callback
from raylight.core import LightningDataModule, LightningModule
from raylight.trainer import Trainer
from raylight.utilities.aliases import lazy_names
from raylight.utilities.seed import seed_everything

__version__ = "0.1.0"

__all__ = ["Callback", "LightningDataModule", "LightningModule", "Trainer", "seed_everything"]


if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)
