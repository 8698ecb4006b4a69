"""A script for Lightning on two workers: its classes, and a module beside it, say ``pytorch_lightning`` throughout."""

import json
from pathlib import Path

import pytorch_lightning as pl
import torch
from lightning.pytorch.callbacks.callback import Callback
from ray_helper import Base
from torch.utils.data import DataLoader, Dataset


class Numbers(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        import lightning.pytorch  # in a process that the worker starts to load data

        assert lightning.pytorch.Trainer is pl.Trainer
        return torch.full((4,), index / 16)


class Model(Base):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.seen = []

    def on_train_start(self):
        import pytorch_lightning

        self.seen = [
            self.trainer.world_size,
            pytorch_lightning.LightningModule.__module__,
            pytorch_lightning.__version__,
        ]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Counter(Callback):
    steps = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert isinstance(pl_module, pl.LightningModule)
        self.steps += 1


if __name__ == "__main__":
    model, counter = Model(), Counter()
    trainer = pl.Trainer(
        devices=2,
        accelerator="cpu",
        strategy="ddp",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[counter],
    )
    trainer.fit(model, DataLoader(Numbers(), batch_size=2, num_workers=1))
    report = {"steps": counter.steps, "global_step": trainer.global_step, "seen": model.seen}
    Path("report.json").write_text(json.dumps(report))
