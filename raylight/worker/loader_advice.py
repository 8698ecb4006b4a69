"""What is said of a dataloader that works, but perhaps not as its owner means."""

from __future__ import annotations

import multiprocessing
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from raylight.utilities.data import sized_len, suggested_max_num_workers, warn_of_length
from raylight.utilities.rank_zero import PossibleUserWarning, rank_zero_warn


def advise(loader: Any, prefix: str, workers_per_node: int, reloads: bool) -> None:
    """Warn about the length, the shuffling and the worker processes of ``loader``.

    Args:
        loader: As the user gave it, not yet this rank's share.
        prefix: "train", "val", "test" or "predict".
        workers_per_node: They share the node's cores.
        reloads: Whether loaders are asked for anew after some epochs.
    """
    length = sized_len(loader)
    if length is not None:
        warn_of_length(loader, length)
    if prefix != "train" and _is_shuffled(loader):
        _warn(
            f"Your `{prefix}_dataloader`'s sampler has shuffling enabled, it is strongly recommended that you turn "
            "shuffling off for val/test dataloaders."
        )
    if isinstance(loader, DataLoader):
        _advise_on_processes(loader, f"{prefix}_dataloader", suggested_max_num_workers(workers_per_node))
        if loader.persistent_workers and loader.pin_memory and reloads:
            _warn(
                "The combination of `DataLoader(pin_memory=True, persistent_workers=True)` and "
                "`Trainer(reload_dataloaders_every_n_epochs > 0)` can lead to instability in PyTorch. We recommend "
                "setting `pin_memory=False` in this case."
            )


def _advise_on_processes(loader: DataLoader[Any], name: str, most: int) -> None:
    context = loader.multiprocessing_context or multiprocessing
    if loader.num_workers > 0 and not loader.persistent_workers and context.get_start_method() == "spawn":
        rank_zero_warn(
            f"Consider setting `persistent_workers=True` in '{name}' to speed up the dataloader worker initialization."
        )
    elif loader.num_workers < 2 and most > 1:
        _warn(
            f"The '{name}' does not have many workers which may be a bottleneck. Consider increasing the value of the "
            f"`num_workers` argument` to `num_workers={most}` in the `DataLoader` to improve performance."
        )


def _is_shuffled(loader: Any) -> bool:
    if isinstance(getattr(loader, "dataset", None), IterableDataset):
        return False
    batches = getattr(loader, "batch_sampler", None)
    return isinstance(getattr(batches, "sampler", getattr(loader, "sampler", None)), RandomSampler)


def _warn(message: str) -> None:
    rank_zero_warn(message, category=PossibleUserWarning)
