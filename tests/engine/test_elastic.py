"""The number of workers changes while a run is at work."""

from __future__ import annotations

import collections
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import QUIET
from torch.utils.data import DataLoader, TensorDataset

import raylight as pl
from raylight.utilities.exceptions import MisconfigurationException

pytestmark = [pytest.mark.ray, pytest.mark.timeout(150)]
SAMPLES, BATCH, EPOCHS = 96, 2, 3


class Model(pl.LightningModule):
    """Writes down what each step was trained on; steps of a lone worker wait for others for a while."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        features, indices = batch
        loss = self.layer(features).square().mean()
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        seen = [] if self.trainer.run.train_data.in_shadow else indices.tolist()  # a batch that does not count
        line = [os.environ["MASTER_PORT"], self.global_step, self.current_epoch, float(loss), seen]
        with Path(f"ledger-{os.getpid()}").open("a") as ledger:
            ledger.write(json.dumps(line) + "\n")
        killed = Path("killed")
        if killed.exists() and killed.read_text() != line[0] and not Path("grown").exists():
            if self.trainer.world_size == 2:
                Path("grown").touch()
            else:
                threading.Event().wait(0.5)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch[0]).square().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60), "interval": "step"}
        ]


def loader(shuffle: bool = True) -> DataLoader[Any]:
    features = torch.randn(SAMPLES, 2, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(features, torch.arange(SAMPLES)), batch_size=BATCH, shuffle=shuffle)


class KillOnce(pl.Callback):
    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 7 and not Path("killed").exists():
            Path("killed").write_text(os.environ["MASTER_PORT"])
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder: str, num_workers: Any, *callbacks: Any, **flags: Any) -> tuple[pl.Trainer, Model]:
    Path(folder).mkdir()
    os.chdir(folder)
    pl.seed_everything(3, verbose=False)
    model = Model()
    settings = {"num_workers": num_workers, "max_epochs": EPOCHS, "snapshot_every_n_steps": 2, "elastic_wait": 0}
    trainer = pl.Trainer(**{**QUIET, **settings, "callbacks": list(callbacks), **flags})
    trainer.fit(model, loader(), loader(shuffle=False))
    os.chdir("..")
    return trainer, model


def what_counts(folder: str) -> list[list[Any]]:
    """Lines of the attempt that was the last to do a step."""
    lines = [json.loads(line) for file in Path(folder).glob("ledger-*") for line in file.read_text().splitlines()]
    rounds = collections.defaultdict(set)
    for port, step, *_ in lines:
        rounds[port].add(step)
    order = sorted(rounds, key=lambda port: max(rounds[port]))
    last = {step: port for port in order for step in rounds[port]}
    return [line for line in lines if last[line[1]] == line[0]]


def curve(folder: str) -> list[float]:
    losses = collections.defaultdict(list)
    for _, step, _, loss, _ in what_counts(folder):
        losses[step].append(loss)
    return [sum(losses[step]) / len(losses[step]) for step in sorted(losses)]


def assert_each_sample_once(folder: str) -> None:
    seen: dict[int, list[int]] = collections.defaultdict(list)
    for _, _, epoch, _, indices in what_counts(folder):
        seen[epoch] += indices
    assert {epoch: sorted(indices) for epoch, indices in seen.items()} == {
        epoch: list(range(SAMPLES)) for epoch in range(EPOCHS)
    }


def sizes(trainer: pl.Trainer) -> list[str]:
    return [incident.what for incident in trainer.incidents if incident.what.startswith("The run goes on with")]


@pytest.mark.parametrize("accumulate", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_two_one_two(ray_cluster: str, accumulate: int) -> None:
    """A worker is killed, the other goes on alone until there is another: every number is that of two."""
    flags = {"accumulate_grad_batches": accumulate, "val_check_interval": 0.5}
    fixed, expected = train("fixed", 2, **flags)
    elastic, model = train("elastic", (1, 2), KillOnce(), **flags)
    assert sizes(elastic) == [
        "The run goes on with 1 worker; it had 2.",
        "The run goes on with 2 workers; it had 1.",
    ]
    assert_each_sample_once("elastic")
    torch.testing.assert_close(curve("elastic"), curve("fixed"), atol=1e-5, rtol=0)
    assert elastic.global_step == fixed.global_step
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-5, rtol=0)
    for name in ("loss", "val_loss"):
        torch.testing.assert_close(elastic.callback_metrics[name], fixed.callback_metrics[name], atol=1e-5, rtol=0)
    elastic.shutdown()


@pytest.mark.slow
def test_local_batch(ray_cluster: str) -> None:
    """Each worker's batch stays: fewer take more steps in an epoch, and still each sample once."""
    trainer, _ = train("elastic", (1, 2), KillOnce(), elastic="local_batch")
    assert len(sizes(trainer)) == 2
    assert trainer.global_step > EPOCHS * SAMPLES / BATCH / 2
    assert_each_sample_once("elastic")
    trainer.shutdown()


@pytest.mark.slow
def test_starts_with_what_is_free(ray_cluster: str) -> None:
    """Of four workers the cluster has room for two: these do the steps of four."""
    trainer, model = train("two", (1, 4))
    lines = what_counts("two")
    assert trainer.global_step == EPOCHS * SAMPLES / BATCH / 4
    assert {len([line for line in lines if line[1] == step]) for step in range(trainer.global_step)} == {4}
    assert_each_sample_once("two")
    trainer.shutdown()


@pytest.mark.slow
def test_a_file_of_other_workers_goes_on_within_the_epoch(ray_cluster: str) -> None:
    _, expected = train("fixed", (1, 2))

    class Saves(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 5:
                trainer.save_checkpoint("here.ckpt")

    train("first", (1, 2), Saves(), max_epochs=1)
    os.chdir("first")
    model = Model()
    trainer = pl.Trainer(**{**QUIET, "num_workers": (1, 2), "max_epochs": EPOCHS, "resources_per_worker": {"CPU": 2}})
    trainer.fit(model, loader(), loader(shuffle=False), ckpt_path="here.ckpt")
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-5, rtol=0)
    trainer.shutdown()


def test_manual_optimization_is_refused(ray_cluster: str) -> None:
    class Manual(Model):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(MisconfigurationException, match="not possible in manual optimization"):
        pl.Trainer(**{**QUIET, "num_workers": (1, 2)}).fit(Manual(), loader(), loader())
