"""Callbacks: what a run does beside training. The base class's module tells when each hook is called."""

from typing import TYPE_CHECKING

from raylight.callbacks.base import Callback
from raylight.callbacks.batch_size_finder import BatchSizeFinder
from raylight.callbacks.checkpoint import Checkpoint, ModelCheckpoint
from raylight.callbacks.early_stopping import EarlyStopping
from raylight.callbacks.finetuning import BackboneFinetuning, BaseFinetuning
from raylight.callbacks.lambda_function import LambdaCallback
from raylight.callbacks.lr_finder import LearningRateFinder
from raylight.callbacks.monitors import LearningRateMonitor
from raylight.callbacks.prediction_writer import BasePredictionWriter
from raylight.callbacks.progress import ProgressBar, RichProgressBar, TQDMProgressBar
from raylight.callbacks.schedules import GradientAccumulationScheduler, Timer
from raylight.callbacks.stochastic_weight_avg import StochasticWeightAveraging
from raylight.callbacks.summary import ModelSummary, RichModelSummary
from raylight.callbacks.weight_averaging import EMAWeightAveraging, WeightAveraging
from raylight.utilities.aliases import lazy_names

__all__ = [
    "BackboneFinetuning",
    "BaseFinetuning",
    "BasePredictionWriter",
    "BatchSizeFinder",
    "Callback",
    "Checkpoint",
    "EMAWeightAveraging",
    "EarlyStopping",
    "GradientAccumulationScheduler",
    "LambdaCallback",
    "LearningRateFinder",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "ModelSummary",
    "ProgressBar",
    "RichModelSummary",
    "RichProgressBar",
    "StochasticWeightAveraging",
    "TQDMProgressBar",
    "Timer",
    "WeightAveraging",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)
