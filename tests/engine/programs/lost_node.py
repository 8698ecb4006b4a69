"""A run on two nodes of a cluster of its own, one of which is lost in the middle; a third one takes its place.

Usage: lost_node.py KIND

KIND: "killed" ends the node at once; "undisturbed" does not. The result is printed as JSON.
"""

import json
import sys
import threading
from pathlib import Path

import ray
import torch
from ray.cluster_utils import Cluster
from torch.utils.data import DataLoader

import raylight as pl
from raylight.engine import pool


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5))

    def training_step(self, batch, batch_idx):
        if self.trainer.global_step == 30:
            Path("reached").touch()
        if self.trainer.global_step >= 30 and not Path("go").exists():
            threading.Event().wait(0.2)
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def main() -> None:
    kind = sys.argv[1]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()

    def disturb() -> None:
        while not Path("reached").exists():
            threading.Event().wait(0.05)
        if kind == "killed":
            lost = pool.workers_at_work()[1].node_id
            cluster.remove_node(next(node for node in nodes if node.node_id == lost), allow_graceful=False)
        Path("go").touch()

    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    pl.seed_everything(1)
    model = Model()
    trainer = pl.Trainer(
        num_workers=2, accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, snapshot_every_n_steps=5,
    )  # fmt: skip
    trainer.fit(model, DataLoader(torch.randn(64, 1), batch_size=1, shuffle=True))
    weights = [value.flatten().tolist() for value in model.state_dict().values()]
    incidents = [(incident.step, incident.seconds, incident.what) for incident in trainer.incidents]
    trainer.shutdown()
    print(json.dumps({"weights": weights, "incidents": incidents, "steps": trainer.global_step}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
