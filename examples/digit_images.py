"""Images of handwritten digits for the other examples: scikit-learn's, or the MNIST files of a folder."""

from __future__ import annotations

import gzip
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.utils.data import Dataset, TensorDataset, random_split


def load_images(data_dir: str | None, generator: Generator) -> tuple[Dataset, Dataset]:
    """Training and test images: scikit-learn's, or those of MNIST in ``data_dir``.

    Where there is one set only, ``generator`` says which fifth of it is for the test.
    """
    parts = [load_digits()] if data_dir is None else load_mnist(Path(data_dir))
    if len(parts) == 1:
        parts = random_split(parts[0], [0.8, 0.2], generator)
    train, test = parts
    return train, test


def load_digits() -> TensorDataset:
    """The 1797 digits that come with scikit-learn; pixels in 0..16."""
    from sklearn.datasets import load_digits as load_arrays

    arrays = load_arrays()
    return as_dataset(torch.tensor(arrays.images), torch.tensor(arrays.target), largest_pixel=16)


def load_mnist(data_dir: Path) -> list[TensorDataset]:
    """Those of MNIST's two parts, training and test, that are in ``data_dir``."""
    parts = []
    for prefix in ("train", "t10k"):
        images = find_idx(data_dir, f"{prefix}-images-idx3-ubyte")
        labels = find_idx(data_dir, f"{prefix}-labels-idx1-ubyte")
        if images and labels:
            parts.append(as_dataset(read_idx(images), read_idx(labels), largest_pixel=255))
    if not parts:
        raise FileNotFoundError(f"No MNIST files (such as train-images-idx3-ubyte.gz) in {data_dir.absolute()}.")
    return parts


def find_idx(data_dir: Path, name: str) -> Path | None:
    for folder in (data_dir, data_dir / "raw", data_dir / "MNIST" / "raw"):  # the last is torchvision's layout
        for path in (folder / name, folder / f"{name}.gz"):
            if path.exists():
                return path
    return None


def read_idx(path: Path) -> Tensor:
    """Bytes in the idx format: 0, 0, type, number of dimensions, each size as 4 bytes, then the values."""
    content = (gzip.decompress if path.suffix == ".gz" else bytes)(path.read_bytes())
    if content[:3] != b"\0\0\x08":  # 8: unsigned bytes
        raise ValueError(f"{path} is not an idx file of bytes.")
    header = 4 + 4 * content[3]
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4)]
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).reshape(shape)


def as_dataset(images: Tensor, labels: Tensor, largest_pixel: int) -> TensorDataset:
    """Images as (samples, 1, height, width) in 0..1, labels as int64."""
    return TensorDataset(images.unsqueeze(1).float() / largest_pixel, labels.long())
