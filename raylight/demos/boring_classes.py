"""The smallest models and data that every method of a Trainer can run: random numbers, and one linear layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from raylight.core.datamodule import LightningDataModule
from raylight.core.module import LightningModule
from raylight.utilities.types import STEP_OUTPUT

NUM_FEATURES = 32
NUM_SAMPLES = 64


class RandomDataset(Dataset[Tensor]):
    """``length`` vectors of ``size`` random numbers, drawn once."""

    def __init__(self, size: int, length: int) -> None:
        self.len = length
        self.data = torch.randn(length, size)

    def __getitem__(self, index: int) -> Tensor:
        return self.data[index]

    def __len__(self) -> int:
        return self.len


class RandomDictDataset(Dataset[dict[str, Tensor]]):
    """As ``RandomDataset``, as dicts: "a" is the vector, "b" is "a" + 2."""

    def __init__(self, size: int, length: int) -> None:
        self.len = length
        self.data = torch.randn(length, size)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        vector = self.data[index]
        return {"a": vector, "b": vector + 2}

    def __len__(self) -> int:
        return self.len


class RandomIterableDataset(IterableDataset[Tensor]):
    """``count`` vectors of ``size`` random numbers, drawn anew each time; without a length."""

    def __init__(self, size: int, count: int) -> None:
        self.size = size
        self.count = count

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(self.count):
            yield torch.randn(self.size)


class RandomIterableDatasetWithLen(RandomIterableDataset):
    """As ``RandomIterableDataset``, with a length."""

    def __len__(self) -> int:
        return self.count


class BoringModel(LightningModule):
    """One linear layer that learns to give ones; tests override the method that they are about."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(NUM_FEATURES, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)
        return output

    def loss(self, preds: Tensor, labels: Tensor | None = None) -> Tensor:
        """Mean squared distance to ``labels``; None: to ones."""
        return functional.mse_loss(preds, torch.ones_like(preds) if labels is None else labels)

    def step(self, batch: Any) -> Tensor:
        return self.loss(self(batch))

    def training_step(self, batch: Any, batch_idx: int) -> STEP_OUTPUT:
        return {"loss": self.step(batch)}

    def validation_step(self, batch: Any, batch_idx: int) -> STEP_OUTPUT:
        return {"x": self.step(batch)}

    def test_step(self, batch: Any, batch_idx: int) -> STEP_OUTPUT:
        return {"y": self.step(batch)}

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LRScheduler]]:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(RandomDataset(NUM_FEATURES, NUM_SAMPLES))

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(RandomDataset(NUM_FEATURES, NUM_SAMPLES))

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(RandomDataset(NUM_FEATURES, NUM_SAMPLES))

    def predict_dataloader(self) -> DataLoader[Any]:
        return DataLoader(RandomDataset(NUM_FEATURES, NUM_SAMPLES))


class ManualOptimBoringModel(BoringModel):
    """``BoringModel`` that steps its optimizer itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> STEP_OUTPUT:
        optimizer = self.optimizers()
        loss = self.step(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


class DemoModel(LightningModule):
    """One linear layer whose loss is the sum of what it gives."""

    def __init__(self, out_dim: int = 10, learning_rate: float = 0.02) -> None:
        super().__init__()
        self.l1 = nn.Linear(NUM_FEATURES, out_dim)
        self.learning_rate = learning_rate

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.l1(x.view(x.size(0), -1)))

    def training_step(self, batch: Any, batch_nb: int) -> STEP_OUTPUT:
        loss: Tensor = self(batch).sum()
        return loss

    def configure_optimizers(self) -> Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class _PerStage(LightningDataModule):
    """A datamodule whose ``setup`` makes ``random_train``, ``random_val``, ``random_test``, ``random_predict``."""

    random_train: Any
    random_val: Any
    random_test: Any
    random_predict: Any

    def make(self, kind: str) -> Any:
        """The dataset of "train", "val", "test" or "predict"."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        kinds = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"], "predict": ["predict"]}
        for kind in kinds[stage]:
            setattr(self, f"random_{kind}", self.make(kind))

    def train_dataloader(self) -> Any:
        return DataLoader(self.random_train)

    def val_dataloader(self) -> Any:
        return DataLoader(self.random_val)

    def test_dataloader(self) -> Any:
        return DataLoader(self.random_test)

    def predict_dataloader(self) -> Any:
        return DataLoader(self.random_predict)


class BoringDataModule(_PerStage):
    """``BoringModel``'s data: 64 samples of ``random_full`` for each of training, validation, test and prediction."""

    def __init__(self) -> None:
        super().__init__()
        self.random_full = RandomDataset(NUM_FEATURES, NUM_SAMPLES * 4)

    def make(self, kind: str) -> Subset[Tensor]:
        first = NUM_SAMPLES * ["train", "val", "test", "predict"].index(kind)
        return Subset(self.random_full, indices=range(first, first + NUM_SAMPLES))


class BoringDataModuleNoLen(_PerStage):
    """Data for ``BoringModel`` without a length: 512, 128, 256 and 64 samples."""

    def make(self, kind: str) -> RandomIterableDataset:
        counts = {"train": 512, "val": 128, "test": 256, "predict": 64}
        return RandomIterableDataset(NUM_FEATURES, counts[kind])


class IterableBoringDataModule(LightningDataModule):
    """Two loaders for each stage, with and without a length, of 16, 32, 64 and 128 samples of 4 numbers each."""

    train_datasets: list[Dataset[Tensor]]
    val_datasets: list[Dataset[Tensor]]
    test_datasets: list[Dataset[Tensor]]
    predict_datasets: list[Dataset[Tensor]]

    def setup(self, stage: str) -> None:
        counts = {"train": 16, "val": 32, "test": 64, "predict": 128}
        kinds = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"], "predict": ["predict"]}
        for kind in kinds[stage]:
            datasets = [RandomDataset(4, counts[kind]), RandomIterableDataset(4, counts[kind])]
            setattr(self, f"{kind}_datasets", datasets)

    def train_dataloader(self) -> list[DataLoader[Any]]:
        return [DataLoader(dataset) for dataset in self.train_datasets]

    def val_dataloader(self) -> list[DataLoader[Any]]:
        return [DataLoader(dataset) for dataset in self.val_datasets]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        return [DataLoader(dataset) for dataset in self.test_datasets]

    def predict_dataloader(self) -> list[DataLoader[Any]]:
        return [DataLoader(dataset) for dataset in self.predict_datasets]


class Net(nn.Module):
    """Two convolutions and two linear layers, for images of 1 x 28 x 28; gives log-probabilities of 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv1(x))
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = torch.flatten(self.dropout1(x), 1)
        x = self.dropout2(functional.relu(self.fc1(x)))
        return functional.log_softmax(self.fc2(x), dim=1)
