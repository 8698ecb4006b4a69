"""What comes back from a worker, tried without one: packed from a run in this process, unpacked into fresh objects."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch

import raylight as pl
from raylight.callbacks import Callback
from raylight.config.messages import Outcome
from raylight.engine import homeward


class Aliased(small_models.Linear):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = [self.layer, torch.nn.ReLU()]
        self.apply_layer = self.layer.forward
        self.losses: list[float] = []
        self.lock = None

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss


class Remembering(Callback):
    def __init__(self) -> None:
        self.seen: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.seen = [trainer, pl_module, pl_module.layer.weight]
        self.lock = threading.Lock()


def run_and_unpack(root: Path) -> tuple[pl.Trainer, Aliased, Remembering]:
    """The objects of a fresh job, after the outcome of another, like it, has been put into them."""
    trainer = pl.Trainer(
        **small_models.QUIET, launcher="local", max_epochs=1, callbacks=Remembering(), default_root_dir=root
    )
    trainer.fit(Aliased(), small_models.batches())
    run = trainer.run
    assert run is not None
    outcome = homeward.pack(run, Outcome(run.state))
    model, callback = Aliased(), Remembering()
    model.trainer = trainer
    homeward.unpack(outcome, dataclasses.replace(run.job, model=model, callbacks=[callback]))
    return trainer, model, callback


def test_aliases_of_submodules_stay_aliases(tmp_path: Path) -> None:
    trainer, model, _ = run_and_unpack(tmp_path)
    assert model.blocks[0] is model.layer
    assert model.apply_layer.__self__ is model.layer
    assert torch.equal(model.layer.weight, trainer.lightning_module.layer.weight)


def test_plain_attributes_come_back(tmp_path: Path) -> None:
    trainer, model, _ = run_and_unpack(tmp_path)
    assert model.losses == trainer.lightning_module.losses
    assert len(model.losses) == 8


def test_references_become_the_users_own_objects(tmp_path: Path) -> None:
    trainer, model, callback = run_and_unpack(tmp_path)
    assert callback.seen[0] is trainer
    assert callback.seen[1] is model
    assert callback.seen[2] is model.layer.weight
    assert not hasattr(callback, "lock")  # cannot be pickled, and belonged to the worker


def test_what_is_too_large_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homeward, "LARGEST", 50)
    with pytest.warns(UserWarning, match=r"Too large to come back.*Aliased\.losses"):
        _, model, _ = run_and_unpack(tmp_path)
    assert model.losses == []
