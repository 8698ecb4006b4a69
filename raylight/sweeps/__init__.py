"""Hyperparameter searches on Ray Tune: ``raylight.sweep``."""

from raylight.sweeps.result import SweepResult
from raylight.sweeps.sweep import resume, sweep

__all__ = ["SweepResult", "resume", "sweep"]
