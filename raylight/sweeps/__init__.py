"""Hyperparameter searches on Ray Tune: ``raylight.sweep``."""

from raylight.sweeps.entry import resume, sweep
from raylight.sweeps.result import SweepResult

__all__ = ["SweepResult", "resume", "sweep"]
