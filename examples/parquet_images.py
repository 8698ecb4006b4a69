"""Train on images in a Parquet file, which Ray Data reads for two workers, and write the predictions as Parquet.

    python examples/parquet_images.py               # on a machine of two cores or more
    python examples/parquet_images.py --stream      # read the files anew in each epoch, as data that fills no memory

The images are scikit-learn's handwritten digits; with a path such as s3://bucket/images they can be any others.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import raylight as pl
from raylight.data import RayDataLoader


def write_images(folder: Path) -> None:
    """Two Parquet files, "train" and "test", of rows (image, label)."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = pa.FixedShapeTensorArray.from_numpy_ndarray(digits.images[order].astype(np.float32))
    rows = pa.table({"image": images, "label": digits.target[order]})
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows.slice(0, 1400), folder / "train.parquet", row_group_size=200)
    pq.write_table(rows.slice(1400), folder / "test.parquet", row_group_size=200)


class Classifier(pl.LightningModule):
    """A small convolutional network for images of 8x8 pixels."""

    def __init__(self, lr: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(
            nn.Conv2d(1, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 10),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.unsqueeze(1) / 16)

    # A batch is a dict of tensors, one for each column.
    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch["image"]), batch["label"])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        correct = self(batch["image"]).argmax(dim=1) == batch["label"]
        self.log("val_acc", correct.float().mean(), prog_bar=True, batch_size=len(correct))

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        probabilities = self(batch["image"]).softmax(dim=1)
        # A row for each image, a column for each key.
        return {"label": batch["label"], "predicted": probabilities.argmax(dim=1), "probabilities": probabilities}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=32, help="images per worker and batch")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--stream", action="store_true", help="do not keep the images in Ray's memory")
    parser.add_argument("--folder", type=Path, default=Path("parquet_images"), help="for images and predictions")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    pl.seed_everything(0)
    folder = args.folder.absolute()  # Ray's tasks may have another working directory
    write_images(folder)
    train = ray.data.read_parquet(str(folder / "train.parquet"))
    test = ray.data.read_parquet(str(folder / "test.parquet"))
    if not args.stream:
        train, test = train.materialize(), test.materialize()

    trainer = pl.Trainer(
        devices=args.workers,
        # Ray Data needs CPUs as well: the workers must not take them all.
        resources_per_worker=None if args.workers == 1 else {"CPU": 0.5},
        max_epochs=args.epochs,
        logger=False,
    )
    model = Classifier()
    val_batches = RayDataLoader(test, batch_size=64)
    trainer.fit(
        model,
        # Each worker takes its batches at random from those 256 or more rows that it has at hand.
        train_dataloaders=RayDataLoader(train, args.batch_size, local_shuffle_buffer_size=256),
        val_dataloaders=val_batches,
    )

    predictions = folder / "predictions"
    shutil.rmtree(predictions, ignore_errors=True)  # of an earlier run: other weights
    trainer.predict(model, val_batches, write_to=predictions)
    rows = pq.read_table(predictions)
    correct = np.equal(rows["predicted"], rows["label"])
    print(f"predictions    {rows.num_rows} rows in {predictions}")
    print(f"test accuracy  {correct.mean():.4f}")


if __name__ == "__main__":  # worker processes may import this file
    main()
