"""``predict(write_to=...)``: each worker writes the parts whose batches it has made."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from raylight.checkpoint.prediction_files import PredictionFolder, as_table, batches_per_part
from raylight.utilities.combined_loader import loader_length
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.signatures import has_argument
from raylight.worker.sharing import OwnShare, Turns

if TYPE_CHECKING:
    from raylight.worker.run import Run


class PartWriter:
    """Writes this rank's parts.

    Args:
        folder: Where to.
        settings: Of the folder.
        turns: Which batches are this rank's; a part is a chunk of these.
    """

    def __init__(self, folder: PredictionFolder, settings: dict[str, Any], turns: Turns) -> None:
        self.turns = turns
        self._folder = folder
        self._settings = settings
        self._indices = turns.indices()
        self._first = self._last = 0
        """Batches of the part at work."""
        self._tables: list[Any] = []
        """Of these batches."""
        self._schema: Any = None

    def add(self, prediction: Any) -> None:
        """Take what ``predict_step`` gave for the next batch, and write the part that it completes."""
        table = as_table(prediction)
        if self._schema is not None and table.schema != self._schema:
            raise MisconfigurationException(
                "predict_step must return the same columns for each batch. They were "
                f"{_told(self._schema)}, and are {_told(table.schema)}."
            )
        self._schema, self._last = table.schema, next(self._indices)
        if not self._tables:
            self._first = self._last
        self._tables.append(table)
        if (self._last + 1) % self.turns.chunk == 0:
            self._write()

    def _write(self) -> None:
        self._folder.write(self._first, self._last, self._tables)
        self._tables = []

    def finish(self, run: Run) -> None:
        """Collective: all batches were made."""
        if self._tables:
            self._write()
        schemas = run.strategy.all_gather_object(None if self._schema is None else _told(self._schema))
        if len(different := set(filter(None, schemas))) > 1:
            raise MisconfigurationException(
                f"predict_step must return the same columns on each worker. They were {' and '.join(different)}."
            )
        if run.strategy.is_global_zero:
            self._folder.finish(self._settings)
        run.strategy.barrier("predictions")


def _told(schema: Any) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def open_parts(run: Run, loader: Any) -> PartWriter:
    """Collective: the writer of this rank, for predictions of the batches of ``loader``.

    Args:
        loader: As the user gave it, not yet this rank's share.

    Raises:
        MisconfigurationException: There is something else in the folder; or a second loader.
    """
    assert run.job.write_to is not None
    if run.part_writer is not None:
        raise MisconfigurationException("predict(write_to=...) takes one loader: call predict for each, with a folder.")
    if has_argument(run.model.predict_step, "dataloader_iter"):
        raise MisconfigurationException(
            "predict(write_to=...) does not work with predict_step(dataloader_iter): let it take (batch, batch_idx)."
        )
    folder, world_size = PredictionFolder(run.job.write_to), run.strategy.world_size
    found: tuple[dict[str, Any], frozenset[int]] | None = None
    if run.strategy.is_global_zero:
        settings = folder.begin(_settings(run, loader))
        found = settings, frozenset(part.first // settings["batches_per_part"] for part in folder.parts())
    settings, done = run.strategy.broadcast(found)
    turns = Turns(world_size, run.strategy.global_rank, settings["batches_per_part"], done)
    return PartWriter(folder, settings, turns)


def _settings(run: Run, loader: Any) -> dict[str, Any]:
    if isinstance(loader, OwnShare):
        chunk, description = loader.turns.chunk, loader.description
    else:
        chunk, description = batches_per_part(loader_length(loader), run.strategy.world_size), _description(loader)
    model = {"class": type(run.model).__qualname__, "weights": _checksum(run.model)}
    return {"batches_per_part": chunk, "data": description, "model": model}


def _description(loader: Any) -> dict[str, Any]:
    """What tells the data of a loader from other data, as far as that shows."""
    description: dict[str, Any] = {"loader": type(loader).__name__}
    if isinstance(loader, DataLoader):
        rows = loader_length(loader.dataset)
        description.update(
            dataset=type(loader.dataset).__name__,
            rows=None if rows == float("inf") else int(rows),
            batch_size=loader.batch_size,
            drop_last=loader.drop_last,
        )
    batches = loader_length(loader)
    return {**description, "batches": None if batches == float("inf") else int(batches)}


def _checksum(model: torch.nn.Module) -> str:
    """Of the weights and buffers."""
    checksum = 0
    for name, value in model.state_dict().items():
        checksum = zlib.crc32(name.encode(), checksum)
        if isinstance(value, torch.Tensor) and value.numel():
            content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            checksum = zlib.crc32(content.numpy().data, checksum)
    return f"{checksum:08x}"
