"""A line to fit, and points on one."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

import raylight as pl

FLAGS: dict[str, Any] = {"accelerator": "cpu", "logger": False, "log_every_n_steps": 1}


class Points(pl.LightningDataModule):
    def __init__(self, batch_size: int = 8, shuffle: bool = False) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.shuffle = shuffle

    def setup(self, stage: str) -> None:
        x = torch.linspace(-1, 1, 32).reshape(-1, 1)
        self.points = TensorDataset(x, 2 * x)

    def train_dataloader(self) -> Any:
        return DataLoader(self.points, batch_size=self.batch_size, shuffle=self.shuffle)

    def val_dataloader(self) -> Any:
        return DataLoader(self.points, batch_size=32)


class Line(pl.LightningModule):
    """Its weight is 0 at first, so that every trial begins alike."""

    def __init__(self, lr: float = 0.1, momentum: float = 0.0, gamma: float | None = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.layer.weight)

    def loss(self, batch: Any) -> Any:
        x, y = batch
        return (self.layer(x) - y).pow(2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=self.hparams["momentum"])
        if self.hparams["gamma"] is None:
            return optimizer
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, self.hparams["gamma"])]


class Guarded(Line):
    """Needs to be let in."""

    def __init__(self, lr: float, token: str) -> None:
        super().__init__(lr)
        self.save_hyperparameters()
        if token != TOKEN:
            raise PermissionError(token)


TOKEN = "open-sesame-4711"
