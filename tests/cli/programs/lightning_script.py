"""A script that trains with Lightning, and knows nothing of a sweep."""

import argparse

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class Points(pl.LightningDataModule):
    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        x = torch.linspace(-1, 1, 32).reshape(-1, 1)
        return DataLoader(TensorDataset(x, 2 * x), batch_size=self.batch_size)

    val_dataloader = train_dataloader


class Base(pl.LightningModule):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale


class Line(Base):
    def __init__(self, lr, scale=1.0):
        super().__init__(scale * 2)  # not what Line itself was given
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return (self.layer(batch[0]) - batch[1]).pow(2).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", (self.layer(batch[0]) - batch[1]).pow(2).mean())
        self.log("scale", self.scale)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=50)
    args = parser.parse_args()
    trainer = pl.Trainer(
        max_epochs=args.epochs, accelerator="cpu", devices=1, logger=False, default_root_dir="elsewhere"
    )
    trainer.fit(Line(lr=1e-6, scale=3.0), datamodule=Points(16))
    raise AssertionError("the sweep takes the place of all this")
