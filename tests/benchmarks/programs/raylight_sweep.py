"""Sixteen short trials by ``raylight.sweep``."""

from __future__ import annotations

import os

import short_trials
from ray import tune

import raylight as pl


class Classifier(short_trials.TrialParts, pl.LightningModule):
    pass


if __name__ == "__main__":
    short_trials.stamp_call()
    pl.sweep(
        Classifier,
        {"lr": tune.grid_search(short_trials.RATES)},
        trainer=short_trials.FLAGS,
        num_samples=1,
        scheduler=None,
        max_concurrent=short_trials.AT_A_TIME,
        storage=os.environ["BENCHMARK_ROOT"],
        verbose=False,
    )
