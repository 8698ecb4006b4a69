"""What a user subclasses."""

from raylight.core.datamodule import LightningDataModule
from raylight.core.module import LightningModule

__all__ = ["LightningDataModule", "LightningModule"]
