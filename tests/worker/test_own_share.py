"""Loaders that an engine has divided, and predictions that are written in parts, on real groups of ranks."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ranks
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset, WeightedRandomSampler

from raylight.utilities.exceptions import MisconfigurationException
from raylight.worker.evaluation import in_dataset_order
from raylight.worker.sharing import InTurns, RestOfShare, Turns, share_in_parts

OnRanks = Callable[..., list[Any]]


@given(
    total=st.integers(0, 60),
    world_size=st.integers(1, 4),
    chunk=st.integers(1, 7),
    skipped=st.frozensets(st.integers(0, 9)),
)
def test_turns(total: int, world_size: int, chunk: int, skipped: frozenset[int]) -> None:
    taken = []
    for rank in range(world_size):
        turns = Turns(world_size, rank, chunk, skipped)
        mine = list(InTurns(range(total), turns))
        assert len(mine) == turns.count(total) == len(InTurns(range(total), turns))
        assert mine == [index for index, _ in zip(turns.indices(), mine, strict=False)]
        taken += mine
    assert sorted(taken) == [index for index in range(total) if index // chunk not in skipped]


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "unsized"])
@pytest.mark.parametrize(("size", "chunk"), [(7, 1), (11, 2), (6, 3)])
def test_each_batch_is_trained_on_once(on_ranks: OnRanks, size: int, chunk: int, sized: bool) -> None:
    by_rank = on_ranks(2, ranks.fit_own_share, size=size, chunk=chunk, sized=sized)
    for epoch in range(2):
        seen = [by_rank[rank][epoch] for rank in range(2)]
        assert sorted(seen[0] + seen[1]) == list(range(size))
        assert seen[1] == [index for index in range(size) if index // chunk % 2 == 1]


@pytest.mark.parametrize(("workers", "size", "chunk"), [(2, 11, 2), (3, 7, 1), (3, 2, 1), (1, 4, 2)])
def test_predictions_are_in_order(on_ranks: OnRanks, workers: int, size: int, chunk: int) -> None:
    by_rank = on_ranks(workers, ranks.predict_own_share, size=size, chunk=chunk)
    tables = in_dataset_order(by_rank)
    assert [value for table in tables for value in table["prediction"].to_pylist()] == list(range(size))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([3, 0, 5], [[[0, 1], [2]], [], [[0, 1], [2, 3], [4]]]),
        ([0, 1], [[], [[0]]]),
        ([3, 0], [[[0, 1], [2]], []]),
        ([3], [[0, 1], [2]]),
        ([0, 0], []),
        ([0], []),
    ],
    ids=str,
)
def test_each_loader_has_its_predictions(
    on_ranks: OnRanks, workers: int, sizes: list[int], expected: list[Any]
) -> None:
    assert in_dataset_order(on_ranks(workers, ranks.predict_several, sizes=sizes)) == expected


# ------------------------------------------------------------------------------------------------ parts


def rows(path: Path) -> list[float]:
    """As any reader of Parquet sees them: part by part, sorted by name."""
    parts = sorted(name for name in os.listdir(path) if name.startswith("part-"))
    return [value for name in parts for value in pq.read_table(path / name)["prediction"].to_pylist()]


@pytest.mark.parametrize("loader", ["map", "iterable", "own"])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_parts_are_in_order_and_made_once(on_ranks: OnRanks, tmp_path: Path, workers: int, loader: str) -> None:
    path = tmp_path / "predictions"
    arguments = {"path": str(path), "size": 37, "loader": loader}
    first = on_ranks(workers, ranks.write_predictions, **arguments)
    assert {error for _, error in first} == {""}
    assert sorted(value for made, _ in first for value in made) == list(range(37))
    assert rows(path) == list(range(37)) == pq.read_table(path)["prediction"].to_pylist()
    assert json.loads((path / "_SUCCESS").read_text())["rows"] == 37
    before = {name: (path / name).stat().st_mtime_ns for name in os.listdir(path) if name.startswith("part-")}
    assert on_ranks(workers, ranks.write_predictions, **arguments) == [([], "")] * workers
    assert before == {name: (path / name).stat().st_mtime_ns for name in os.listdir(path) if name.startswith("part-")}


@pytest.mark.parametrize("then", [1, 3], ids=["by one worker", "by more workers"])
def test_an_interrupted_call_goes_on(on_ranks: OnRanks, tmp_path: Path, then: int) -> None:
    path = tmp_path / "predictions"
    stopped = on_ranks(1, ranks.write_predictions, path=str(path), size=100, fails_at=51)
    assert stopped[0][1] == "stopped here"
    kept = rows(path)
    assert kept == list(range(len(kept)))
    assert 0 < len(kept) <= 50
    assert not (path / "_SUCCESS").exists()
    by_rank = on_ranks(then, ranks.write_predictions, path=str(path), size=100)
    assert sorted(value for made, _ in by_rank for value in made) == list(range(len(kept), 100))
    assert rows(path) == list(range(100))
    assert json.loads((path / "_SUCCESS").read_text())["batches"] == 50


def test_a_rank_that_has_nothing_left_reads_along() -> None:
    def rest(rank: int, done: set[int]) -> RestOfShare:
        share = ranks.Numbers(8, Turns(2, rank, 2), sized=True)
        return RestOfShare(share, Turns(2, rank, 2, frozenset(done)))

    assert len(rest(1, {0, 2, 3})) == 2
    with pytest.raises(TypeError, match="must take part"):
        len(rest(0, {0, 2, 3}))
    assert list(iter(rest(0, {0, 2, 3}))) == []
    assert [len(rest(rank, {0, 1, 2, 3})) for rank in range(2)] == [0, 0]


def test_other_data_is_refused_on_all_ranks(on_ranks: OnRanks, tmp_path: Path) -> None:
    path = str(tmp_path / "predictions")
    on_ranks(1, ranks.write_predictions, path=path, size=10)
    with_others = on_ranks(1, ranks.write_predictions, path=path, size=12)
    assert "data.rows was 10, and is 12" in with_others[0][1]
    assert with_others[0][0] == []


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return itertools.repeat(0)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (DataLoader(TensorDataset(torch.zeros(4)), shuffle=True), "RandomSampler. Use shuffle=False"),
        (DataLoader(TensorDataset(torch.zeros(4)), sampler=WeightedRandomSampler([1.0], 2)), "WeightedRandomSampler"),
        (
            DataLoader(TensorDataset(torch.zeros(4)), sampler=DistributedSampler(TensorDataset(torch.zeros(4)), 2, 0)),
            "DistributedSampler",
        ),
        (DataLoader(Endless()), "needs batches that can be divided .* Endless, an IterableDataset, cannot"),
    ],
)
def test_without_an_order_there_are_no_parts(loader: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        share_in_parts(loader, Turns(2, 0, 2))
