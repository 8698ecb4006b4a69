"""Searches for a batch size and a learning rate."""

from raylight.tuner.tuning import Tuner

__all__ = ["Tuner"]
