"""Sixteen short trials of Lightning by Ray Tune, in a function, as Ray's documentation has it."""

from __future__ import annotations

import os
from typing import Any

import pytorch_lightning as pl
import ray
import short_trials
from ray import tune
from ray.tune.integration.pytorch_lightning import TuneReportCheckpointCallback


class Classifier(short_trials.TrialParts, pl.LightningModule):
    pass


def train(config: dict[str, Any]) -> None:
    report = TuneReportCheckpointCallback({"val_loss": "val_loss"}, on="validation_end")
    trainer = pl.Trainer(**short_trials.FLAGS, enable_checkpointing=False, callbacks=[report], devices=1)
    trainer.fit(Classifier(config["lr"]))


if __name__ == "__main__":
    short_trials.stamp_call()
    ray.init(num_cpus=short_trials.AT_A_TIME, log_to_driver=False)
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={"lr": tune.grid_search(short_trials.RATES)},
        tune_config=tune.TuneConfig(metric="val_loss", mode="min", max_concurrent_trials=short_trials.AT_A_TIME),
        run_config=tune.RunConfig(
            storage_path=os.environ["BENCHMARK_ROOT"],
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        ),
    )
    assert tuner.fit().num_errors == 0
