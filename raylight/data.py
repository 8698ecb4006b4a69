"""Data of Ray Data: how a Trainer reads a ``ray.data.Dataset``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raylight.utilities.exceptions import MisconfigurationException

__all__ = ["RayDataLoader"]


@dataclass(frozen=True)
class RayDataLoader:
    """A ``ray.data.Dataset`` and how it is made into batches; to be given to a Trainer in place of a DataLoader.

    >>> loader = RayDataLoader(ray.data.read_parquet("s3://bucket/images"), batch_size=64)
    >>> trainer.fit(model, train_dataloaders=loader)

    A Dataset that is given as it is, is read as ``RayDataLoader(dataset)`` would be. It is not iterable itself: the
    Trainer divides the Dataset among the workers and streams each worker's part to it.

    Raises:
        MisconfigurationException: A value cannot work.
    """

    dataset: Any
    """The ``ray.data.Dataset``."""
    batch_size: int = 256
    """Rows per worker per step; Ray's own default."""
    collate_fn: Callable[[Any], Any] | None = None
    """Makes the batch of a dict of NumPy arrays, one per column; or one of ``ray.data.collate_fn``. None: a dict of
    tensors."""
    drop_last: bool = False
    """Leave out the rows at the end that are fewer than a batch."""
    local_shuffle_buffer_size: int | None = None
    """Training takes its batches at random from so many rows, or more, that each worker keeps. None: in their order."""
    prefetch_batches: int = 1
    """Batches that are made ahead, in threads of the worker."""

    def __post_init__(self) -> None:
        if not callable(getattr(self.dataset, "streaming_split", None)):
            raise MisconfigurationException(
                f"RayDataLoader takes a ray.data.Dataset, not a {type(self.dataset).__name__}: make one by "
                "ray.data.read_parquet(...) and the like, or use a torch DataLoader."
            )
        _require(self.batch_size, "batch_size", 1)
        _require(self.prefetch_batches, "prefetch_batches", 0)
        if self.local_shuffle_buffer_size is not None:
            _require(self.local_shuffle_buffer_size, "local_shuffle_buffer_size", self.batch_size)
        if self.collate_fn is not None and not callable(self.collate_fn):
            raise MisconfigurationException(f"collate_fn={self.collate_fn!r} must be a function of a batch, or None.")


def _require(value: Any, name: str, least: int) -> None:
    if type(value) is not int or value < least:
        bound = " (batch_size)" if name == "local_shuffle_buffer_size" else ""
        raise MisconfigurationException(f"{name}={value!r} must be an int of at least {least}{bound}.")
