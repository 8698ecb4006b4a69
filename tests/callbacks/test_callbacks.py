"""Public names of the package."""

from __future__ import annotations

import raylight.callbacks


def test_public_names_are_sorted_and_there() -> None:
    names = raylight.callbacks.__all__
    assert names == sorted(names)
    assert {
        "Callback",
        "Checkpoint",
        "EarlyStopping",
        "GradientAccumulationScheduler",
        "LambdaCallback",
        "LearningRateMonitor",
        "ModelCheckpoint",
        "ModelSummary",
        "RichModelSummary",
        "Timer",
    } <= set(names)
    assert all(hasattr(raylight.callbacks, name) for name in names)
