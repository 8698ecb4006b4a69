"""MNIST, as torchvision has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, random_split

from raylight.core.datamodule import LightningDataModule


class MNISTDataModule(LightningDataModule):
    """MNIST, with a part of the training images for validation.

    Args:
        data_dir: Where the files are, or are downloaded to.
        val_split: Images for validation.
        num_workers: Processes that load data, per dataloader.
        normalize: From -1 to 1 instead of 0 to 1.
        seed: Decides which images are for validation.
        batch_size: Images per worker per step.
    """

    name = "mnist"
    num_classes = 10

    def __init__(
        self,
        data_dir: str = "./data",
        val_split: int = 5000,
        num_workers: int = 16,
        normalize: bool = False,
        seed: int = 42,
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        self.data_dir = data_dir
        self.val_split = val_split
        self.num_workers = num_workers
        self.normalize = normalize
        self.seed = seed
        self.batch_size = batch_size

    @property
    def default_transforms(self) -> Callable[[Any], Any]:
        """From an image to a tensor."""
        from torchvision import transforms

        scale = [transforms.Normalize(mean=(0.5,), std=(0.5,))] if self.normalize else []
        chain: Callable[[Any], Any] = transforms.Compose([transforms.ToTensor(), *scale])
        return chain

    def prepare_data(self) -> None:
        for train in (True, False):
            self._dataset(train, download=True)

    def setup(self, stage: str) -> None:
        full = self._dataset(train=True)
        lengths = [len(full) - self.val_split, self.val_split]
        self.dataset_train, self.dataset_val = random_split(full, lengths, torch.Generator().manual_seed(self.seed))

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.dataset_train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.dataset_val)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(self._dataset(train=False))

    def _dataset(self, train: bool, download: bool = False) -> Any:
        from torchvision.datasets import MNIST

        return MNIST(self.data_dir, train=train, download=download, transform=self.default_transforms)

    def _loader(self, dataset: Dataset[Any], shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            drop_last=True,
            pin_memory=torch.cuda.is_available(),
        )
