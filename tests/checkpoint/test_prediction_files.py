"""The folder of predictions: what can be a row, what is written, and what is refused."""

from __future__ import annotations

import json
import os
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from raylight.checkpoint import storage
from raylight.checkpoint.prediction_files import Part, PredictionFolder, as_table, batches_per_part
from raylight.utilities.exceptions import MisconfigurationException

SETTINGS = {"batches_per_part": 2, "data": {"rows": 5, "batch_size": 1}}


@pytest.mark.parametrize(
    ("prediction", "rows"),
    [
        (torch.tensor([1, 2]), [{"prediction": 1}, {"prediction": 2}]),
        (torch.tensor([1.5], requires_grad=True), [{"prediction": 1.5}]),
        (torch.tensor([1.5], dtype=torch.bfloat16), [{"prediction": 1.5}]),
        (np.array(["a", "b"]), [{"prediction": "a"}, {"prediction": "b"}]),
        (["a", None], [{"prediction": "a"}, {"prediction": None}]),
        ({"label": torch.tensor([True]), "name": ("x",)}, [{"label": True, "name": "x"}]),
        ({"a": torch.tensor([]), "b": []}, []),
    ],
)
def test_rows(prediction: Any, rows: list[dict[str, Any]]) -> None:
    assert as_table(prediction).to_pylist() == rows


@pytest.mark.parametrize("shape", [(2, 3), (4, 2, 3), (0, 3)])
def test_tensors_keep_their_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    values = torch.arange(float(np.prod(shape))).reshape(shape)
    PredictionFolder(str(tmp_path)).write(0, 0, [as_table(values)])
    column = pq.read_table(tmp_path)["prediction"].combine_chunks()
    assert tuple(column.type.shape) == shape[1:]
    assert np.array_equal(np.asarray(column.storage.to_pylist()).reshape(shape), values.numpy())


def test_booleans_of_several_dimensions_are_bytes() -> None:
    column = as_table(torch.tensor([[True, False]]))["prediction"].combine_chunks()
    assert column.to_numpy_ndarray().tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (torch.tensor(1.0), "returned a ndarray without dimensions: .* first dimension is the samples"),
        (3, "returned a int: "),
        (None, "returned a NoneType: "),
        ({"a": {"b": torch.ones(1)}}, "returned for 'a' a dict: "),
        ({"a": [torch.ones(1)]}, "returned for 'a' a list: "),
        (namedtuple("Pair", "a b")(torch.ones(1), torch.ones(1)), "returned a Pair: "),
        ({"a": torch.ones(2), "b": torch.ones(3)}, "different lengths: {'a': 2, 'b': 3}"),
        ({1: torch.ones(2)}, "with the key 1: use strings"),
        ({}, "an empty dict"),
        (torch.ones(2, dtype=torch.complex64), "no column of a table can hold"),
        (["a", 1], "no column of a table can hold"),
    ],
)
def test_what_cannot_be_rows(prediction: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        as_table(prediction)


@pytest.mark.parametrize(
    ("total", "world_size", "batches"), [(1, 4, 1), (0, 1, 1), (100, 2, 6), (10**6, 2, 64), (float("inf"), 2, 16)]
)
def test_size_of_a_part(total: float, world_size: int, batches: int) -> None:
    assert batches_per_part(total, world_size) == batches


def test_a_folder_from_beginning_to_end(tmp_path: Path) -> None:
    folder = PredictionFolder(str(tmp_path / "a" / "b"))
    assert folder.settings() is None
    assert folder.begin(SETTINGS) == {"format": 1, **SETTINGS}
    folder.write(2, 3, [as_table(torch.tensor([2])), as_table(torch.tensor([3]))])
    with pytest.raises(MisconfigurationException, match="lacks predictions of batches 0 to 1"):
        folder.finish(SETTINGS)
    folder.write(0, 1, [as_table(torch.tensor([0])), as_table(torch.tensor([1]))])
    assert folder.parts() == [Part(0, 1, 2), Part(2, 3, 2)]
    assert folder.begin({**SETTINGS, "batches_per_part": 7})["batches_per_part"] == 2
    done = folder.finish(SETTINGS)
    assert (done["rows"], done["batches"], done["parts"]) == (4, 4, 2)
    assert json.loads((tmp_path / "a" / "b" / "_SUCCESS").read_text()) == done
    assert pq.read_table(folder.path)["prediction"].to_pylist() == [0, 1, 2, 3]


def test_a_part_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = PredictionFolder(str(tmp_path))
    folder.begin(SETTINGS)

    def write_half(table: Any, stream: Any) -> None:
        stream.write(b"PAR1")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", write_half)
    with pytest.raises(OSError, match="disk full"):
        folder.write(0, 0, [as_table(torch.ones(1))])
    assert os.listdir(tmp_path) == ["_settings.json"]
    assert folder.parts() == []


def test_what_a_killed_process_left_is_no_part(tmp_path: Path) -> None:
    folder = PredictionFolder(str(tmp_path))
    folder.begin(SETTINGS)
    leftover = tmp_path / f".{'0' * 32}.tmp"
    leftover.write_bytes(b"PAR1")
    assert folder.parts() == []
    os.utime(leftover, (1, 1))
    folder.begin(SETTINGS)
    assert not leftover.exists()


def test_other_settings_are_refused(tmp_path: Path) -> None:
    folder = PredictionFolder(str(tmp_path))
    folder.begin(SETTINGS)
    with pytest.raises(
        MisconfigurationException,
        match=r"data.batch_size was 1, and is 2; model was None, and is 'm'. Remove the folder",
    ):
        folder.begin({**SETTINGS, "data": {"rows": 5, "batch_size": 2}, "model": "m"})


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"format": 2}', b'{"format": 1, "batches_per_part": "2"}'])
def test_damaged_settings_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "_settings.json").write_bytes(content)
    with pytest.raises(MisconfigurationException, match="is damaged, or of another version"):
        PredictionFolder(str(tmp_path)).settings()


def test_what_is_somebody_elses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(MisconfigurationException, match="is a folder of something else: it has 'thesis.tex'"):
        PredictionFolder(str(tmp_path)).begin(SETTINGS)
    with pytest.raises(MisconfigurationException, match="is a file"):
        PredictionFolder(str(tmp_path / "thesis.tex")).begin(SETTINGS)


def test_behind_a_uri() -> None:
    folder = PredictionFolder("memory://predictions/of-a-test")
    try:
        folder.begin(SETTINGS)
        folder.write(0, 0, [as_table(torch.ones(2))])
        assert folder.finish(SETTINGS)["rows"] == 2
        assert storage.list_dir(folder.path) == ["_SUCCESS", "_settings.json", "part-00000000-00000000-2rows.parquet"]
    finally:
        storage.delete(folder.path)
