"""What a user subclasses."""

from typing import TYPE_CHECKING

from raylight.core.datamodule import LightningDataModule
from raylight.core.module import LightningModule
from raylight.utilities.aliases import lazy_names

__all__ = ["LightningDataModule", "LightningModule"]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)
