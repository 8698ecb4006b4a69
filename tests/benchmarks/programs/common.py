"""What the programs of ``two_workers.py`` share: network, data, the steps of a LightningModule, and stamps.

Every program trains the same network for ``NUM_STEPS`` steps on two CPU workers, validates at the end of the epoch,
and then validates again by a second call. A program is started with these variables set:

- ``BENCHMARK_STAMPS``: file to which its processes append their stamps
- ``BENCHMARK_ROOT``: folder for logs and checkpoints
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

NUM_WORKERS = 2
BATCH_SIZE = 32  # per worker
NUM_STEPS = 221
WARM_UP_STEPS = 20
STRETCH = 20
"""Steps between two stamps once warm, about a third of a second."""
NUM_VALIDATION_BATCHES = 8

FLAGS: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1, "num_sanity_val_steps": 0}


class Stamps:
    """Moments, one JSON object per line, appended by all processes of a program to one file."""

    def __init__(self) -> None:
        # Read where the program starts and carried along: a process on Ray need not have the script's environment.
        self.path = os.environ["BENCHMARK_STAMPS"]

    def add(self, event: str, rank: int = 0, **values: float) -> None:
        line = json.dumps({"event": event, "rank": rank, "time": time.time(), **values}) + "\n"
        with open(self.path, "a") as file:
            file.write(line)

    def at_training_step(self, step: int, rank: int) -> None:
        """``step`` is 0-based; silent in most steps, so that stamping costs nothing."""
        if step == 0:
            self.add("first_step", rank)
        elif step >= WARM_UP_STEPS and step % STRETCH == 0:
            self.add("stretch", rank)

    def add_peak_memory(self, rank: int) -> None:
        """This process's largest resident size so far, in kB; ``ru_maxrss`` would include its parent's."""
        status = Path("/proc/self/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        self.add("peak_memory", rank, kilobytes=float(peak.split()[1]))


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Random images of MNIST's shape; 512 different ones, so that data is no part of a worker's memory."""

    def __init__(self, length: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(512, 1, 28, 28, generator=generator)
        self.labels = torch.randint(10, (512,), generator=generator)
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index % 512], self.labels[index % 512]


def build_train_set() -> Images:
    return Images(NUM_WORKERS * BATCH_SIZE * NUM_STEPS)


def build_validation_set() -> Images:
    return Images(NUM_WORKERS * BATCH_SIZE * NUM_VALIDATION_BATCHES)


def build_network() -> nn.Sequential:
    """A step of 32 images takes one core 10 to 20 ms."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 12 * 12, 10),
    )


def build_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.01)


class ClassifierParts:
    """Goes before a ``LightningModule`` in a program's class, of Lightning's or of raylight's."""

    def __init__(self) -> None:
        super().__init__()
        self.network = build_network()
        self.stamps = Stamps()

    def setup(self, stage: str) -> None:
        torch.set_num_threads(1)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(build_train_set(), batch_size=BATCH_SIZE, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(build_validation_set(), batch_size=BATCH_SIZE)

    def training_step(self: Any, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.stamps.at_training_step(batch_idx, self.global_rank)
        images, labels = batch
        loss = F.cross_entropy(self.network(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self: Any, batch: list[Tensor], batch_idx: int) -> None:
        if batch_idx == 0:
            self.stamps.add("validation_batch", self.global_rank)
        images, labels = batch
        self.log("val_loss", F.cross_entropy(self.network(images), labels), sync_dist=True)

    def on_train_end(self: Any) -> None:
        self.stamps.add_peak_memory(self.global_rank)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return build_optimizer(self.network)
