"""A run on nodes of a cluster of its own, one of which is to be drained while the run is at work.

Usage: drained_node.py KIND

KIND: "fixed": two workers, and a third node that takes the place; "elastic": one or two workers on two nodes, of which
one is drained and ends, and a new one comes; "undisturbed": two workers, no node ends. The result is printed as JSON.
"""

import json
import sys
import threading
import time
from pathlib import Path

import ray
import torch
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from torch.utils.data import DataLoader

import raylight as pl
from raylight.engine import pool

PREEMPTION = 2
"""A reason to drain a node, by Ray's protocol: one that the node cannot refuse."""


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        if self.global_step == 30:
            Path("reached").touch()
        if self.global_step >= 30 and not Path("go").exists():
            threading.Event().wait(0.5)
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def drain(cluster: Cluster, node_id: str, seconds: float) -> None:
    deadline = int((time.time() + seconds) * 1000)
    accepted, why = GcsClient(address=cluster.address).drain_node(node_id, PREEMPTION, "spot", deadline)
    assert accepted, why


def wait_for(condition) -> None:
    while not condition():
        threading.Event().wait(0.05)


def main() -> None:
    kind = sys.argv[1]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2 if kind == "elastic" else 3)]
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()

    def disturb() -> None:
        wait_for(Path("reached").exists)
        if kind != "undisturbed":
            leaving = pool.workers_at_work()[1].node_id
            drain(cluster, leaving, seconds=60)
            wait_for(lambda: len(at_work := pool.workers_at_work()) and leaving not in {w.node_id for w in at_work})
            cluster.remove_node(next(node for node in nodes if node.node_id == leaving))
        if kind == "elastic":
            assert len(pool.workers_at_work()) == 1
            cluster._shutdown_at_exit = False  # what ends it at exit can be set up in the main thread only
            cluster.add_node(num_cpus=1)
            wait_for(lambda: len(pool.workers_at_work()) == 2)
        Path("go").touch()

    threading.Thread(target=disturb, daemon=True).start()
    pl.seed_everything(1)
    model = Model()
    trainer = pl.Trainer(
        num_workers=(1, 2) if kind == "elastic" else 2, accelerator="cpu", max_epochs=3, logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, elastic_wait=1,
        max_failures=1,
    )  # fmt: skip
    trainer.fit(model, DataLoader(torch.randn(64, 1), batch_size=1, shuffle=True))
    weights = [value.flatten().tolist() for value in model.state_dict().values()]
    incidents = [incident.what for incident in trainer.incidents]
    trainer.shutdown()
    print(json.dumps({"weights": weights, "incidents": incidents, "steps": trainer.global_step}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
