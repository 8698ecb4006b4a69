"""Loggers: where metrics and hyperparameters go."""

from typing import TYPE_CHECKING

from raylight.loggers.base import Logger
from raylight.loggers.csv_logs import CSVLogger
from raylight.loggers.mlflow import MLFlowLogger
from raylight.loggers.tensorboard import TensorBoardLogger
from raylight.loggers.wandb import WandbLogger
from raylight.utilities.aliases import lazy_names

__all__ = ["CSVLogger", "Logger", "MLFlowLogger", "TensorBoardLogger", "WandbLogger"]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)
