"""Where a training loader stands in its epoch, and how it goes on from there, to the last random number.

What an epoch draws is drawn at three moments: when the loader is started (the seed of its processes), when the first
batch is fetched (the order of the samples), and by the datasets, in this process or in the loader's own. A place holds
the random numbers of each.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from raylight.utilities import seed

Place = dict[str, Any]
"""Plain values:
"started": random numbers when the loader was started, "fetched": when its first batch was; None: it was not;
"ahead": before the batch was fetched that is not used yet, where batches are fetched ahead;
"starts": of several loaders, ``Tracked.start`` of each;
"processes_stay": the loader's processes are those of the epoch before, which have their seed;
"generators": of each loader, the states of its own generators at the start, and "generators_now";
"processes": where each of the loader's processes stood before it made batch "aligned" or a later one; None: as it was
seeded."""


def changed(loader: DataLoader[Any], **attributes: Any) -> DataLoader[Any]:
    """A copy of ``loader`` with other attributes.

    DataLoader refuses to be changed after ``__init__``, and the arguments of a subclass are unknown; copying keeps
    whatever the subclass is.
    """
    copied = copy.copy(loader)
    copied.__dict__.update(attributes, _iterator=None)
    return copied


def is_map_style(loader: Any) -> bool:
    """Whether batches can be skipped without loading them."""
    return isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)


# ------------------------------------------------------------------------------------------------ generators


def generators_of(loader: Any) -> dict[str, torch.Generator]:
    """The generators that the user has given to the loader or its samplers."""
    found = {}
    for path in ("generator", "sampler.generator", "batch_sampler.sampler.generator", "batch_sampler.generator"):
        obj = loader
        for name in path.split("."):
            obj = getattr(obj, name, None)
        if isinstance(obj, torch.Generator):
            found[path] = obj
    return found


def generator_states(loader: Any) -> dict[str, torch.Tensor]:
    return {path: generator.get_state() for path, generator in generators_of(loader).items()}


def set_generator_states(loader: Any, states: dict[str, torch.Tensor]) -> None:
    for path, generator in generators_of(loader).items():
        if path in states:
            generator.set_state(states[path])


class Tracked(Iterable[Any]):
    """One of several loaders, of which the shorter ones start again; ``start`` is the latest of its starts.

    Args:
        loader: What to iterate.
        start: Of another process's: when this one has started as often, it starts in the same way.
    """

    def __init__(self, loader: Any, start: dict[str, Any] | None = None) -> None:
        self.loader = loader
        self.start: dict[str, Any] = {"number": 0, "started": None, "fetched": None}
        self._same_as = start

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        number = self.start["number"] + 1
        same = self._same_as if self._same_as is not None and self._same_as["number"] == number else None
        self.start = {"number": number, "started": _random_numbers(same, "started"), "fetched": None}
        return self._batches(iter(self.loader), same)

    def _batches(self, iterator: Iterator[Any], same: dict[str, Any] | None) -> Iterator[Any]:
        self.start["fetched"] = _random_numbers(same, "fetched")
        yield from iterator


def _random_numbers(same: dict[str, Any] | None, moment: str) -> bytes:
    """Where they are, after they were put where they were for another process."""
    if same is not None and same[moment] is not None:
        seed.set_packed_rng_state(same[moment])
    return seed.packed_rng_state()


# ------------------------------------------------------------------------------------------------ its processes


class WithRandomState:
    """A ``collate_fn`` that adds to each batch the random numbers that it has left, where it used any."""

    def __init__(self, collate_fn: Callable[[Any], Any]) -> None:
        self.collate_fn = collate_fn
        self._last = b""

    def __call__(self, samples: Any) -> tuple[Any, bytes]:
        batch = self.collate_fn(samples)
        state = seed.packed_rng_state()
        same, self._last = state == self._last, state
        return batch, b"" if same else state


class FromRandomState:
    """A ``worker_init_fn`` that lets each process go on with the random numbers of another before it."""

    def __init__(self, init_fn: Callable[[int], None] | None, states: list[bytes | None]) -> None:
        self.init_fn = init_fn
        self.states = states

    def __call__(self, worker_id: int) -> None:
        if self.init_fn is not None:
            self.init_fn(worker_id)
        state = self.states[worker_id]
        if state is not None:
            seed.set_packed_rng_state(state)


class ProcessStates:
    """The random numbers of a loader's processes, which take the batches in turn, after each batch taken from them."""

    def __init__(self, num_processes: int) -> None:
        self.num_processes = num_processes
        self.origin = 0
        """Index in its epoch of a batch that the first process has made."""
        self._first: list[bytes | None] = [None] * num_processes
        """Where each began; None: as it was seeded."""
        self._after: dict[int, bytes | None] = {}
        """By batch index; of the last two that each process has made."""

    def start(self, first: list[bytes | None] | None, origin: int) -> None:
        """An epoch begins, or goes on, at batch ``origin``; ``first``: see above."""
        self.origin = origin
        self._first = first or [None] * self.num_processes
        self._after.clear()

    def before(self, batch: int) -> list[bytes | None]:
        """Where each stood when all batches before ``batch`` were made, and no other."""
        latest = {self._process_of(index): self._after[index] for index in sorted(self._after) if index < batch}
        return [latest.get(process, first) for process, first in enumerate(self._first)]

    def aligned(self, batch: int) -> int:
        """The last batch up to ``batch`` that the first process makes."""
        return batch - (batch - self.origin) % self.num_processes

    def unpack(self, batches: Iterable[tuple[Any, bytes]], begin: int) -> Iterator[Any]:
        """The batches as they were, from batch ``begin`` on."""
        for index, (batch, state) in enumerate(batches, begin):
            before = index - self.num_processes
            self._after[index] = state or self._after.get(before, self._first[self._process_of(index)])
            self._after.pop(before - self.num_processes, None)
            yield batch

    def _process_of(self, batch: int) -> int:
        return (batch - self.origin) % self.num_processes


# ------------------------------------------------------------------------------------------------ going on


class Rest(Iterable[Any]):
    """What a sampler has left."""

    def __init__(self, sampler: Any, items: Iterator[Any], taken: int) -> None:
        self.sampler = sampler
        self._items = items
        self._taken = taken

    def __iter__(self) -> Iterator[Any]:
        return self._items

    def __len__(self) -> int:
        return max(0, len(self.sampler) - self._taken)


def go_on(loader: DataLoader[Any], place: Place, states: dict[str, Any], begin: int) -> Iterator[Any]:
    """An iterator of the loader's batches from batch ``begin`` of the epoch on; those before are not loaded again.

    All generators are left anywhere.

    Args:
        loader: Of a map-style dataset; with processes, one that ``WithRandomState`` has been given to.
        states: Of its own generators, when the epoch began.
    """
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    seed.set_packed_rng_state(place["started"])
    set_generator_states(loader, states)
    if not place["processes_stay"]:
        _draw_base_seed(loader)
    if not loader.num_workers and place["fetched"] is not None:
        seed.set_packed_rng_state(place["fetched"])
    items = iter(getattr(loader, name))
    for _ in itertools.islice(items, begin):
        pass
    attributes: dict[str, Any] = {name: Rest(getattr(loader, name), items, begin)}
    if loader.num_workers:
        attributes["worker_init_fn"] = FromRandomState(loader.worker_init_fn, place["processes"])
    seed.set_packed_rng_state(place["started"])
    set_generator_states(loader, states)
    rest = changed(loader, **attributes)
    iterator: Any = iter(rest)
    if loader.num_workers and loader.persistent_workers:  # they stay for the next epochs, which begin at the beginning
        iterator._index_sampler = loader._index_sampler
        loader._iterator = iterator
    return iterator  # type: ignore[no-any-return]


def _draw_base_seed(loader: DataLoader[Any]) -> None:
    """What torch draws when a loader is started, before it asks its sampler for anything."""
    torch.empty((), dtype=torch.int64).random_(generator=loader.generator)
