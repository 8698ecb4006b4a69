"""One small program that runs under raylight and under Lightning, so that what they leave behind can be compared."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import raylight

NUM_TRAIN_BATCHES = 4


class Program:
    """Models and Trainers of the library ``pl``, with files below ``root``."""

    def __init__(self, pl: ModuleType, root: Path) -> None:
        self.pl = pl
        self.root = root

    def model(self, val_losses: list[float] | None = None, schedule: str | None = None) -> Any:
        return make_model(self.pl, val_losses, schedule)

    def trainer(self, *callbacks: Any, **flags: Any) -> Any:
        """A quiet Trainer on one CPU, in this process."""
        settings: dict[str, Any] = {
            "default_root_dir": str(self.root),
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": any(isinstance(each, self.pl.callbacks.Checkpoint) for each in callbacks),
            "callbacks": list(callbacks),
        }
        if self.pl is raylight:
            settings["launcher"] = "local"
        return self.pl.Trainer(**{**settings, **flags})

    def files(self) -> list[str]:
        """Files below ``root``, relative to it."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir())

    def relative(self, path: str) -> str:
        return str(Path(path).relative_to(self.root)) if path else ""


def make_model(pl: ModuleType, val_losses: list[float] | None = None, schedule: str | None = None) -> Any:
    """A LightningModule of ``pl``: one linear layer, SGD, the same numbers every time.

    Args:
        pl: ``raylight`` or ``pytorch_lightning``.
        val_losses: What the n-th validation logs as "val_loss", the last one for all further; None: no validation.
        schedule: Interval of a scheduler that halves the rate; None: no scheduler.
    """

    class Model(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 1)
            nn.init.constant_(self.layer.weight, 0.1)
            nn.init.zeros_(self.layer.bias)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.layer(batch[0]).square().mean()
            self.log("train_loss", loss)
            return loss

        def train_dataloader(self) -> Any:
            return make_loader()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5, weight_decay=0.01)
            if schedule is None:
                return optimizer
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": schedule}}

    if val_losses is None:
        return Model()

    class ValidatedModel(Model):
        num_validations = 0

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", val_losses[min(self.num_validations, len(val_losses) - 1)])

        def on_validation_epoch_end(self) -> None:
            if not self.trainer.sanity_checking:
                self.num_validations += 1

        def val_dataloader(self) -> Any:
            return make_loader(num_batches=1)

        def test_step(self, batch: Any, batch_idx: int) -> None:
            pass

        def test_dataloader(self) -> Any:
            return make_loader(num_batches=1)

    return ValidatedModel()


def make_loader(num_batches: int = NUM_TRAIN_BATCHES) -> DataLoader[Any]:
    features = torch.arange(num_batches * 8, dtype=torch.float32).reshape(-1, 4) / 100
    return DataLoader(TensorDataset(features), batch_size=2)


@pytest.fixture
def in_raylight(tmp_path: Path) -> Program:
    return Program(raylight, tmp_path)


@pytest.fixture
def same_in_both(tmp_path: Path) -> Callable[[Callable[[Program], Any]], Any]:
    """``same_in_both(run)``: ``run(program)`` returns the same under raylight and under Lightning; this is returned."""

    def compare(run: Callable[[Program], Any]) -> Any:
        outcomes = []
        for pl in (pytorch_lightning, raylight):
            root = tmp_path / pl.__name__
            root.mkdir()
            with warnings.catch_warnings():
                if pl is pytorch_lightning:
                    warnings.simplefilter("ignore")
                    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
                outcomes.append(run(Program(pl, root)))
        lightnings, ours = outcomes
        assert ours == lightnings
        return ours

    return compare
