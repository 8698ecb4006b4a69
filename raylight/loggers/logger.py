"""Lightning's import path of the base classes."""

from raylight.loggers.base import DummyLogger, Logger, rank_zero_experiment

__all__ = ["DummyLogger", "Logger", "rank_zero_experiment"]
