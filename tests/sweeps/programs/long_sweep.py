"""A sweep of four trials, of which the last two wait in their third epoch until a file ``go`` is there.

Usage: long_sweep.py run|resume

``blocked-N`` appears when trial N waits. ``epochs-N`` has a line per epoch that trial N has begun. In the end
``result.json`` tells what came of it.
"""

import json
import sys
import time
from pathlib import Path

import torch
from ray import tune
from torch.utils.data import DataLoader, TensorDataset

import raylight as pl


class Line(pl.LightningModule):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.layer = torch.nn.Linear(1, 1)

    def on_train_epoch_start(self):
        with open(f"epochs-{self.number}", "a") as file:
            file.write(f"{self.current_epoch}\n")
        while self.current_epoch == 2 and self.number >= 2 and not Path("go").exists():
            Path(f"blocked-{self.number}").touch()
            time.sleep(0.05)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", float(self.number + (self.current_epoch != 1)))  # the second epoch is the best

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(8, 1)), batch_size=4)

    val_dataloader = train_dataloader


def main() -> None:
    if sys.argv[1] == "run":
        flags = {"max_epochs": 4, "accelerator": "cpu", "logger": False}
        space = {"number": tune.grid_search([0, 1, 2, 3])}
        settings = {"num_samples": 1, "scheduler": None, "storage": "sweeps", "name": "long", "verbose": False}
        result = pl.sweep(Line, space, trainer=flags, **settings)
    else:
        result = pl.sweep.resume("sweeps/long")
    told = {
        "interrupted": result.interrupted,
        "states": [trial.status for trial in result.trials],
        "reports": [[report["epoch"] for report in trial.reports] for trial in result.trials],
        "best": result.best_params,
        "best_epochs": [
            torch.load(result.dataframe().best_checkpoint[n], weights_only=True)["epoch"] for n in range(4)
        ],
    }
    Path("result.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
