"""CombinedLoader: several loaders as one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch.utils._pytree import tree_flatten, tree_unflatten

MODES = ("min_size", "max_size_cycle", "max_size", "sequential")


def loader_length(loader: Any) -> float:
    """Batches of a loader; inf when it does not know."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return math.inf


class CombinedLoader(Iterable[Any]):
    """Several loaders as one.

    Args:
        iterables: Any nesting of lists, tuples and dicts of loaders.
        mode: How they go together:

            - "min_size": a batch of each, until the shortest ends;
            - "max_size_cycle": a batch of each, until the longest ends; shorter ones start again;
            - "max_size": the same, with None for those that have ended;
            - "sequential": one loader after the other.

    Iterating gives ``(batch, batch_idx, dataloader_idx)``; the batch of the first three modes is nested as the loaders
    are, and its dataloader_idx is 0.
    """

    def __init__(self, iterables: Any, mode: str = "min_size") -> None:
        if mode not in MODES:
            raise ValueError(f"Unsupported mode {mode!r}, please select one of: {list(MODES)}.")
        self.mode = mode
        self._iterables = iterables
        self._flattened, self._spec = tree_flatten(iterables)
        self._limits: list[float] | None = None
        self._iterator: Iterator[tuple[Any, int, int]] | None = None

    @property
    def iterables(self) -> Any:
        """The loaders, nested as they were given."""
        return self._iterables

    @property
    def sampler(self) -> Any:
        """The loaders' samplers, nested as they are; None for one that has none."""
        return tree_unflatten([getattr(loader, "sampler", None) for loader in self._flattened], self._spec)

    @property
    def batch_sampler(self) -> Any:
        """The loaders' batch samplers, likewise."""
        return tree_unflatten([getattr(loader, "batch_sampler", None) for loader in self._flattened], self._spec)

    @property
    def flattened(self) -> list[Any]:
        """The loaders as a list."""
        return self._flattened

    @flattened.setter
    def flattened(self, loaders: list[Any]) -> None:
        if len(loaders) != len(self._flattened):
            raise ValueError(
                f"Mismatch in flattened length ({len(loaders)}) and existing length ({len(self._flattened)})"
            )
        self._flattened = loaders
        self._iterables = tree_unflatten(loaders, self._spec)

    @property
    def limits(self) -> list[float] | None:
        """Most batches to take of each loader, in the order of ``flattened``; one number, set, is for all of them."""
        return self._limits

    @limits.setter
    def limits(self, limits: float | list[float] | None) -> None:
        if isinstance(limits, int | float):
            limits = [limits] * len(self._flattened)
        if limits is not None and len(limits) != len(self._flattened):
            raise ValueError(
                f"Mismatch in number of limits ({len(limits)}) and number of iterables ({len(self._flattened)})"
            )
        self._limits = limits

    @property
    def lengths(self) -> list[float]:
        """Batches of each loader, limits applied; inf where unknown."""
        lengths = [loader_length(loader) for loader in self._flattened]
        limits = self.limits or [math.inf] * len(lengths)
        return [min(length, limit) for length, limit in zip(lengths, limits, strict=True)]

    @property
    def num_batches(self) -> float:
        """Batches in all; inf where unknown."""
        if not self._flattened:
            return 0
        combine: Callable[[list[float]], float] = {"min_size": min, "sequential": sum}.get(self.mode, max)  # type: ignore[assignment]
        return combine(self.lengths)

    def __len__(self) -> int:
        """As ``num_batches``, for who has called ``iter()``: only then the limits are sure to be those that hold."""
        if self._iterator is None:
            raise RuntimeError("Please call `iter(combined_loader)` first.")
        length = self.num_batches
        if math.isinf(length):
            raise NotImplementedError(f"`{type(self).__name__}` has a loader without `__len__`.")
        return int(length)

    def __iter__(self) -> Iterator[tuple[Any, int, int]]:
        self._iterator = self._sequence() if self.mode == "sequential" else self._together()
        return self

    def __next__(self) -> tuple[Any, int, int]:
        if self._iterator is None:
            raise RuntimeError("Please call `iter(combined_loader)` first.")
        return next(self._iterator)

    def reset(self) -> None:
        """Let go of the iterators, and with them of the processes that load for them."""
        self._iterator = None

    def _sequence(self) -> Iterator[tuple[Any, int, int]]:
        for dataloader_idx, (loader, length) in enumerate(zip(self._flattened, self.lengths, strict=True)):
            if length == 0:
                continue
            for batch_idx, batch in enumerate(loader):
                yield batch, batch_idx, dataloader_idx
                if batch_idx + 1 >= length:
                    break

    def _together(self) -> Iterator[tuple[Any, int, int]]:
        # Iterators are made at once, as torch draws their seeds from the global generator.
        iterators = [iter(loader) for loader in self._flattened]
        return self._rounds(iterators, self.lengths)

    def _rounds(self, iterators: list[Any], lengths: list[float]) -> Iterator[tuple[Any, int, int]]:
        ended = [False] * len(iterators)
        for batch_idx in itertools.count():
            if batch_idx >= self.num_batches:
                return
            batches = []
            for i in range(len(iterators)):
                batch = _END if ended[i] or batch_idx >= lengths[i] else next(iterators[i], _END)
                if batch is _END:
                    ended[i] = True
                    batch = self._after_the_end(iterators, i)
                batches.append(batch)
            if all(ended) or (self.mode == "min_size" and any(ended)):
                return
            yield tree_unflatten(batches, self._spec), batch_idx, 0

    def _after_the_end(self, iterators: list[Any], i: int) -> Any:
        """What stands for a batch of a loader that has ended."""
        if self.mode != "max_size_cycle":
            return None
        batch = next(iterators[i], _END)
        if batch is _END:
            iterators[i] = iter(self._flattened[i])
            batch = next(iterators[i], None)
        return batch


_END = object()
