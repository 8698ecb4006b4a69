"""The language models are Lightning's: same data, same weights, same losses."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from raylight.demos.mnist_datamodule import MNISTDataModule

TEXT = "the cat sat on the mat\nthe dog sat on the cat\n" * 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "wikitext-2.txt").write_text(TEXT)
    return tmp_path


def demo(package: str, module: str) -> Any:
    return importlib.import_module(f"{package}.demos.{module}")


def libraries() -> tuple[str, str]:
    return "pytorch_lightning", "raylight"


def test_text(folder: Path) -> None:
    theirs, ours = (demo(name, "transformer").WikiText2(folder, block_size=5) for name in libraries())
    assert (len(ours), ours.vocab_size) == (len(theirs), theirs.vocab_size)
    assert [[words.tolist() for words in ours[i]] for i in range(len(ours))] == [
        [words.tolist() for words in theirs[i]] for i in range(len(theirs))
    ]
    theirs, ours = (demo(name, "lstm").SequenceSampler(range(11), batch_size=3) for name in libraries())
    assert (list(ours), len(ours)) == (list(theirs), len(theirs))


def losses(package: str, module: str, model: str, folder: Path) -> tuple[list[float], list[str]]:
    """Of three steps, and the names of the weights."""
    torch.manual_seed(1)
    dataset = demo(package, "transformer").WikiText2(folder, block_size=4)
    kind = demo(package, module)
    small = getattr(kind, model)(vocab_size=dataset.vocab_size, ninp=8, nhid=8, nlayers=1, dropout=0.0)
    lightning = getattr(kind, f"Lightning{model.removeprefix('Simple')}")(vocab_size=3)
    lightning.model = small
    lightning.log = lambda *args, **kwargs: None
    optimizer = torch.optim.SGD(lightning.parameters(), lr=0.1)
    told = []
    for batch_idx, batch in zip(range(3), DataLoader(dataset, batch_size=2), strict=False):
        loss = lightning.training_step(batch, batch_idx)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append(loss.item())
    return told, list(lightning.state_dict())


@pytest.mark.parametrize(("module", "model"), [("transformer", "Transformer"), ("lstm", "SimpleLSTM")])
@pytest.mark.filterwarnings("ignore:dropout option adds dropout after all but last:UserWarning")
def test_losses(module: str, model: str, folder: Path) -> None:
    theirs, ours = (losses(name, module, model, folder) for name in libraries())
    assert ours[1] == theirs[1]
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)


def test_mnist_takes_lightnings_arguments() -> None:
    theirs = demo("pytorch_lightning", "mnist_datamodule").MNISTDataModule(batch_size=8)
    ours = MNISTDataModule(batch_size=8)
    for name in ("name", "num_classes", "data_dir", "val_split", "num_workers", "normalize", "seed", "batch_size"):
        assert getattr(ours, name) == getattr(theirs, name), name
