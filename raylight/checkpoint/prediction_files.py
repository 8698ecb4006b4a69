"""A folder of predictions: a Parquet dataset whose parts are written one by one, and not again when a call is repeated.

::

    predictions/
        _settings.json                              what is predicted, written first
        part-00000000-00000007-256rows.parquet      of batches 0 to 7 of the data: 256 rows
        part-00000008-00000015-256rows.parquet
        _SUCCESS                                    the same settings and the number of rows, written last

Sorted by name, as readers of Parquet do, the parts are in the data's order. Names that begin with "_" or "." are no
data to such readers. A part appears under its name when it is complete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raylight.checkpoint import storage
from raylight.utilities.exceptions import MisconfigurationException

SETTINGS = "_settings.json"
SUCCESS = "_SUCCESS"
COLUMN = "prediction"
"""Name of the only column, where predict_step gives no dict."""
FORMAT = 1
MOST_BATCHES = 64
"""In a part."""
PARTS_PER_WORKER = 8
"""At least, where the number of batches is known and large enough."""
BATCHES_UNKNOWN = 16
"""In a part, where the number of batches is unknown."""

_PART = re.compile(r"part-(\d+)-(\d+)-(\d+)rows\.parquet")
_PLAIN = (str, bytes, bool, int, float, type(None))


@dataclass(frozen=True, order=True)
class Part:
    """One file."""

    first: int
    """Batch of the data that it begins with."""
    last: int
    """And ends with."""
    rows: int

    @property
    def name(self) -> str:
        return f"part-{self.first:08d}-{self.last:08d}-{self.rows}rows.parquet"


def batches_per_part(total: float, world_size: int) -> int:
    """Batches in a part of a new folder.

    Args:
        total: Batches in all; inf: unknown.
    """
    if total == float("inf"):
        return BATCHES_UNKNOWN
    return min(MOST_BATCHES, max(1, int(total) // (PARTS_PER_WORKER * world_size)))


class PredictionFolder:
    """The folder at a path or URI."""

    def __init__(self, path: str) -> None:
        self.path = path

    def settings(self) -> dict[str, Any] | None:
        """What is or was predicted there; None: nothing yet.

        Raises:
            MisconfigurationException: The folder is somebody else's.
        """
        try:
            names = [name for name in storage.list_dir(self.path) if not name.startswith(".")]
        except NotADirectoryError:
            raise MisconfigurationException(
                f"write_to={self.path!r} is a file, and predictions are a folder of files: name another one."
            ) from None
        if SETTINGS not in names:
            if names:
                raise MisconfigurationException(
                    f"write_to={self.path!r} is a folder of something else: it has {names[0]!r} and no predictions of "
                    "raylight's. Name another folder, or empty this one."
                )
            return None
        with storage.open_read(storage.join(self.path, SETTINGS)) as stream:
            try:
                found = json.load(stream)
            except ValueError:
                found = None
        if (
            not isinstance(found, dict)
            or found.get("format") != FORMAT
            or type(found.get("batches_per_part")) is not int
        ):
            raise MisconfigurationException(
                f"The file {SETTINGS} of write_to={self.path!r} is damaged, or of another version of raylight. "
                "Remove the folder, or name another one."
            )
        return found

    def begin(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Make the folder, or go on with one that was begun with the same settings.

        Args:
            wanted: Plain values, "batches_per_part" among them.

        Returns:
            The settings: those wanted, with "batches_per_part" of the folder where it was there.

        Raises:
            MisconfigurationException: It was begun with others.
        """
        found = self.settings()
        wanted = {"format": FORMAT, **wanted}
        if found is None:
            storage.write_atomic(storage.join(self.path, SETTINGS), lambda stream: _dump(wanted, stream))
            return wanted
        same = {**wanted, "batches_per_part": found["batches_per_part"]}
        differences = list(_differences(found, json.loads(json.dumps(same))))
        if differences:
            raise MisconfigurationException(
                f"write_to={self.path!r} has predictions of something else: {'; '.join(differences)}. Remove the "
                "folder to predict anew, or name another one."
            )
        storage.delete_leftovers(self.path)
        return same

    def parts(self) -> list[Part]:
        """The complete ones, in order."""
        matches = map(_PART.fullmatch, storage.list_dir(self.path))
        return sorted(Part(*map(int, match.groups())) for match in matches if match is not None)

    def write(self, first: int, last: int, tables: list[Any]) -> Part:
        """Write the part of batches ``first`` to ``last``: ``tables`` as ``as_table`` gives them."""
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.concat_tables(tables)
        part = Part(first, last, table.num_rows)
        storage.write_atomic(storage.join(self.path, part.name), lambda stream: parquet.write_table(table, stream))
        return part

    def finish(self, settings: dict[str, Any]) -> dict[str, Any]:
        """All parts are there: say so in ``_SUCCESS``; what is written there.

        Raises:
            MisconfigurationException: They are not, as when another process has removed some.
        """
        parts, following = self.parts(), 0
        for part in parts:
            if part.first != following:
                raise MisconfigurationException(
                    f"write_to={self.path!r} lacks predictions of batches {following} to {part.first - 1}: was a part "
                    "removed meanwhile, or does another run write there? Call predict again to make them."
                )
            following = part.last + 1
        done = {**settings, "batches": following, "parts": len(parts), "rows": sum(part.rows for part in parts)}
        storage.write_atomic(storage.join(self.path, SUCCESS), lambda stream: _dump(done, stream))
        return done


def _dump(values: dict[str, Any], stream: Any) -> None:
    stream.write(json.dumps(values, indent=1).encode())


def _differences(found: dict[str, Any], wanted: dict[str, Any], above: str = "") -> Any:
    for name in dict.fromkeys([*found, *wanted]):
        old, new = found.get(name), wanted.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{above}{name}.")
        elif old != new:
            yield f"{above}{name} was {old!r}, and is {new!r}"


# ------------------------------------------------------------------------------------------------ tables


def as_table(prediction: Any) -> Any:
    """What ``predict_step`` gave for a batch, as a ``pyarrow.Table`` of a row per sample.

    Raises:
        MisconfigurationException: It cannot be one.
    """
    import pyarrow

    named = prediction if isinstance(prediction, Mapping) else {COLUMN: prediction}
    if not named:
        raise MisconfigurationException("predict_step returned an empty dict: predictions need at least one column.")
    columns = {}
    for name, values in named.items():
        if not isinstance(name, str):
            raise MisconfigurationException(f"predict_step returned a dict with the key {name!r}: use strings.")
        columns[name] = _column(name, values)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise MisconfigurationException(
            f"predict_step returned columns of different lengths: {lengths}. Each needs a value per sample."
        )
    return pyarrow.table(columns)


def _column(name: str, values: Any) -> Any:
    import pyarrow

    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if isinstance(values, list | tuple) and not hasattr(values, "_fields"):
        if all(isinstance(value, _PLAIN) for value in values):
            return _converted(name, pyarrow.array, list(values))
    elif isinstance(values, np.ndarray) and values.ndim:
        if values.ndim == 1:
            return _converted(name, pyarrow.array, values)
        if values.dtype.kind in "fiub":
            return _tensor_column(values)
    shape = " without dimensions" if isinstance(values, np.ndarray) and not values.ndim else ""
    raise MisconfigurationException(
        f"predict_step returned {'a' if name == COLUMN else f'for {name!r} a'} {type(values).__name__}{shape}: "
        "predictions that become rows must be a tensor or array whose first dimension is the samples, a list of "
        "strings or numbers, or a dict of these."
    )


def _tensor_column(values: np.ndarray[Any, Any]) -> Any:
    """Each row a tensor; Arrow's own type for these, which other readers take for a list."""
    import pyarrow

    if values.dtype.kind == "b":
        values = values.astype(np.uint8)  # Arrow packs booleans into bits, which a tensor cannot be
    if len(values):
        return pyarrow.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))
    kind = pyarrow.fixed_shape_tensor(pyarrow.from_numpy_dtype(values.dtype), values.shape[1:])
    return pyarrow.ExtensionArray.from_storage(kind, pyarrow.array([], kind.storage_type))


def _converted(name: str, convert: Any, values: Any) -> Any:
    import pyarrow

    try:
        return convert(values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError) as error:
        raise MisconfigurationException(
            f"predict_step returned for {name!r} what no column of a table can hold: {error}."
        ) from error
