"""Callbacks: what a run does beside training. The base class's module tells when each hook is called."""

from raylight.callbacks.base import Callback
from raylight.callbacks.checkpoint import Checkpoint, ModelCheckpoint
from raylight.callbacks.device_stats_monitor import DeviceStatsMonitor
from raylight.callbacks.early_stopping import EarlyStopping
from raylight.callbacks.lambda_function import LambdaCallback
from raylight.callbacks.monitors import LearningRateMonitor
from raylight.callbacks.on_exception_checkpoint import OnExceptionCheckpoint
from raylight.callbacks.progress import ProgressBar, RichProgressBar, TQDMProgressBar
from raylight.callbacks.pruning import ModelPruning
from raylight.callbacks.schedules import GradientAccumulationScheduler, Timer
from raylight.callbacks.spike import SpikeDetection
from raylight.callbacks.summary import ModelSummary, RichModelSummary
from raylight.callbacks.throughput_monitor import ThroughputMonitor

__all__ = [
    "Callback",
    "Checkpoint",
    "DeviceStatsMonitor",
    "EarlyStopping",
    "GradientAccumulationScheduler",
    "LambdaCallback",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "ModelPruning",
    "ModelSummary",
    "OnExceptionCheckpoint",
    "ProgressBar",
    "RichModelSummary",
    "RichProgressBar",
    "SpikeDetection",
    "TQDMProgressBar",
    "ThroughputMonitor",
    "Timer",
]
