"""Objects that old files hold beside plain types."""

from __future__ import annotations

import argparse
import types
import warnings
from collections import defaultdict, deque
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch

from raylight.checkpoint.format import load
from raylight.utilities.exceptions import CheckpointError
from raylight.utilities.parsing import AttributeDict


def lightnings(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pytorch_lightning.callbacks
        import pytorch_lightning.utilities.parsing
    return {
        "AttributeDict": pytorch_lightning.utilities.parsing.AttributeDict,
        "ModelCheckpoint": pytorch_lightning.callbacks.ModelCheckpoint,
        "EarlyStopping": pytorch_lightning.callbacks.EarlyStopping,
    }[name]


def read_back(value: Any, path: Path, legacy: bool = False) -> Any:
    torch.save({"state_dict": {}, "value": value}, path, _use_new_zipfile_serialization=not legacy)
    return load(path)["value"]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "torch below 1.6"])
@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (lightnings("AttributeDict")(lr=0.1, inner=lightnings("AttributeDict")(a=1)), {"lr": 0.1, "inner": {"a": 1}}),
        (AttributeDict(lr=0.1), {"lr": 0.1}),
        (argparse.Namespace(lr=0.1, root=Path("a/b"), inner=argparse.Namespace(c=(1, Path("d")))),
         {"lr": 0.1, "root": "a/b", "inner": {"c": (1, "d")}}),
        (types.SimpleNamespace(a=1), {"a": 1}),
        ([PurePosixPath("/a/b"), PureWindowsPath("c:\\d")], ["/a/b", "c:\\d"]),
        ({lightnings("ModelCheckpoint"): {"best": 1}, lightnings("EarlyStopping"): {}},
         {"ModelCheckpoint": {"best": 1}, "EarlyStopping": {}}),
        ([np.float64(0.5), np.float32(0.5), np.int64(-3), np.bool_(True), np.str_("ab")], [0.5, 0.5, -3, True, "ab"]),
        (np.dtype(">f4"), ">f4"),
        (np.array(["a", "bc"]), ["a", "bc"]),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (deque([1, 2], maxlen=3), [1, 2]),
        (frozenset([1]), [1]),
    ],
)  # fmt: skip
def test_plain_values(value: Any, plain: Any, legacy: bool, tmp_path: Path) -> None:
    assert read_back(value, tmp_path / "a.ckpt", legacy) == plain


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3)[:2]), np.arange(3, dtype=">i4")]
)
def test_arrays_become_tensors(array: Any, tmp_path: Path) -> None:
    found = read_back({"a": [array]}, tmp_path / "a.ckpt")["a"][0]

    assert isinstance(found, torch.Tensor)
    assert found.tolist() == array.tolist()


@pytest.mark.parametrize("value", [np.array([1, None]), np.datetime64("2020-01-01"), np.zeros(1, dtype=[("a", int)])])
def test_arrays_of_anything_else_are_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"restoring numpy.dtype\('\w+'\) would run code"):
        read_back(value, tmp_path / "a.ckpt")


def test_plain_types_only(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "value": Path("a")}, tmp_path / "a.ckpt")

    with pytest.raises(CheckpointError, match="restoring pathlib.*Path would run code"):
        load(tmp_path / "a.ckpt", plain_only=True)


def test_tensors_and_shared_parts_stay(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    shared = {"root": Path("a")}
    torch.save({"state_dict": model.state_dict(), "value": [shared, shared]}, tmp_path / "a.ckpt")

    found = load(tmp_path / "a.ckpt")

    assert found["value"] == [{"root": "a"}, {"root": "a"}]
    assert found["state_dict"]._metadata == model.state_dict()._metadata
    assert torch.equal(found["state_dict"]["weight"], model.weight)


def test_classes_that_the_user_has_allowed(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    with torch.serialization.safe_globals([type(Path("a"))]):
        assert read_back(Path("a"), tmp_path / "a.ckpt") == Path("a")
    assert read_back(Path("a"), tmp_path / "a.ckpt") == "a"
    assert set(torch.serialization.get_safe_globals()) == before
