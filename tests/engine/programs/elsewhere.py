"""Runs whose workers are on a node that has another file system in place of the driver's working directory.

The second's default_root_dir, beside that, is seen by all.

To be started in an empty folder, with the right to mount. The result is printed as JSON.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import ray
import torch
from ray.cluster_utils import Cluster
from torch.utils.data import DataLoader

import raylight as pl


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.log("loss", loss, on_epoch=True, sync_dist=True)
        return loss

    def on_train_epoch_start(self):
        self.seen = os.listdir()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)


def trainer(max_epochs: int, root: str) -> pl.Trainer:
    checkpoint = pl.callbacks.ModelCheckpoint("files", monitor="loss_epoch", save_top_k=2, save_last=True)
    return pl.Trainer(
        num_workers=2, accelerator="cpu", max_epochs=max_epochs, callbacks=[checkpoint], enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=root,
    )  # fmt: skip


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    start = f"{sys.executable} -m ray.scripts.scripts start --address {cluster.address} --num-cpus 2 --block"
    node = subprocess.Popen(["unshare", "--mount", "sh", "-c", f"mount -t tmpfs none '{os.getcwd()}' && exec {start}"])
    Path("drivers").touch()
    Path("../shared").mkdir()
    ray.init(address=cluster.address, log_to_driver=False)
    pl.seed_everything(1)
    model = Model()
    data = DataLoader(torch.randn(32, 1), batch_size=1)
    with trainer(2, ".") as first:
        first.fit(model, data)
        seen = model.seen
        best = torch.load(first.checkpoint_callback.best_model_path, weights_only=True)["epoch"]
        again = trainer(3, "../shared")
        again.fit(model, data, ckpt_path="last")
    result = {
        "seen": seen, "best": best, "steps": again.global_step,
        "files": sorted(str(path) for path in Path("files").iterdir()),
        "logs": [len(list(Path(root, "lightning_logs").rglob("events.*"))) for root in (".", "../shared")],
    }  # fmt: skip
    print(json.dumps(result))
    ray.shutdown()
    node.terminate()
    node.wait(30)
    cluster.shutdown()


if __name__ == "__main__":
    main()
