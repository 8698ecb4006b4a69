"""What the programs of ``recovery.py`` share: epochs of stamped steps, and a worker that is killed in one of them.

A program is started with the variables of ``common``, and

- ``BENCHMARK_KILL_AT``: batch, over all epochs, in which rank 1 is killed; -1 for none
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import common
from torch import Tensor
from torch.utils.data import DataLoader

NUM_EPOCHS = 6
STEPS_PER_EPOCH = 100
FLAGS: dict[str, Any] = {
    "accelerator": "cpu",
    "max_epochs": NUM_EPOCHS,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
}


class SteppingParts(common.ClassifierParts):
    """As ClassifierParts, with a stamp after each step, and the kill."""

    def __init__(self) -> None:
        super().__init__()
        self.kill_at = int(os.environ["BENCHMARK_KILL_AT"])
        self.mark = Path(os.environ["BENCHMARK_ROOT"], "killed")

    def train_dataloader(self) -> DataLoader[Any]:
        samples = common.Images(common.NUM_WORKERS * common.BATCH_SIZE * STEPS_PER_EPOCH)
        return DataLoader(samples, batch_size=common.BATCH_SIZE, shuffle=True)

    def training_step(self: Any, batch: list[Tensor], batch_idx: int) -> Tensor:
        step = self.current_epoch * STEPS_PER_EPOCH + batch_idx
        if step == self.kill_at and self.global_rank == 1 and not self.mark.exists():
            self.mark.touch()
            self.stamps.add("kill", 1, step=step)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = self.current_epoch * STEPS_PER_EPOCH + batch_idx
        self.stamps.add("step", self.global_rank, step=step)

    def on_train_end(self: Any) -> None:
        self.stamps.add("end", self.global_rank)
