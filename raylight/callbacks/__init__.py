"""Callbacks: what a run does beside training. The base class's module tells when each hook is called."""

from typing import TYPE_CHECKING

from raylight.callbacks.base import Callback
from raylight.callbacks.batch_size_finder import BatchSizeFinder
from raylight.callbacks.checkpoint import Checkpoint, ModelCheckpoint
from raylight.callbacks.device_stats_monitor import DeviceStatsMonitor
from raylight.callbacks.early_stopping import EarlyStopping
from raylight.callbacks.finetuning import BackboneFinetuning, BaseFinetuning
from raylight.callbacks.lambda_function import LambdaCallback
from raylight.callbacks.lr_finder import LearningRateFinder
from raylight.callbacks.monitors import LearningRateMonitor
from raylight.callbacks.on_exception_checkpoint import OnExceptionCheckpoint
from raylight.callbacks.prediction_writer import BasePredictionWriter
from raylight.callbacks.progress import ProgressBar, RichProgressBar, TQDMProgressBar
from raylight.callbacks.pruning import ModelPruning
from raylight.callbacks.schedules import GradientAccumulationScheduler, Timer
from raylight.callbacks.spike import SpikeDetection
from raylight.callbacks.stochastic_weight_avg import StochasticWeightAveraging
from raylight.callbacks.summary import ModelSummary, RichModelSummary
from raylight.callbacks.throughput_monitor import ThroughputMonitor
from raylight.callbacks.weight_averaging import EMAWeightAveraging, WeightAveraging
from raylight.utilities.aliases import lazy_names

__all__ = [
    "BackboneFinetuning",
    "BaseFinetuning",
    "BasePredictionWriter",
    "BatchSizeFinder",
    "Callback",
    "Checkpoint",
    "DeviceStatsMonitor",
    "EMAWeightAveraging",
    "EarlyStopping",
    "GradientAccumulationScheduler",
    "LambdaCallback",
    "LearningRateFinder",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "ModelPruning",
    "ModelSummary",
    "OnExceptionCheckpoint",
    "ProgressBar",
    "RichModelSummary",
    "RichProgressBar",
    "SpikeDetection",
    "StochasticWeightAveraging",
    "TQDMProgressBar",
    "ThroughputMonitor",
    "Timer",
    "WeightAveraging",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)
