"""Train on two workers until ``over`` appears in the working directory: the run that others look at.

Rank 1 waits longer for its data.
"""

import os
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import raylight as pl


class Slow(Dataset):
    def __len__(self):
        return 200

    def __getitem__(self, index):
        time.sleep(0.01 if os.environ["RANK"] == "1" else 0.001)
        return torch.ones(4)


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        self.trainer.should_stop = self.trainer.is_last_batch and Path("over").exists()
        loss = (self.layer(batch) - 1).square().mean()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.001)


def main():
    trainer = pl.Trainer(
        num_workers=2, max_epochs=-1, log_every_n_steps=2, enable_progress_bar=False, enable_checkpointing=False
    )
    trainer.fit(Model(), DataLoader(Slow(), batch_size=5))


if __name__ == "__main__":
    main()
