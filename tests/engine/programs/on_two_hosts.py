"""The driver of ``two_hosts.py``: two workers, first on a host each, then on the driver's alone."""

import json
import os
from pathlib import Path

import torch
from torch.utils.data import DataLoader

import raylight as pl


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.places = []

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("loss", loss, on_epoch=True)
        return loss

    def on_train_start(self):
        own = (self.global_rank, self.local_rank, self.trainer.node_rank, os.listdir())
        self.places = self.trainer.strategy.all_gather_object(own)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def fit(folder, **placement):
    pl.seed_everything(1)
    model = Model()
    data = DataLoader(torch.randn(64, 4), batch_size=2, shuffle=True)
    with pl.Trainer(
        accelerator="cpu", max_epochs=2, default_root_dir=folder, enable_progress_bar=False, launcher="ray",
        enable_model_summary=False, **placement,
    ) as trainer:  # fmt: skip
        trainer.fit(model, data)
    weights = [each.tolist() for each in model.parameters()]
    files = sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*.ckpt"))
    return {"places": model.places, "steps": trainer.global_step, "weights": weights, "files": files}


if __name__ == "__main__":
    apart, together = fit("apart", devices=1, num_nodes=2), fit("together", devices=2)
    print(json.dumps({"apart": apart, "together": together}))
