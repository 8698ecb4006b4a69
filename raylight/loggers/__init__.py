"""Loggers: where metrics and hyperparameters go."""

from raylight.loggers.base import Logger
from raylight.loggers.csv_logs import CSVLogger
from raylight.loggers.tensorboard import TensorBoardLogger

__all__ = ["CSVLogger", "Logger", "TensorBoardLogger"]
