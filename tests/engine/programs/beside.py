"""Runs on workers of another node, which cannot import the modules beside the script: their files are gone.

To be started in an empty folder. The result is printed as JSON.
"""

import importlib
import json
import os
import sys
from pathlib import Path

import ray
import torch
from ray.cluster_utils import Cluster
from torch.utils.data import DataLoader

import raylight as pl
from raylight.utilities.exceptions import UnpicklableError

MODELS = """
import torch
import raylight as pl
from own.helpers import Helper, word

class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, batch_idx):
        self.said, self.helper = word(), Helper()
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
"""
HELPERS = """
WORD = "first"

class Helper:
    pass

def word():
    return WORD
"""
LOCKED = """
import threading
from models import Model

LOCK = threading.Lock()

class Locked(Model):
    def training_step(self, batch, batch_idx):
        with LOCK:
            return super().training_step(batch, batch_idx)
"""


def write(folder: Path) -> None:
    (folder / "own").mkdir(parents=True)
    (folder / "own" / "__init__.py").touch()
    (folder / "own" / "helpers.py").write_text(HELPERS)
    (folder / "models.py").write_text(MODELS)
    (folder / "locked.py").write_text(LOCKED)


def fit(model: pl.LightningModule) -> pl.LightningModule:
    """On workers that have imported nothing yet."""
    trainer = pl.Trainer(
        num_workers=2, accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with trainer:
        trainer.fit(model, DataLoader(torch.randn(8, 1)))
    return model


def error_of(model: pl.LightningModule) -> str:
    try:
        fit(model)
    except UnpicklableError as error:
        return str(error)
    return ""


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    result = {}
    folder = Path("modules").resolve()
    write(folder)
    sys.path.insert(0, str(folder))
    models, locked = importlib.import_module("models"), importlib.import_module("locked")
    helpers = sys.modules["own.helpers"]

    result["by_name"] = fit(models.Model()).said
    (folder / "own" / "helpers.py").write_text(HELPERS.replace("first", "second"))
    result["edited"] = fit(models.Model()).said
    os.rename(folder, "elsewhere")
    model = fit(models.Model())
    result["gone"] = model.said
    result["same_class"] = type(model.helper) is helpers.Helper
    result["locked"] = error_of(locked.Locked())
    library = Path("site-packages").resolve()
    os.rename("elsewhere", library)
    for name in ("models", "locked", "own", "own.helpers"):
        del sys.modules[name]
    sys.path[0] = str(library)
    models = importlib.import_module("models")
    os.rename(library, "nowhere")
    result["not_there"] = error_of(models.Model())
    print(json.dumps(result))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
