"""What the programs of ``sweeps.py`` share: sixteen short trials, two at a time, of the network in ``common.py``.

A program is started with the variables that ``common.py`` tells of.
"""

from __future__ import annotations

import os
from typing import Any

from common import BATCH_SIZE, ClassifierParts, Images, Stamps
from torch import Tensor
from torch.utils.data import DataLoader

NUM_TRIALS = 16
AT_A_TIME = 2
NUM_EPOCHS = 2
STEPS_PER_EPOCH = 24
STRETCH = 8
RATES = [0.001 * (number + 1) for number in range(NUM_TRIALS)]
FLAGS: dict[str, Any] = {
    "accelerator": "cpu", "max_epochs": NUM_EPOCHS, "num_sanity_val_steps": 0, "logger": False,
    "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


class TrialParts(ClassifierParts):
    """Goes before a ``LightningModule``; stamps carry the process in place of a rank."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.steps = 0

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Images(BATCH_SIZE * STEPS_PER_EPOCH), batch_size=BATCH_SIZE)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Images(BATCH_SIZE), batch_size=BATCH_SIZE)

    def training_step(self: Any, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.steps == 0:
            self.stamps.add("first_step", os.getpid())
        elif batch_idx % STRETCH == 0:
            self.stamps.add(f"stretch {batch_idx}", os.getpid())
        self.steps += 1
        return super().training_step(batch, 1)  # it stamps by itself otherwise

    def validation_step(self: Any, batch: list[Tensor], batch_idx: int) -> None:
        super().validation_step(batch, 1)

    def on_train_end(self: Any) -> None:
        self.stamps.add("trial_end", os.getpid())


def stamp_call() -> None:
    """The search is asked for now."""
    Stamps().add("call")
