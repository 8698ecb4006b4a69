"""A run of which Ray's memory monitor kills a worker: one that takes more memory than is left, once.

The result is printed as JSON.
"""

import json
from pathlib import Path

import psutil
import ray
import torch
from torch.utils.data import DataLoader

import raylight as pl

ROOM = 3 * 2**30
"""Bytes that may still be taken when the run begins."""


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        if self.global_step == 20 and self.trainer.global_rank == 1 and not Path("greedy").exists():
            Path("greedy").touch()
            self.taken = [torch.ones(2**28, dtype=torch.uint8) for _ in range(ROOM // 2**28 + 8)]
            torch.distributed.recv(torch.zeros(1), src=0)  # waits to be killed
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def main() -> None:
    memory = psutil.virtual_memory()
    threshold = (memory.total - memory.available + ROOM) / memory.total
    settings = {"memory_usage_threshold": threshold, "memory_monitor_refresh_ms": 100}
    ray.init(num_cpus=2, log_to_driver=False, object_store_memory=2**28, _system_config=settings)
    pl.seed_everything(1)
    model = Model()
    trainer = pl.Trainer(
        num_workers=2, accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, snapshot_every_n_steps=5,
    )  # fmt: skip
    trainer.fit(model, DataLoader(torch.randn(64, 1), batch_size=1, shuffle=True))
    incidents = [incident.what for incident in trainer.incidents]
    trainer.shutdown()
    print(json.dumps({"incidents": incidents, "steps": trainer.global_step}))


if __name__ == "__main__":
    main()
