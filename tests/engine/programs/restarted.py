"""Fits on one Ray after the other, in one process that was told of no cluster. The result is printed as JSON."""

import json
import os

import ray
import torch
from torch.utils.data import DataLoader

import raylight as pl
from raylight.engine.cluster import session
from raylight.utilities.exceptions import ResourceError


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Users:
    """An actor of the user's."""

    def answer(self):
        return "alive"


def fit(cpus=1, **flags):
    """Train on two workers; steps, and the session."""
    trainer = pl.Trainer(
        num_workers=2, resources_per_worker={"CPU": cpus}, accelerator="cpu", max_epochs=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **flags,
    )  # fmt: skip
    trainer.fit(Model(), DataLoader(torch.zeros(8, 1), batch_size=2))
    return trainer.global_step, session()


def main():
    first = fit()
    larger = fit(cpus=os.cpu_count())  # raylight starts another one
    ray.shutdown()
    ray.init(num_cpus=2)
    users = fit()
    actor = ray.remote(num_cpus=0)(Users).remote()
    try:
        fit(cpus=2, resource_timeout=1)
        refused = ""
    except ResourceError as error:
        refused = str(error)
    own = session()
    alive = ray.get(actor.answer.remote())
    ray.shutdown()
    again = fit()
    fits = [first, larger, users, again]
    print(json.dumps({
        "steps": [steps for steps, _ in fits], "sessions": len({name for _, (name, _) in fits}),
        "jobs": len({job for _, (_, job) in fits}), "refused": refused, "alive": alive,
        "is_users": own == users[1],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
