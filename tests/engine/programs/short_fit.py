"""A user's script on two workers; tells which cluster it was on."""

import json
from pathlib import Path

import ray
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import raylight as pl


class Numbers(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        return torch.full((4,), index / 16)


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


if __name__ == "__main__":
    trainer = pl.Trainer(num_workers=2, accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False)
    trainer.fit(Model(), DataLoader(Numbers(), batch_size=2, shuffle=True))
    assert Path(trainer.checkpoint_callback.best_model_path).exists()
    address = ray.get_runtime_context().gcs_address
    Path("report.json").write_text(json.dumps({"global_step": trainer.global_step, "address": address}))
