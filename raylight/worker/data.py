"""Loaders as one rank uses them: limits, the place in the epoch, the loaders' own processes."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

from raylight.utilities.combined_loader import CombinedLoader, loader_length
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_warn
from raylight.utilities.seed import packed_rng_state, seed_dataloader_worker, set_packed_rng_state, workers_are_seeded
from raylight.worker.loader_place import (
    Place,
    ProcessStates,
    Tracked,
    WithRandomState,
    changed,
    generator_states,
    go_on,
    is_map_style,
    set_generator_states,
)
from raylight.worker.sharing import SkipFirst, elastic_share, set_epoch

if TYPE_CHECKING:
    from raylight.strategies.base import Strategy
    from raylight.worker.throughput import Throughput

IN_ACTOR_VARIABLE = "RAYLIGHT_WORKER"
"""Set in the environment of a worker process."""


class IndexRecord(Sampler[Any]):
    """Another sampler or batch sampler, and what it has given that was not asked for yet."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = items
        self._given: deque[Any] = deque()

    def __iter__(self) -> Iterator[Any]:
        self._given.clear()
        for item in self.items:
            self._given.append(item if isinstance(item, list | tuple) else [item])
            yield item

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def next_batch(self) -> Any:
        """Indices of the next batch's samples; a loader with worker processes may be several batches ahead."""
        return self._given.popleft()


def prepare_workers(loader: Any) -> Any:
    """Make the loader's own worker processes safe inside a Ray actor, and seed them where that was asked for."""
    if not isinstance(loader, DataLoader) or loader.num_workers == 0:
        return loader
    changes: dict[str, Any] = {}
    if os.environ.get(IN_ACTOR_VARIABLE) and loader.multiprocessing_context is None:
        # An actor has threads that hold locks; a forked child would inherit the locks and not the threads.
        changes["_DataLoader__multiprocessing_context"] = torch.multiprocessing.get_context("forkserver")
    if workers_are_seeded() and loader.worker_init_fn is None:
        changes["worker_init_fn"] = seed_dataloader_worker
    return changed(loader, **changes) if changes else loader


def limit_batches(length: float, limit: int | float, flag: str) -> float:
    """Batches to take of a loader of ``length`` (inf: unknown) under ``limit_..._batches``.

    Raises:
        MisconfigurationException: A share of an unknown length, or one so small that no batch is left.
    """
    stage = flag.removeprefix("limit_").removesuffix("_batches")
    if isinstance(limit, int) or limit == 0:
        return min(length, limit)
    if math.isinf(length):
        if limit == 1.0:
            return math.inf
        raise MisconfigurationException(
            f"When using an `IterableDataset`, `Trainer({flag})` must be `1.0` or an int: a share of a loader that has "
            f"no length is unknown. An int specifies `num_{stage}_batches` to use."
        )
    count = int(length * limit)
    if count == 0 and length > 0:
        raise MisconfigurationException(
            f"You requested to check {limit} of the `{stage}_dataloader` but {limit} * {int(length)} < 1. Please "
            f"increase the `{flag}` argument. Try at least `{flag}={1 / length}`"
        )
    return count


class TrainData:
    """Training's batches on this rank.

    Args:
        loaders: A loader, or a nesting of them or a CombinedLoader, already this rank's share.
        limit: ``limit_train_batches``.
        mode: How several loaders go together, unless they come in a CombinedLoader.
    """

    def __init__(self, loaders: Any, limit: int | float, mode: str = "max_size_cycle") -> None:
        self.combined = combine(loaders, mode)
        if self.combined.mode == "sequential":
            raise ValueError(
                '`Trainer.fit` does not support the `CombinedLoader(mode="sequential")` mode. The available modes are: '
                "['min_size', 'max_size_cycle', 'max_size']"
            )
        self._elastic = elastic_share(loaders)
        """How the ranks share the epoch, where their number may change."""
        if self._elastic is not None:
            rounds = limit_batches(self._elastic.num_rounds, limit, "limit_train_batches")
            self._elastic.num_rounds = int(rounds)
        self.combined.limits = [
            limit_batches(loader_length(loader), 1.0 if self._elastic is not None else limit, "limit_train_batches")
            for loader in self.combined.flattened
        ]
        self.num_batches = self.combined.num_batches
        self._single = not isinstance(loaders, CombinedLoader | list | tuple | dict)
        self._iterator: Iterator[Any] | None = None
        self._epoch: int | None = None
        """The one that the loaders were told last."""
        self.is_uneven = False
        """The ranks may have different numbers of batches: those that run out repeat their last one."""
        self.in_shadow = False
        """The batch at work is such a repetition."""
        self._any_has: Callable[[bool], bool] = bool
        """Collective: whether any rank has what this one may have."""
        self._states: list[dict[str, Any]] = []
        """Of loaders that keep one, to start from."""
        self.loaders = self.combined.flattened
        """As they are iterated."""
        self._processes: ProcessStates | None = None
        loader: Any = self.loaders[0] if self._single else None
        if is_map_style(loader) and loader.num_workers and not _is_stateful(loader):
            self._processes = ProcessStates(loader.num_workers)
            self.loaders = [changed(loader, collate_fn=WithRandomState(loader.collate_fn))]
        self._place: Place | None = None
        """Where the epoch at work began; None between two."""
        self._taken = 0
        """Batches of the last epoch."""
        self._tracked: list[Tracked] = []
        """The loaders, where there are several."""

    def set_epoch(self, epoch: int) -> None:
        if epoch != self._epoch:
            for loader in self.combined.flattened:
                set_epoch(loader, epoch)
        self._epoch = epoch
        if self._elastic is not None:
            self.num_batches, self.is_uneven = self._elastic.longest, self._elastic.is_uneven

    def done_by_all(self, batches: int) -> int | None:
        """Batches of the epoch that all ranks have done when this one has done ``batches``.

        None where the ranks cannot share the rest anew.
        """
        return self._elastic.done(batches) if self._elastic is not None else None

    @property
    def share(self) -> tuple[int, int] | None:
        """Where in the epoch at work these ranks began to share it, where that can change; see ``ElasticShare``."""
        return self._elastic.origin if self._elastic is not None else None

    @share.setter
    def share(self, origin: tuple[int, int] | None) -> None:
        if self._elastic is not None and origin is not None:
            self._elastic.origin = origin

    def use_generators(self, states: list[dict[str, Any]] | None) -> None:
        """Put the loaders' own generators back to where they were when the epoch at work began elsewhere."""
        for loader, own in zip(self.loaders, states or [], strict=False):
            set_generator_states(loader, own)

    def take_over(self, done: int) -> int:
        """The ranks share anew what is left of the epoch at work, after ``done`` batches of all.

        Returns:
            How many of these count as this rank's.
        """
        assert self._elastic is not None
        self._states = []  # of a loader that kept its own place, among other ranks
        return self._elastic.go_on(done)

    def is_exhausted(self, batches: int) -> bool:
        """Whether this rank has no batch left after ``batches``, though others may have, and can be given another's."""
        return self._elastic is not None and batches >= len(self._elastic)

    def agree(self, strategy: Strategy) -> None:
        """Collective: find out whether all ranks have as many batches.

        Raises:
            MisconfigurationException: Some rank has none at all.
        """
        if strategy.world_size == 1 or self._elastic is not None:
            return
        lengths = [loader_length(loader) for loader in self.combined.flattened]
        mine = (self.num_batches, not any(map(math.isinf, lengths)))
        by_rank: list[tuple[float, bool]] = strategy.all_gather_object(mine)
        counts = [count for count, _ in by_rank]
        if all(is_sized for _, is_sized in by_rank) and len(set(counts)) == 1:
            return
        if all(is_sized for _, is_sized in by_rank) and any(counts) and not all(counts):
            raise MisconfigurationException(
                f"The workers have {counts} training batches, by rank: each needs at least one. Use fewer workers, "
                "smaller batches, or divide the data otherwise."
            )
        self.is_uneven = True
        self.num_batches = max(counts)
        self._any_has = functools.partial(strategy.reduce_boolean_decision, all=False)
        if len(set(counts)) > 1:
            rank_zero_warn(
                f"The workers have different numbers of training batches, by rank: {counts}. One that runs out repeats "
                "its last batch, which counts for nothing, until all are done."
            )

    def state_dicts(self) -> list[dict[str, Any]]:
        """States of the loaders, where all of them keep one (torchdata's StatefulDataLoader); else empty."""
        loaders = self.combined.flattened
        return [loader.state_dict() for loader in loaders] if all(map(_is_stateful, loaders)) else []

    def load_state_dicts(self, states: list[dict[str, Any]]) -> None:
        """Take back what ``state_dicts`` gave: the loaders themselves begin where they were."""
        if math.isinf(self.num_batches):
            return  # one batch was fetched ahead when the state was taken; skipping is exact
        if len(states) == len(self.combined.flattened) and all(map(_is_stateful, self.combined.flattened)):
            self._states = states

    def start(self, skip: int = 0, place: Place | None = None) -> None:
        """Begin an epoch; torch draws the loader's seed here.

        Args:
            skip: Batches of this epoch that are done already. A DataLoader does not load them again.
            place: Where the loaders stood when they were done. All generators but the loaders' own are left anywhere.
        """
        if place is not None and not self._states:
            self._go_on(skip, place)
            return
        self._place = {
            "started": packed_rng_state(),
            "fetched": None,
            "processes_stay": self._single and getattr(self.loaders[0], "_iterator", None) is not None,
            "generators": self._generator_states(),
        }
        if self._states and skip:
            for loader, state in zip(self.loaders, self._states, strict=True):
                loader.load_state_dict(state)
            skip = 0
        self._states = []
        if self._processes is not None:
            lasting = self._processes.before(self._taken) if self.loaders[0].persistent_workers else None
            self._processes.start(lasting, origin=skip)
        self._iterate([_skipping(loader, skip) for loader in self.loaders], skip)

    def _go_on(self, skip: int, place: Place) -> None:
        self._place = {name: place[name] for name in ("started", "fetched", "processes_stay", "generators")}
        processes = self._processes
        if self._single and is_map_style(self.loaders[0]):
            begin = skip
            if processes is not None:  # each batch is made by the process that it would have been made by
                begin = place["aligned"]
                processes.start(place["processes"], begin)
            self._iterate([go_on(self.loaders[0], place, place["generators"][0], begin)], begin)
        else:  # nothing but their batches leads to where they were
            set_packed_rng_state(place["started"])
            for loader, states in zip(self.loaders, place["generators"], strict=True):
                set_generator_states(loader, states)
            begin = 0
            self._iterate(self.loaders, begin, place.get("starts"))
        assert self._iterator is not None
        for _ in itertools.islice(self._iterator, skip - begin):
            pass
        if "ahead" in place:
            set_packed_rng_state(place["ahead"])
            self._iterator = itertools.chain([next(self._iterator)], self._iterator)
        for loader, states in zip(self.loaders, place["generators_now"], strict=True):
            set_generator_states(loader, states)

    def _iterate(self, loaders: list[Any], begin: int, starts: list[dict[str, Any]] | None = None) -> None:
        """Start ``loaders``, whose next batch is batch ``begin`` of the epoch; several of them as in ``starts``."""
        if not self._single:
            combined = copy.copy(self.combined)
            self._tracked = [Tracked(loader, starts[i] if starts else None) for i, loader in enumerate(loaders)]
            combined.flattened = self._tracked
            self._iterator = (batch for batch, _, _ in combined)
        elif self._processes is not None:
            self._iterator = self._processes.unpack(iter(loaders[0]), begin)
        else:
            self._iterator = iter(loaders[0])

    def end(self, taken: int) -> None:
        """The epoch is over, after ``taken`` batches."""
        self._place, self._taken = None, taken

    def place(self, taken: int) -> Place | None:
        """Where the loaders stand when ``taken`` batches of the epoch are done; None between two epochs."""
        if self._place is None:
            return None
        place = {**self._place, "generators_now": self._generator_states()}
        if not self._single:
            place["starts"] = [tracked.start for tracked in self._tracked]
        if self._processes is not None:
            aligned = self._processes.aligned(taken)
            place.update(aligned=aligned, processes=self._processes.before(aligned))
        return place

    def _generator_states(self) -> list[dict[str, Any]]:
        return [generator_states(loader) for loader in self.loaders]

    def skip_seed(self) -> None:
        """Let torch draw what starting the loaders draws, without starting them.

        Loaders that Lightning asks for after the first epoch are started twice there.
        """
        for loader in self.combined.flattened:
            if isinstance(loader, DataLoader):
                torch.empty((), dtype=torch.int64).random_(generator=loader.generator)

    def batches(self, skip: int = 0, throughput: Throughput | None = None) -> Iterator[tuple[int, Any, bool]]:
        """``(batch_idx, batch, is_last)`` for the epoch, from batch ``skip`` on; counted by ``throughput``."""
        if self._iterator is None:
            self.start(skip)
        iterator, self._iterator = self._iterator, None
        assert iterator is not None
        if throughput is not None:
            iterator = throughput.watch(iterator)
        self.in_shadow = False
        if self.is_uneven:
            return self._joined(iterator, skip)
        return self._known(iterator, skip) if math.isfinite(self.num_batches) else self._unknown(iterator, skip)

    def _known(self, iterator: Iterator[Any], skip: int) -> Iterator[tuple[int, Any, bool]]:
        self._fetches_first()
        last = int(self.num_batches) - 1
        # zip asks the range first, so that no batch is fetched that is not used
        for batch_idx, batch in zip(range(skip, last + 1), iterator, strict=False):
            yield batch_idx, batch, batch_idx == last

    def _unknown(self, iterator: Iterator[Any], skip: int) -> Iterator[tuple[int, Any, bool]]:
        """One batch is fetched ahead, to know which is the last."""
        iterator = self._ahead(iterator)
        batch_idx, batch = skip, next(iterator, _DONE)
        while batch is not _DONE:
            following = next(iterator, _DONE)
            yield batch_idx, batch, following is _DONE
            batch_idx, batch = batch_idx + 1, following

    def _ahead(self, iterator: Iterator[Any]) -> Iterator[Any]:
        """``iterator``, whose batches are fetched before the one before them is used."""
        self._fetches_first()
        while True:
            if self._place is not None:
                self._place["ahead"] = packed_rng_state()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            yield batch

    def _fetches_first(self) -> None:
        if self._place is not None and self._place["fetched"] is None:
            self._place["fetched"] = packed_rng_state()

    def _joined(self, iterator: Iterator[Any], skip: int) -> Iterator[tuple[int, Any, bool]]:
        """As long as any rank has a batch; one is fetched ahead, to know which is the last."""
        iterator = self._ahead(iterator)
        limited = itertools.islice(iterator, None if math.isinf(self.num_batches) else int(self.num_batches) - skip)
        batch, self.in_shadow = next(limited, _DONE), self._elastic is not None and self._elastic.is_idle
        if batch is _DONE:
            raise MisconfigurationException("This worker got no training batch: divide the data so that each gets one.")
        for batch_idx in itertools.count(skip):
            following = next(limited, _DONE)
            if self._elastic is not None:  # every rank knows how many the others have
                is_last = batch_idx == self.num_batches - 1
            else:
                is_last = not self._any_has(following is not _DONE)
            yield batch_idx, batch, is_last
            if is_last:
                return
            self.in_shadow = following is _DONE
            batch = batch if self.in_shadow else following


_DONE = object()


class DataLoaderIter(Iterator[tuple[Any, int, int]]):
    """What ``training_step(dataloader_iter)`` is handed: gives ``(batch, batch_idx, dataloader_idx)``.

    Args:
        batches: Such triples, each with whether it is known to be the last.
    """

    def __init__(self, batches: Iterator[tuple[tuple[Any, int, int], bool]]) -> None:
        self._batches = batches
        self._following = next(batches, None)  # one ahead, to know which is the last

    @property
    def done(self) -> bool:
        """Every batch has been taken."""
        return self._following is None

    @property
    def is_last(self) -> bool:
        """The batch that comes next is the last."""
        return self._following is not None and self._following[1]

    def __next__(self) -> tuple[Any, int, int]:
        if self._following is None:
            raise StopIteration
        taken, _ = self._following
        self._following = next(self._batches, None)
        return taken


def as_iterators(batches: Iterator[tuple[int, Any, bool]]) -> Iterator[tuple[int, Any, bool]]:
    """For ``training_step(dataloader_iter)``: the same iterator in place of each batch, until it is used up."""
    dataloader_iter = DataLoaderIter(((batch, batch_idx, 0), is_last) for batch_idx, batch, is_last in batches)
    for index in itertools.count():
        if dataloader_iter.done:
            return
        yield index, dataloader_iter, dataloader_iter.is_last


def as_eval_iterators(batches: Iterator[tuple[Any, int, int]]) -> Iterator[tuple[Any, int, int]]:
    """The same for the steps of an evaluation."""
    dataloader_iter = DataLoaderIter((each, False) for each in batches)
    for index in itertools.count():
        if dataloader_iter.done:
            return
        yield dataloader_iter, index, 0


def _is_stateful(loader: Any) -> bool:
    return callable(getattr(loader, "state_dict", None)) and callable(getattr(loader, "load_state_dict", None))


def _skipping(loader: Any, count: int) -> Any:
    if count == 0:
        return loader
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        if loader.batch_sampler is None:
            return changed(loader, sampler=SkipFirst(loader.sampler, count))
        return changed(loader, batch_sampler=SkipFirst(loader.batch_sampler, count))
    return SkipFirst(loader, count)


class EvalData:
    """An evaluation's batches on this rank.

    Args:
        loaders: A loader, or a nesting of them or a CombinedLoader, already this rank's share.
        limit: ``limit_<stage>_batches``.
        flag: Name of that flag, for errors.
    """

    def __init__(self, loaders: Any, limit: int | float, flag: str) -> None:
        self.combined = combine(loaders, "sequential")
        lengths = [loader_length(loader) for loader in self.combined.flattened]
        self.num_batches = [limit_batches(length, limit, flag) for length in lengths]
        self.seen = [0] * len(lengths)
        """Batches of each loader evaluated since it was asked for: the x axis of its step metrics."""
        self.is_empty = not sum(self.num_batches)
        """No rank has a batch. A rank without any takes part in the hooks and collectives of the others."""

    @property
    def loaders(self) -> list[Any]:
        """As they are iterated."""
        return self.combined.flattened

    @property
    def num_dataloaders(self) -> int:
        return len(self.combined.flattened)

    @property
    def several(self) -> bool:
        """Whether steps are told which loader a batch is of."""
        return self.combined.mode == "sequential" and self.num_dataloaders > 1

    def set_epoch(self, epoch: int) -> None:
        for loader in self.combined.flattened:
            set_epoch(loader, epoch)

    def record_indices(self) -> list[IndexRecord | None]:
        """Have each loader tell which samples of the dataset its batches are made of; None for those that cannot."""
        recorded = [_recording(loader) for loader in self.combined.flattened]
        self.combined.flattened = [loader for loader, _ in recorded]
        return [record for _, record in recorded]

    def batches(self, limits: list[float]) -> Iterator[tuple[Any, int, int]]:
        """``(batch, batch_idx, dataloader_idx)``, at most ``limits`` of each loader."""
        self.combined.limits = limits
        return iter(self.combined)


def _recording(loader: Any) -> tuple[Any, IndexRecord | None]:
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        rank_zero_warn(f"Couldn't infer the batch indices fetched from your dataloader: `{type(loader).__name__}`")
        return loader, None
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    record = IndexRecord(getattr(loader, name))
    return changed(loader, **{name: record}), record


def combine(loaders: Any, mode: str) -> CombinedLoader:
    """A CombinedLoader of what the user gave; theirs if they gave one."""
    return loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders, mode)


def map_loaders(function: Callable[[Any], Any], loaders: Any) -> Any:
    """``loaders`` with ``function`` applied to each, in a CombinedLoader of the same mode where it was one."""
    if isinstance(loaders, CombinedLoader):
        mapped = CombinedLoader(loaders.iterables, loaders.mode)
        mapped.flattened = [function(loader) for loader in loaders.flattened]
        return mapped
    if isinstance(loaders, dict):
        return {name: map_loaders(function, loader) for name, loader in loaders.items()}
    if isinstance(loaders, list | tuple):
        mapped_loaders = [map_loaders(function, loader) for loader in loaders]
        return type(loaders)(*mapped_loaders) if hasattr(loaders, "_fields") else type(loaders)(mapped_loaders)
    return function(loaders)
