"""Lightning inside Ray's TorchTrainer with FailureConfig, after Ray's own guide: a checkpoint after each epoch."""

from __future__ import annotations

import os
from typing import Any

import common
import pytorch_lightning as pl
import ray
import ray.train
import steps
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, RayTrainReportCallback, prepare_trainer
from ray.train.torch import TorchTrainer


class Classifier(steps.SteppingParts, pl.LightningModule):
    pass


def train(config: dict[str, Any]) -> None:
    trainer = pl.Trainer(
        devices="auto",
        strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment()],
        callbacks=[RayTrainReportCallback()],
        enable_checkpointing=False,  # the callback saves and reports
        default_root_dir=config["root"],
        **steps.FLAGS,
    )
    trainer = prepare_trainer(trainer)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        trainer.fit(config["model"])
        return
    with checkpoint.as_directory() as folder:
        trainer.fit(config["model"], ckpt_path=os.path.join(folder, RayTrainReportCallback.CHECKPOINT_NAME))


def main() -> None:
    root = os.environ["BENCHMARK_ROOT"]
    TorchTrainer(
        train,
        train_loop_config={"model": Classifier(), "root": root},
        scaling_config=ScalingConfig(num_workers=common.NUM_WORKERS),
        run_config=RunConfig(storage_path=root, name="fit", failure_config=FailureConfig(max_failures=1)),
    ).fit()
    ray.shutdown()


if __name__ == "__main__":
    main()
