"""Questions about batches and dataloaders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import WarningCache, rank_zero_warn

warning_cache = WarningCache()


def extract_batch_size(batch: Any) -> int:
    """Samples in ``batch``: the first dimension of its first tensor, where a tensor without dimensions counts 1.

    Warns, once, where another tensor has another first dimension.

    Raises:
        MisconfigurationException: There is no tensor in it.
        RecursionError: It contains itself.
    """
    unknown = (
        "We could not infer the batch_size from the batch. Either simplify its structure"
        " or provide the batch_size as `self.log(..., batch_size=batch_size)`."
    )
    first: int | None = None
    try:
        for size in _sizes(batch):
            if first is None:
                first = size
            elif size != first:
                warning_cache.warn(
                    "Trying to infer the `batch_size` from an ambiguous collection. The batch size we"
                    f" found is {first}. To avoid any miscalculations, use `self.log(..., batch_size=batch_size)`."
                )
                break
    except RecursionError:
        raise RecursionError(unknown) from None
    if first is None:
        raise MisconfigurationException(unknown)
    return first


def _sizes(batch: Any) -> Iterator[int | None]:
    """The first dimension of each tensor in ``batch``; None for each leaf that is none."""
    if isinstance(batch, Tensor):
        yield batch.size(0) if batch.ndim else 1
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _sizes(value)
    elif isinstance(batch, Iterable) and not isinstance(batch, str):
        for value in batch:
            yield from _sizes(value)
    elif is_dataclass(batch) and not isinstance(batch, type):
        for field in fields(batch):
            yield from _sizes(getattr(batch, field.name))
    else:
        yield None


def sized_len(dataloader: object) -> int | None:
    """``len(dataloader)``, or None where it has none."""
    try:
        return len(dataloader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def has_iterable_dataset(dataloader: object) -> bool:
    """Whether the dataloader's samples come from an ``IterableDataset``."""
    return isinstance(getattr(dataloader, "dataset", None), IterableDataset)


def has_len_all_ranks(
    dataloader: DataLoader[Any] | object,
    strategy: Any,
    allow_zero_length_dataloader_with_multiple_devices: bool = False,
) -> bool:
    """Collective: whether ``dataloader`` has a length, on every rank.

    Raises:
        RuntimeError: This rank has no batch while others have, and that was not allowed.
    """
    length = sized_len(dataloader)
    if length is None:
        return False
    name = type(dataloader).__name__
    total = int(strategy.reduce(torch.tensor(length, device=strategy.root_device), reduce_op="sum"))
    warn_of_length(dataloader, total)
    if total and not length:
        if not allow_zero_length_dataloader_with_multiple_devices:
            raise RuntimeError(
                f"`{name}` within local rank has zero length. Please make sure that it returns at least 1 batch."
            )
        rank_zero_warn(f"`{name}` has no batch on this rank, but on others: mind uneven numbers of batches.")
    return True


def warn_of_length(dataloader: object, total: int) -> None:
    """Warn where a dataloader has no batch, or where its length may be wrong.

    Args:
        dataloader: One that knows its length.
        total: That length, over all ranks.
    """
    if total == 0:
        name = type(dataloader).__name__
        rank_zero_warn(f"Total length of `{name}` across ranks is zero. Please make sure this was your intention.")
    if has_iterable_dataset(dataloader):
        rank_zero_warn(
            "Your `IterableDataset` has `__len__` defined. In combination with multi-process data loading (when "
            "num_workers > 1), `__len__` could be inaccurate if each worker is not configured independently to avoid "
            "having duplicate data."
        )


def suggested_max_num_workers(local_world_size: int) -> int:
    """Most processes that a DataLoader of each worker should load with, one core left for training.

    Args:
        local_world_size: Workers on this node.
    """
    if local_world_size < 1:
        raise ValueError(f"`local_world_size` should be >= 1, got {local_world_size}.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // local_world_size - 1)
