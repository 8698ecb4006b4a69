"""Train a small convolutional network on handwritten digits, on two workers.

    python examples/digits.py                    # scikit-learn's 1797 real digits of 8x8 pixels; nothing to download
    python examples/digits.py --data-dir data    # MNIST, in the files everyone has (idx, gzipped or not)
    python examples/digits.py --devices 4        # four workers; with GPUs, four GPUs

It is a plain Lightning script: only the import below names raylight.
"""

from __future__ import annotations

import argparse
import time

import torch
from digit_images import load_images  # the file beside this one
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, random_split

import raylight as pl
from raylight.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from raylight.loggers import TensorBoardLogger


class DigitsDataModule(pl.LightningDataModule):
    """Scikit-learn's digits, or the MNIST files found in ``data_dir``."""

    def __init__(self, data_dir: str | None = None, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.data_dir = data_dir
        self.batch_size = batch_size  # per worker: a step with 2 workers sees twice as many samples
        self.seed = seed

    def setup(self, stage: str | None = None) -> None:
        # Runs in every worker. The seed makes all of them split alike, so that no test sample is trained on elsewhere.
        generator = torch.Generator().manual_seed(self.seed)
        rest, self.test_set = load_images(self.data_dir, generator)
        self.train_set, self.val_set = random_split(rest, [0.9, 0.1], generator)

    # No DistributedSampler: the trainer gives each worker its own part.
    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_set, batch_size=256)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test_set, batch_size=256)


class DigitClassifier(pl.LightningModule):
    """Two convolutions and a linear layer, for images of 8x8 pixels or more."""

    def __init__(self, lr: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters()  # self.hparams.lr; written into checkpoints and to TensorBoard
        self.network = nn.Sequential(
            nn.Conv2d(1, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(4),  # whatever the image's size, 4x4 from here on
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(64 * 4 * 4, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log_quality(batch, "val")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log_quality(batch, "test")

    def log_quality(self, batch: list[Tensor], stage: str) -> None:
        images, labels = batch
        logits = self(images)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        # sync_dist: the mean over the samples of all workers, not only of this one's
        metrics = {f"{stage}_loss": F.cross_entropy(logits, labels), f"{stage}_acc": accuracy}
        self.log_dict(metrics, prog_bar=True, sync_dist=True, batch_size=len(labels))

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=self.hparams.lr, total_steps=int(self.trainer.estimated_stepping_batches)
        )
        # "step": the schedule moves after every optimizer step, not after every epoch
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class StepRate(Callback):
    """Optimizer steps per second over the whole training, validation included."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Set in the worker; a callback's attributes come back to the script with the result of fit().
        self.steps_per_second = trainer.global_step / (time.perf_counter() - self.started)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=32, help="samples per worker and batch")
    parser.add_argument("--lr", type=float, default=1e-2, help="highest learning rate of the schedule")
    parser.add_argument("--devices", type=int, default=2, help="workers: one GPU each, or a share of the CPU cores")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--data-dir", help="folder with MNIST files; without it, scikit-learn's digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logdir", default="logs", help="folder for TensorBoard and checkpoints")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    pl.seed_everything(args.seed)
    model = DigitClassifier(args.lr)
    data = DigitsDataModule(args.data_dir, args.batch_size, args.seed)
    checkpoint = ModelCheckpoint(monitor="val_acc", mode="max")
    step_rate = StepRate()
    logger = TensorBoardLogger(args.logdir, name="digits")

    trainer = pl.Trainer(
        devices=args.devices,
        precision=args.precision,
        accumulate_grad_batches=2,  # an optimizer step every second batch
        max_epochs=args.epochs,
        log_every_n_steps=5,
        callbacks=[checkpoint, LearningRateMonitor(logging_interval="step"), step_rate],
        logger=logger,
    )
    trainer.fit(model, datamodule=data)  # the script goes on when all workers are done
    (metrics,) = trainer.test(model, datamodule=data, ckpt_path="best")

    print(f"test accuracy     {metrics['test_acc']:.4f}")
    print(f"steps per second  {step_rate.steps_per_second:.1f}")
    print(f"best checkpoint   {checkpoint.best_model_path}")
    print(f"curves            tensorboard --logdir {logger.log_dir}")


if __name__ == "__main__":  # worker processes may import this file
    main()
