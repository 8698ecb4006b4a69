"""Train until interrupted, then tell what is known: the program that signals are sent to.

Usage: endless_fit.py LAUNCHER NUM_WORKERS [stubborn]

``ready`` appears in the working directory when ten batches are done. A stubborn model never reaches its next batch.
"""

import json
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import raylight as pl


class Model(pl.LightningModule):
    def __init__(self, stubborn: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.stubborn = stubborn
        self.steps_by_rank: list[int] = []

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == 10 and self.global_rank == 0:
            Path("ready").touch()
        while self.stubborn and self.trainer.global_step == 10:
            time.sleep(0.1)  # deaf to every request
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def teardown(self, stage):
        self.steps_by_rank = self.all_gather(torch.tensor(self.trainer.global_step)).flatten().tolist()


class Listener(pl.Callback):
    heard = ""

    def on_exception(self, trainer, pl_module, exception):
        self.heard = type(exception).__name__


def main() -> None:
    launcher, num_workers, *options = sys.argv[1:]
    model, listener = Model("stubborn" in options), Listener()
    trainer = pl.Trainer(
        launcher=launcher,
        devices=int(num_workers),
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[listener],
    )
    before = model.layer.weight.clone()
    loader = DataLoader(TensorDataset(torch.ones(16, 4)), batch_size=2)
    try:
        trainer.fit(model, loader)
    except KeyboardInterrupt as interrupt:
        report = {
            "message": str(interrupt),
            "global_step": trainer.global_step,
            "steps_by_rank": model.steps_by_rank,
            "weights_changed": not torch.equal(model.layer.weight, before),
            "interrupted": trainer.interrupted,
            "heard": listener.heard,
        }
        Path("report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
