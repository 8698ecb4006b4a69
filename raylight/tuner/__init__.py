"""Searches for a batch size and a learning rate."""

from typing import TYPE_CHECKING

from raylight.tuner.tuning import Tuner
from raylight.utilities.aliases import lazy_names

__all__ = ["Tuner"]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)
