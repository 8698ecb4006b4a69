"""Lightning inside Ray's TorchTrainer, after Ray's own guide; a second call is a second TorchTrainer."""

from __future__ import annotations

import os
from typing import Any

import common
import pytorch_lightning as pl
import ray
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, RayTrainReportCallback, prepare_trainer
from ray.train.torch import TorchTrainer


class Classifier(common.ClassifierParts, pl.LightningModule):
    pass


def build_trainer(root: str) -> pl.Trainer:
    trainer = pl.Trainer(
        devices="auto",
        strategy=RayDDPStrategy(),
        plugins=[RayLightningEnvironment()],
        callbacks=[RayTrainReportCallback()],
        enable_checkpointing=False,  # the callback saves and reports
        default_root_dir=root,
        **common.FLAGS,
    )
    return prepare_trainer(trainer)


def train(config: dict[str, Any]) -> None:
    build_trainer(config["root"]).fit(config["model"])


def validate(config: dict[str, Any]) -> None:
    with config["checkpoint"].as_directory() as folder:
        weights = torch.load(os.path.join(folder, RayTrainReportCallback.CHECKPOINT_NAME), weights_only=False)
    config["model"].load_state_dict(weights["state_dict"])
    build_trainer(config["root"]).validate(config["model"])


def main() -> None:
    root = os.environ["BENCHMARK_ROOT"]
    scaling = ScalingConfig(num_workers=common.NUM_WORKERS)
    config: dict[str, Any] = {"model": Classifier(), "root": root}
    result = TorchTrainer(
        train, train_loop_config=config, scaling_config=scaling, run_config=RunConfig(storage_path=root, name="fit")
    ).fit()
    common.Stamps().add("validate_call")
    config["checkpoint"] = result.checkpoint
    TorchTrainer(
        validate, train_loop_config=config, scaling_config=scaling, run_config=RunConfig(storage_path=root, name="val")
    ).fit()
    ray.shutdown()


if __name__ == "__main__":
    main()
