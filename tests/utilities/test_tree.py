"""Nested batches."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from raylight.utilities import tree

Point = namedtuple("Point", ["x", "y"])


@dataclass
class Sample:
    image: Any
    label: Any = "cat"


class Movable:
    """Something that is no tensor and can be moved, such as a graph of PyTorch Geometric."""

    device = "cpu"

    def to(self, device: Any) -> Movable:
        moved = Movable()
        moved.device = str(device)
        return moved


@pytest.mark.parametrize(
    "batch",
    [
        3,
        [1, 2, (3, 4)],
        {"a": 1, "b": [2]},
        OrderedDict(b=1, a=2),
        Point(1, [2, 3]),
        Sample(image=1, label=2),
        {"deep": [{"er": (1, Sample(2, 3))}]},
        [],
        {},
    ],
    ids=repr,
)
def test_map_keeps_containers(batch: Any) -> None:
    assert tree.map_leaves(lambda leaf: leaf, batch) == batch
    assert type(tree.map_leaves(lambda leaf: leaf, batch)) is type(batch)
    assert list(tree.leaves(tree.map_leaves(lambda leaf: leaf + 1, batch))) == [x + 1 for x in tree.leaves(batch)]


def test_default_dict_keeps_its_factory() -> None:
    mapped = tree.map_leaves(lambda leaf: leaf * 2, defaultdict(list, a=3))
    assert mapped == {"a": 6}
    assert mapped["new"] == []


def test_strings_are_leaves() -> None:
    assert list(tree.leaves(["ab", {"c": "d"}])) == ["ab", "d"]


def test_to_device_moves_all_that_can() -> None:
    moved = tree.to_device({"x": torch.ones(2), "graph": Movable(), "n": 3, "kind": Movable}, torch.device("meta"))
    assert moved["x"].device.type == "meta"
    assert moved["graph"].device == "meta"
    assert moved["n"] == 3
    assert moved["kind"] is Movable


def test_detach_and_to_cpu() -> None:
    x = torch.ones(2, requires_grad=True) * 2
    for function in (tree.detach, tree.to_cpu):
        result = function([x, {"y": x}, "text"])
        assert not result[0].requires_grad
        assert not result[1]["y"].requires_grad
        assert result[2] == "text"
    assert x.requires_grad


def test_convert_floats() -> None:
    batch = [torch.ones(1), torch.ones(1, dtype=torch.long), torch.ones(1, dtype=torch.bool), "text"]
    converted = tree.convert_floats(batch, torch.float64)
    assert [getattr(leaf, "dtype", None) for leaf in converted] == [torch.float64, torch.int64, torch.bool, None]


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.ones(3, 2), 3),
        (torch.tensor(5.0), 1),
        ([torch.ones(4), torch.ones(7)], 4),
        ({"n": 2, "x": torch.ones(6)}, 6),
        (Sample(torch.ones(2)), 2),
        ("abc", 3),
        ([1, None], None),
        (None, None),
    ],
    ids=str,
)
def test_batch_size(batch: Any, size: int | None) -> None:
    assert tree.batch_size(batch) == size
