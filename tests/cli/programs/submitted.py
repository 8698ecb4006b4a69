"""A script for Lightning that notes each step it trains, and its weights at the end."""

import json
import os
import sys
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

REPORT = Path(os.environ["REPORT"])


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5))

    def training_step(self, batch, batch_idx):
        time.sleep(float(os.environ.get("SECONDS_PER_STEP", "0")))
        if self.global_rank == 0:
            with REPORT.with_suffix(".steps").open("a") as file:
                file.write(f"{self.global_step}\n")
        loss = self.layer(batch).square().mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


if sys.argv[1:] == ["fails"]:
    sys.exit(7)
pl.seed_everything(1)
model = Model()
trainer = pl.Trainer(max_epochs=4, enable_model_summary=False, log_every_n_steps=1)
trainer.fit(model, DataLoader(torch.randn(120, 1), batch_size=1, shuffle=True))
weights = [parameter.item() for parameter in model.parameters()]
told = {"weights": weights, "steps": trainer.global_step, "workers": trainer.world_size, "log_dir": trainer.log_dir}
told["secret"] = os.environ.get("MY_TOKEN")
REPORT.write_text(json.dumps(told))
