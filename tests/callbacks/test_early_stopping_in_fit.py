"""EarlyStopping stops where Lightning's stops, and says why."""

from __future__ import annotations

import math
from typing import Any

import pytest

CASES: dict[str, tuple[list[float], dict[str, Any], dict[str, Any]]] = {
    "patience": ([3.0, 2.0, 2.5, 2.5, 2.5, 2.5], {"patience": 2}, {}),
    "default_patience": ([3.0, 2.0, 2.5, 2.5, 2.5, 2.5], {}, {}),
    "min_delta": ([3.0, 2.9, 2.8, 2.7], {"patience": 2, "min_delta": 0.5}, {}),
    "max": ([1.0, 2.0, 1.5, 1.0], {"patience": 1, "mode": "max"}, {}),
    "threshold": ([3.0, 2.0, 0.5, 0.4], {"stopping_threshold": 1.0}, {}),
    "divergence": ([3.0, 9.0, 0.5], {"divergence_threshold": 5.0}, {}),
    "not_finite": ([3.0, math.nan, 0.5], {}, {}),
    "not_finite_ignored": ([6.0, math.nan, 4.0, 3.0, 2.0, 1.0], {"check_finite": False}, {}),
    "never": ([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], {}, {}),
    "twice_per_epoch": ([3.0, 4.0, 4.0, 4.0], {"patience": 2}, {"val_check_interval": 0.5}),
    "every_second_epoch": ([3.0, 4.0, 4.0], {"patience": 1}, {"check_val_every_n_epoch": 2}),
    "min_epochs": ([3.0, 4.0, 4.0], {"patience": 1}, {"min_epochs": 4}),
    "fast_dev_run": ([math.nan], {}, {"fast_dev_run": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_where_and_why(same_in_both: Any, case: str) -> None:
    val_losses, arguments, flags = CASES[case]

    def run(program: Any) -> dict[str, Any]:
        stopping = program.pl.callbacks.EarlyStopping("val_loss", **arguments)
        trainer = program.trainer(stopping, **{"max_epochs": 6, **flags})
        trainer.fit(program.model(val_losses))
        return {
            "epochs": trainer.current_epoch,
            "stopped_epoch": stopping.stopped_epoch,
            "wait_count": stopping.wait_count,
            "best_score": round(float(stopping.best_score), 4),
            "reason": stopping.stopping_reason.name,
            "message": stopping.stopping_reason_message,
        }

    outcome = same_in_both(run)
    assert (outcome["reason"] == "NOT_STOPPED") == (case in ("not_finite_ignored", "never", "fast_dev_run"))


def test_missing_metric(same_in_both: Any) -> None:
    def run(program: Any) -> None:
        stopping = program.pl.callbacks.EarlyStopping("vall_loss")
        with pytest.raises(RuntimeError, match="Early stopping conditioned on metric `vall_loss`.*`val_loss`"):
            program.trainer(stopping, max_epochs=1).fit(program.model([1.0]))

    same_in_both(run)


def test_missing_metric_that_is_allowed(same_in_both: Any) -> None:
    def run(program: Any) -> int:
        stopping = program.pl.callbacks.EarlyStopping("vall_loss", strict=False)
        trainer = program.trainer(stopping, max_epochs=2)
        trainer.fit(program.model([1.0]))
        return int(trainer.current_epoch)

    assert same_in_both(run) == 2
