"""Search for the learning rate, the width and the batch size of a small network on real handwritten digits.

    python examples/sweep_digits.py                     # 12 trials, as many at a time as there are CPUs (or GPUs)
    python examples/sweep_digits.py --scheduler pbt     # trials take over from better ones while they train
    python examples/sweep_digits.py --resume FOLDER     # go on where an interrupted sweep has stopped

Ctrl-C ends it early; what has been found by then is shown and kept.
"""

from __future__ import annotations

import argparse
import os

import torch
from digits import DigitsDataModule  # the file beside this one
from ray import tune
from torch import Tensor, nn
from torch.nn import functional as F

import raylight as pl


class DigitNetwork(pl.LightningModule):
    """Two convolutions of a width to be found. Nothing in it knows of a sweep."""

    def __init__(self, lr: float = 1e-2, width: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(
            nn.Conv2d(1, width, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(4),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * width * 4 * 4, 10),
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self.network(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log_accuracy(batch, "val")

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log_accuracy(batch, "test")

    def log_accuracy(self, batch: list[Tensor], stage: str) -> None:
        images, labels = batch
        accuracy = (self.network(images).argmax(dim=1) == labels).float().mean()
        self.log(f"{stage}_acc", accuracy, batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=6, help="of a trial that is not ended early")
    parser.add_argument("--scheduler", default="asha", choices=["asha", "hyperband", "pbt", "none"])
    parser.add_argument("--workers-per-trial", type=int, default=1)
    parser.add_argument("--storage", default="raylight_sweeps", help="folder of all sweeps")
    parser.add_argument("--plot", default="sweep.png")
    parser.add_argument("--resume", help="folder of an interrupted sweep")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def search(args: argparse.Namespace) -> pl.SweepResult:
    if args.resume:
        return pl.sweep.resume(args.resume)
    space = {"lr": tune.loguniform(1e-4, 1e-1), "batch_size": tune.choice([16, 32, 64])}
    if args.scheduler != "pbt":  # a network that takes over the weights of another must be of its width
        space["width"] = tune.choice([8, 16, 32])
    return pl.sweep(
        DigitNetwork,
        space,
        datamodule=DigitsDataModule,
        trainer={"max_epochs": args.epochs, "log_every_n_steps": 10},
        metric="val_acc",
        mode="max",
        num_samples=args.trials,
        scheduler=None if args.scheduler == "none" else args.scheduler,
        workers_per_trial=args.workers_per_trial,
        storage=args.storage,
    )


def main() -> None:
    args = parse_args()
    pl.seed_everything(args.seed)
    result = search(args)  # shows a table while trials run, and at the end
    result.plot().savefig(args.plot)

    tester = pl.Trainer(devices=1, logger=False, enable_progress_bar=False)
    (metrics,) = tester.test(result.best_model(), datamodule=result.best_datamodule(), verbose=False)
    print(f"best parameters   {', '.join(f'{name}={value:.4g}' for name, value in result.best_params.items())}")
    print(f"best checkpoint   {result.best_checkpoint}")
    print(f"test accuracy     {metrics['test_acc']:.4f}")
    print(f"plot              {os.path.abspath(args.plot)}")
    print(f"curves            tensorboard --logdir {result.path}")


if __name__ == "__main__":  # worker processes may import this file
    main()
