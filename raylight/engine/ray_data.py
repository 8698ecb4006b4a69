"""Datasets of Ray Data on their way to the loops: each rank's part of one is a loader like any other.

A Dataset is cut into blocks of as many rows as some batches have, and the blocks are dealt to the ranks in turn. So the
ranks' batches are those that one process would make of the Dataset, none is repeated, and their order is the same each
time that the Dataset gives the same rows in the same order.

All ranks read a Dataset at the same time, from a coordinator that Ray starts: a pass begins when all ask for it.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raylight.checkpoint.prediction_files import PredictionFolder, batches_per_part
from raylight.config.messages import DataSource, Job
from raylight.data import RayDataLoader
from raylight.engine.failures import DATA_STREAM_ENDED
from raylight.utilities.combined_loader import CombinedLoader
from raylight.utilities.exceptions import MisconfigurationException, WorkerError
from raylight.utilities.rank_zero import rank_zero_warn
from raylight.utilities.seed import global_seed
from raylight.worker.data import map_loaders
from raylight.worker.evaluation import in_dataset_order
from raylight.worker.sharing import OwnShare, Turns

MOST_BATCHES = 64
"""In a block; each block costs some milliseconds of Ray's."""
BLOCKS_PER_WORKER = 32
"""At least, where the number of batches is known and large enough: one worker may have a block more than another."""
BATCHES_UNKNOWN = 4
"""In a block, where the number of batches is unknown."""
FAR = 1_000_003
"""A prime, between the seeds of two epochs."""


def is_dataset(loader: Any) -> bool:
    """Whether it is a Dataset of Ray Data, or a description of how to read one."""
    module = sys.modules.get("ray.data")  # takes seconds to import, and there is no Dataset without it
    return isinstance(loader, RayDataLoader) or (module is not None and isinstance(loader, module.Dataset))


def as_loader(loader: Any) -> RayDataLoader:
    return loader if isinstance(loader, RayDataLoader) else RayDataLoader(loader)


def has_dataset(data: DataSource) -> bool:
    """Whether a Dataset was given to the call."""
    found: list[Any] = []
    for prefix in PREFIXES:
        map_loaders(found.append, getattr(data, prefix))
    return any(map(is_dataset, found))


PREFIXES = ("train", "val", "test", "predict")


# ------------------------------------------------------------------------------------------------ what a Dataset is


@dataclass(frozen=True)
class Reading:
    """How the rows of a Dataset become batches; what a worker needs beside the rows."""

    batch_size: int
    collate_fn: Callable[[Any], Any] | None
    drop_last: bool
    local_shuffle_buffer_size: int | None
    prefetch_batches: int

    @classmethod
    def of(cls, loader: RayDataLoader) -> Reading:
        return cls(**{name: getattr(loader, name) for name in cls.__dataclass_fields__})

    def num_batches(self, rows: int | None) -> float:
        if rows is None:
            return math.inf
        return rows // self.batch_size if self.drop_last else math.ceil(rows / self.batch_size)


def _operators(dataset: Any) -> Iterator[Any]:
    """Of its plan, as far as Ray shows it."""
    waiting = [dag] if (dag := getattr(getattr(dataset, "_logical_plan", None), "dag", None)) is not None else []
    while waiting:
        operator = waiting.pop()
        yield operator
        waiting.extend(getattr(operator, "input_dependencies", ()))


_row_counts: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def count_rows(dataset: Any) -> int | None:
    """Rows, where Ray knows them or finds them in the metadata of Parquet files; else None."""
    if dataset not in _row_counts:
        known = dataset._meta_count() if hasattr(dataset, "_meta_count") else None
        names = [operator.name for operator in _operators(dataset)]
        if known is None and names and all(_is_parquet_metadata(name) for name in names):
            known = dataset.count()
        if known is None:
            return None
        _row_counts[dataset] = int(known)
    return _row_counts[dataset]


def _is_parquet_metadata(operator: str) -> bool:
    return operator == "ListFiles" or (operator.startswith("Read") and "Parquet" in operator)


def is_materialized(dataset: Any) -> bool:
    """Whether its rows are in the cluster's memory."""
    from ray.data.dataset import MaterializedDataset

    return isinstance(dataset, MaterializedDataset)


def changes_order(dataset: Any) -> bool:
    """Whether the plan shuffles without a seed, or with another one each time, so that passes differ."""
    for operator in _operators(dataset):
        seed = getattr(operator, "seed_config", None)
        if seed is not None and (seed.seed is None or getattr(seed, "reseed_after_execution", False)):
            return True
        shuffle = getattr(getattr(operator, "scanner", None), "shuffle", None)
        if shuffle is not None and (isinstance(shuffle, str) or getattr(shuffle, "seed", None) is None):
            return True
    return False


def _in_order(dataset: Any) -> Any:
    """A copy whose passes give the rows in one order, whichever task is done first."""
    copied = dataset.copy(dataset, _deep_copy=True)
    copied.context.execution_options.preserve_order = True
    return copied


def _description(dataset: Any, reading: Reading, rows: int | None) -> dict[str, Any]:
    schema = dataset.schema(fetch_if_missing=False)
    return {
        "loader": "ray.data.Dataset",
        "columns": None if schema is None else list(schema.names),
        "files": sorted({str(path) for each in _operators(dataset) for path in getattr(each, "paths", ())}),
        "rows": rows,
        "batch_size": reading.batch_size,
        "drop_last": reading.drop_last,
    }


def _check(prefix: str, loader: RayDataLoader, writes: bool) -> None:
    """Raise for what cannot work, and warn of what is less than one may expect."""
    if loader.local_shuffle_buffer_size is not None and prefix != "train":
        raise MisconfigurationException(
            f"local_shuffle_buffer_size={loader.local_shuffle_buffer_size} is for training: the {prefix} data is read "
            "in the Dataset's order. Leave it out there."
        )
    if not changes_order(loader.dataset):
        return
    if prefix == "train":
        rank_zero_warn(
            "The Ray Dataset for training is shuffled anew each time that it is read: after a lost worker, or from a "
            "checkpoint in mid-epoch, training goes on after as many batches, but they are of another order, so some "
            "rows of that epoch may come twice and others not. A shuffle with a seed, or "
            "RayDataLoader(local_shuffle_buffer_size=...), is repeated exactly."
        )
    elif prefix == "predict" and writes:
        raise MisconfigurationException(
            "predict(write_to=...) writes predictions in the Dataset's order, and this Dataset is shuffled anew each "
            "time that it is read. Leave out the shuffle, or give it a seed."
        )


def _refuse_empty(prefix: str, total: float, rows: int | None, reading: Reading) -> None:
    if total:
        return
    rows_told = "no rows" if not rows else f"{rows} rows, which are no whole batch of {reading.batch_size}"
    raise MisconfigurationException(
        f"The Ray Dataset for {_told(prefix)} has {rows_told}: check its source and its filters"
        f"{', or use drop_last=False' if rows else ''}."
    )


def _told(prefix: str) -> str:
    return {"train": "training", "val": "validation", "test": "testing", "predict": "prediction"}[prefix]


# ------------------------------------------------------------------------------------------------ on the driver


@dataclass(frozen=True)
class Slot:
    """Stands in a Job for a Dataset that was given to the call."""

    number: int
    reading: Reading


@dataclass(frozen=True)
class Stream:
    """One rank's end of a Dataset."""

    iterator: Any
    """A ``ray.data.DataIterator``; None: there are fewer batches than ranks, and this one has none."""
    turns: Turns
    total: float
    description: dict[str, Any]


class Feed:
    """A Dataset that was given to a call, for the workers.

    Args:
        prefix: What it is for.
        loader: How it is read.
        write_to: Where its predictions go; None: nowhere.
    """

    def __init__(self, prefix: str, loader: RayDataLoader, write_to: str | None) -> None:
        _check(prefix, loader, write_to is not None)
        self._reading = Reading.of(loader)
        self._dataset = _in_order(loader.dataset)
        self._write_to = write_to if prefix == "predict" else None
        self.rows = count_rows(loader.dataset)
        self.total = self._reading.num_batches(self.rows)
        _refuse_empty(prefix, self.total, self.rows, self._reading)
        self._description = _description(loader.dataset, self._reading, self.rows)
        self._dataset.context.enable_progress_bars = False  # Ray would draw them into raylight's
        self._cut: dict[int, Any] = {}
        """The Dataset, by batches in a block."""

    def _chunk(self, world_size: int) -> int:
        if self._write_to is not None:
            settings = PredictionFolder(self._write_to).settings()
            return settings["batches_per_part"] if settings else batches_per_part(self.total, world_size)
        if world_size == 1:
            return 1
        if math.isinf(self.total):
            return BATCHES_UNKNOWN
        return min(MOST_BATCHES, max(1, int(self.total) // (BLOCKS_PER_WORKER * world_size)))

    def _in_blocks(self, chunk: int) -> Any:
        if chunk not in self._cut:
            if "strict" not in inspect.signature(self._dataset.repartition).parameters:
                raise MisconfigurationException(
                    "A Ray Dataset on several workers needs Dataset.repartition(strict=...), which this version of Ray "
                    "lacks: install a later one, or use one worker."
                )
            rows = chunk * self._reading.batch_size
            cut = self._dataset.repartition(target_num_rows_per_block=rows, strict=True)
            self._cut[chunk] = cut.materialize() if is_materialized(self._dataset) else cut
        return self._cut[chunk]

    def streams(self, world_size: int) -> list[Stream]:
        """Runs on the driver, for each attempt: the ends for all ranks. What had earlier ones cannot go on."""
        chunk = self._chunk(world_size)
        chunks = self.total if math.isinf(self.total) else math.ceil(self.total / chunk)
        readers = int(min(world_size, chunks))
        dataset = self._dataset if world_size == 1 else self._in_blocks(chunk)
        iterators = dataset.streaming_split(readers, equal=False)
        return [
            Stream(
                iterators[rank] if rank < readers else None,
                Turns(world_size, rank, chunk),
                self.total,
                self._description,
            )
            for rank in range(world_size)
        ]


def take_out(job: Job) -> tuple[DataSource, list[Feed]]:
    """Runs on the driver: the Job's data with a Slot for each Dataset, and these.

    Raises:
        MisconfigurationException: They cannot be shared by several workers in the way that is asked for.
    """
    feeds: list[Feed] = []

    def put(prefix: str, loader: Any) -> Any:
        if not is_dataset(loader):
            return loader
        described = as_loader(loader)
        feeds.append(Feed(prefix, described, job.write_to))
        return Slot(len(feeds) - 1, Reading.of(described))

    for prefix in PREFIXES:
        _check_several(job, prefix)
    return _mapped(job.data, put), feeds


def without_datasets(data: DataSource) -> DataSource:
    """What else there is in it, which has to be sent to the workers."""
    return _mapped(data, lambda _, loader: as_loader(loader).collate_fn if is_dataset(loader) else loader)


def _mapped(data: DataSource, function: Callable[[str, Any], Any]) -> DataSource:
    mapped = {prefix: map_loaders(functools.partial(function, prefix), getattr(data, prefix)) for prefix in PREFIXES}
    return DataSource(**mapped, datamodule=data.datamodule)


def _check_several(job: Job, prefix: str) -> None:
    loaders, found = getattr(job.data, prefix), list[Any]()
    map_loaders(found.append, loaders)
    if not any(map(is_dataset, found)):
        return
    if prefix == "train" and job.placement.is_elastic:
        raise MisconfigurationException(
            "num_workers=(min, max) shares an epoch anew when workers come or go, which a Ray Dataset cannot. Use a "
            "fixed num_workers, or a DataLoader of a map-style dataset."
        )
    mode = job.config.multiple_trainloader_mode if prefix == "train" else "sequential"
    mode = loaders.mode if isinstance(loaders, CombinedLoader) else mode
    if len(found) > 1 and job.placement.num_workers > 1 and mode == "max_size_cycle":
        raise MisconfigurationException(
            'With several loaders the mode "max_size_cycle" starts the shorter ones again, which workers may do at '
            "different steps, and a Ray Dataset is read by all of them together. Use "
            'CombinedLoader(loaders, mode="max_size") or "min_size".'
        )


def close(streams: list[list[Stream]]) -> None:
    """Runs on the driver: end the coordinators, and with them whoever still waits for one."""
    import ray

    if not ray.is_initialized():  # the cluster is gone, and they with it
        return
    coordinators = [getattr(stream.iterator, "_coord_actor", None) for by_rank in streams for stream in by_rank[:1]]
    for coordinator in filter(None, coordinators):
        ray.kill(coordinator)


def gathered(by_rank: list[list[list[tuple[int, Any]]]]) -> Any:
    """Runs on the driver: all ranks' predictions, in order; those for a Dataset as a Dataset."""
    return in_dataset_order(by_rank, _as_dataset)


def _as_dataset(batches: list[Any]) -> Any:
    arrow = sys.modules.get("pyarrow")
    if arrow is None or not batches or not isinstance(batches[0], arrow.Table):
        return batches
    import ray.data

    return ray.data.from_arrow(arrow.concat_tables(batches).combine_chunks())


# ------------------------------------------------------------------------------------------------ in a worker


class DatasetShare(OwnShare):
    """One rank's batches of a Dataset.

    Args:
        stream: Where the rows come from.
        reading: How they become batches.
    """

    def __init__(self, stream: Stream, reading: Reading) -> None:
        super().__init__(stream.turns, stream.total, stream.description)
        self._stream = stream
        self._reading = reading

    def __iter__(self) -> Iterator[Any]:
        if self._stream.iterator is None:
            return
        batches = self._open()
        try:
            yield from batches
        finally:
            batches.close()  # Ray's coordinator hears that this rank wants no more

    def _open(self) -> Any:
        from ray.exceptions import RayActorError

        reading, turns = self._reading, self.turns
        shuffles = reading.local_shuffle_buffer_size is not None
        try:
            yield from self._stream.iterator.iter_torch_batches(
                batch_size=reading.batch_size,
                collate_fn=reading.collate_fn or _numbers(),
                drop_last=reading.drop_last,
                local_shuffle_buffer_size=reading.local_shuffle_buffer_size,
                local_shuffle_seed=(global_seed() + self.epoch * FAR + turns.rank) % 2**32 if shuffles else None,
                prefetch_batches=reading.prefetch_batches,
                device="cpu",  # the run moves them
            )
        except RayActorError as error:
            raise WorkerError(f"{DATA_STREAM_ENDED}: its coordinator is gone.") from error


def in_worker(streams: tuple[Stream, ...], world_size: int) -> Callable[[str, Any], Any]:
    """Runs in every worker: makes loaders of Slots, and of Datasets that hooks return."""

    def adapt(prefix: str, loader: Any) -> Any:
        if isinstance(loader, Slot):
            return DatasetShare(streams[loader.number], loader.reading)
        if not is_dataset(loader):
            return loader
        if world_size > 1:
            raise MisconfigurationException(
                f"{prefix}_dataloader() returned a Ray Dataset in each of {world_size} workers, and each would read "
                "all of it. Give the Dataset to the call instead: trainer.fit(model, train_dataloaders=dataset)."
            )
        return _alone(prefix, as_loader(loader), None)

    return adapt


def in_this_process(write_to: str | None, make_room: Callable[[], None]) -> Callable[[str, Any], Any]:
    """Makes loaders of Datasets for the one worker that this process is.

    Args:
        make_room: Called before one that has to be computed.
    """

    def adapt(prefix: str, loader: Any) -> Any:
        if not is_dataset(loader):
            return loader
        described = as_loader(loader)
        if not is_materialized(described.dataset):
            make_room()
        return _alone(prefix, described, write_to)

    return adapt


def _alone(prefix: str, loader: RayDataLoader, write_to: str | None) -> DatasetShare:
    _check(prefix, loader, write_to is not None)
    reading, rows = Reading.of(loader), count_rows(loader.dataset)
    total = reading.num_batches(rows)
    _refuse_empty(prefix, total, rows, reading)
    chunk = batches_per_part(total, 1)
    if write_to is not None and prefix == "predict":
        settings = PredictionFolder(write_to).settings()
        chunk = settings["batches_per_part"] if settings else chunk
    iterator = _in_order(loader.dataset).iterator()
    description = _description(loader.dataset, reading, rows)
    return DatasetShare(Stream(iterator, Turns(chunk=chunk), total, description), reading)


def _numbers() -> Any:
    from ray.data.collate_fn import NumpyBatchCollateFn

    class Numbers(NumpyBatchCollateFn):
        """A dict of tensors, one per column."""

        def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> Any:
            arrays = {name: _stacked(column) for name, column in batch.items()}
            wrong = {name: array for name, array in arrays.items() if array.dtype.kind not in "fiubc"}
            if wrong:
                told = ", ".join(f"{name} (such as {column[0]!r:.40})" for name, column in wrong.items())
                raise MisconfigurationException(
                    f"These columns of the Ray Dataset are no numbers, or not of one shape: {told}. Leave them out, "
                    f"dataset.drop_columns({list(wrong)}), or make the batch yourself: "
                    "raylight.data.RayDataLoader(dataset, collate_fn=...)."
                )
            return {name: _tensor(array) for name, array in arrays.items()}

    return Numbers()


def _stacked(column: Any) -> np.ndarray[Any, Any]:
    """Lists of one length are the rows of an array."""
    array = np.asarray(column)
    if array.dtype == object and len(array) and isinstance(array[0], np.ndarray | list):
        try:
            return np.stack([np.asarray(each) for each in array])
        except ValueError:  # of different shapes
            return array
    return array


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    # What lies in Ray's shared memory must not be written to.
    return torch.from_numpy(array if array.flags.writeable else array.copy())
