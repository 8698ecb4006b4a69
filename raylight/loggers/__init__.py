"""Loggers: where metrics and hyperparameters go."""

from typing import NoReturn

from raylight.loggers.base import Logger
from raylight.loggers.csv_logs import CSVLogger
from raylight.loggers.mlflow import MLFlowLogger
from raylight.loggers.tensorboard import TensorBoardLogger
from raylight.loggers.wandb import WandbLogger

__all__ = ["CSVLogger", "Logger", "MLFlowLogger", "TensorBoardLogger", "WandbLogger"]

_ELSEWHERE = ("CometLogger", "LitLogger", "NeptuneLogger")
"""Lightning's loggers that raylight does not have."""


def __getattr__(name: str) -> NoReturn:
    if name in _ELSEWHERE:  # ImportError, as the text of an AttributeError is lost in `from ... import`
        raise ImportError(
            f"raylight has no {name}. Use {', '.join(each for each in __all__ if each != 'Logger')}, or write a "
            "subclass of raylight.loggers.Logger: name, version, log_metrics and log_hyperparams are all it needs."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
