"""Questions about batches and loaders have Lightning's answers."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.utilities import data as lightnings
from torch import Tensor
from torch.utils.data import DataLoader

from raylight.demos.boring_classes import RandomDataset, RandomIterableDataset, RandomIterableDatasetWithLen
from raylight.utilities import data as ours
from raylight.utilities.exceptions import MisconfigurationException

BOTH = pytest.mark.parametrize("data", [lightnings, ours], ids=["lightning", "raylight"])


@dataclass
class Batch:
    name: Tensor
    x: Tensor


@BOTH
@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(11, 10), 11),
        (torch.tensor(1.0), 1),
        ([torch.zeros(4, 2), torch.zeros(4)], 4),
        ({"a": [{"b": torch.zeros(7)}]}, 7),
        (Batch(torch.zeros(2, 3), torch.zeros(2)), 2),
    ],
)
def test_batch_size(data: Any, batch: Any, size: int) -> None:
    assert data.extract_batch_size(batch) == size


@BOTH
def test_ambiguous_batch_size_is_told_once(data: Any) -> None:
    data.warning_cache.clear()
    with pytest.warns(UserWarning, match="Trying to infer the `batch_size` from an ambiguous collection. .* is 3"):
        assert data.extract_batch_size([torch.zeros(3), torch.zeros(5)]) == 3
    assert data.extract_batch_size([torch.zeros(3), torch.zeros(5)]) == 3


@pytest.mark.parametrize("batch", ["text", 3, [], {"a": "b"}, None])
def test_no_batch_size(batch: Any) -> None:
    with pytest.raises(MisconfigurationException, match="We could not infer the batch_size"):
        ours.extract_batch_size(batch)


def test_batch_that_contains_itself() -> None:
    batch: list[Any] = []
    batch.append(batch)
    with pytest.raises(RecursionError, match="We could not infer the batch_size"):
        ours.extract_batch_size(batch)


class Ranks:
    """What is asked of a strategy: the sum over ranks, the others having ``others`` batches."""

    root_device = torch.device("cpu")

    def __init__(self, others: int) -> None:
        self.others = others

    def reduce(self, tensor: Tensor, reduce_op: str) -> Tensor:
        assert reduce_op == "sum"
        return tensor + self.others


@BOTH
def test_length_on_all_ranks(data: Any) -> None:
    assert data.has_len_all_ranks(DataLoader(RandomDataset(1, 2)), Ranks(2))
    assert not data.has_len_all_ranks(DataLoader(RandomIterableDataset(1, 2)), Ranks(2))
    with pytest.warns(UserWarning, match="Total length of `DataLoader` across ranks is zero"):
        assert data.has_len_all_ranks(DataLoader(RandomDataset(1, 0)), Ranks(0))
    with pytest.raises(RuntimeError, match="`DataLoader` within local rank has zero length"):
        data.has_len_all_ranks(DataLoader(RandomDataset(1, 0)), Ranks(2))
    with pytest.warns(UserWarning, match="Your `IterableDataset` has `__len__` defined"):
        assert data.has_len_all_ranks(DataLoader(RandomIterableDatasetWithLen(1, 2)), Ranks(0))


def test_iterable_datasets() -> None:
    assert ours.has_iterable_dataset(SimpleNamespace(dataset=RandomIterableDataset(1, 2)))
    assert not ours.has_iterable_dataset(DataLoader(RandomDataset(1, 2)))
    assert ours.sized_len(DataLoader(RandomIterableDataset(1, 2))) is None
    assert ours.sized_len([1]) == 1


@pytest.mark.parametrize(("cores", "workers", "most"), [(1, 1, 1), (8, 1, 7), (8, 2, 3), (8, 4, 1), (8, 8, 1)])
def test_number_of_loader_processes(monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, most: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    assert ours.suggested_max_num_workers(workers) == most
    with pytest.raises(ValueError, match="should be >= 1, got 0"):
        ours.suggested_max_num_workers(0)
