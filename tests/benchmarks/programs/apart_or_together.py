"""The driver of ``two_hosts.py``: the network of ``common`` on two hosts, then on one, in turns; rates as JSON."""

from __future__ import annotations

import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import ray

sys.path.insert(0, str(Path(__file__).resolve().parent))

import common
import torch

import raylight as pl

PLACEMENTS = {"apart": {"devices": 1, "num_nodes": 2}, "together": {"devices": 2}}


class Classifier(pl.LightningModule):
    """Takes the time after each stretch."""

    def __init__(self) -> None:
        super().__init__()
        self.network = common.build_network()
        self.marks: list[float] = []

    def on_train_start(self) -> None:
        torch.set_num_threads(1)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(common.build_train_set(), batch_size=common.BATCH_SIZE, shuffle=True)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        if batch_idx >= common.WARM_UP_STEPS and batch_idx % common.STRETCH == 0:
            self.marks.append(time.perf_counter())
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return common.build_optimizer(self.network)


def rate(folder: str, placement: dict[str, int]) -> float:
    """Steps per second, in the median of the stretches."""
    model = Classifier()
    flags = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    with pl.Trainer(launcher="ray", default_root_dir=folder, **common.FLAGS, **placement, **flags) as trainer:
        trainer.fit(model)
    return common.STRETCH / statistics.median(b - a for a, b in itertools.pairwise(model.marks))


def main() -> None:
    ray.cloudpickle.register_pickle_by_value(common)
    rates: dict[str, list[float]] = {name: [] for name in PLACEMENTS}
    for _ in range(int(sys.argv[1])):
        for name, placement in PLACEMENTS.items():
            rates[name].append(rate(name, placement))
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
