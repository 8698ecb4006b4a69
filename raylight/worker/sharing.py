"""Which of a loader's batches a rank takes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from raylight.utilities.combined_loader import loader_length
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_warn
from raylight.utilities.seed import global_seed, isolate_rng, seed_rng
from raylight.worker.loader_place import changed


class SeededSampler(Sampler[Any]):
    """Another sampler (or batch sampler), which on every rank draws the same random order, a new one each epoch.

    Whatever it draws from python's, numpy's or torch's generators is seeded, and disturbs nobody else.

    Raises:
        MisconfigurationException: It has no length, and may have no end.
    """

    def __init__(self, sampler: Iterable[Any]) -> None:
        if not _is_sized(sampler):
            inner = getattr(sampler, "sampler", sampler)
            raise MisconfigurationException(
                f"{type(sampler if _is_sized(inner) else inner).__name__} has no finite `__len__`, and may have no "
                "end: to be divided among the workers, its order is drawn as a whole. Give it a `__len__`, or divide "
                "the data yourself: with Trainer(use_distributed_sampler=False) and a fixed num_workers a sampler is "
                "used as it is."
            )
        self.sampler = sampler
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        set_epoch(self.sampler, epoch)

    def __iter__(self) -> Iterator[Any]:
        with isolate_rng(include_cuda=torch.cuda.is_initialized()):
            seed_rng(global_seed() + self.epoch)
            order = list(self.sampler)
        return iter(order)

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Turns:
    """How the batches of a loader are dealt to the ranks: ``chunk`` of them in a row to each in turn."""

    world_size: int = 1
    rank: int = 0
    chunk: int = 1
    skipped: frozenset[int] = frozenset()
    """Numbers of chunks that nobody takes."""

    def take(self, index: int) -> bool:
        """Whether batch ``index`` of the loader is this rank's."""
        number = index // self.chunk
        return number % self.world_size == self.rank and number not in self.skipped

    def indices(self) -> Iterator[int]:
        """Of this rank's batches, one after the other, as if the loader had no end."""
        for number in itertools.count(self.rank, self.world_size):
            if number not in self.skipped:
                yield from range(number * self.chunk, (number + 1) * self.chunk)

    def count(self, total: int) -> int:
        """Of a loader's ``total`` batches those that are this rank's."""
        rounds, rest = divmod(total, self.chunk * self.world_size)
        everything = rounds * self.chunk + min(max(rest - self.rank * self.chunk, 0), self.chunk)
        mine = [number for number in self.skipped if number % self.world_size == self.rank]
        return everything - sum(min(max(total - number * self.chunk, 0), self.chunk) for number in mine)


class InTurns(Sampler[Any]):
    """Those items of a sampler or loader that are this rank's: each is on exactly one rank."""

    def __init__(self, items: Iterable[Any], turns: Turns) -> None:
        self.items = items
        self.turns = turns

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.items, "set_epoch"):
            self.items.set_epoch(epoch)
        else:
            set_epoch(self.items, epoch)

    def __iter__(self) -> Iterator[Any]:
        return (item for index, item in enumerate(self.items) if self.turns.take(index))

    def __len__(self) -> int:
        return self.turns.count(len(self.items))  # type: ignore[arg-type]


class OwnShare(Iterable[Any]):
    """A loader that gives this rank's batches only: whoever made it has divided them.

    Args:
        turns: Which of the batches these are.
        total: Batches of all ranks; inf: unknown.
        description: What it reads, in plain values by name, to tell it from other data.
    """

    def __init__(self, turns: Turns, total: float, description: dict[str, Any]) -> None:
        self.turns = turns
        self.total = total
        self.description = description
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        if math.isinf(self.total):
            raise TypeError(f"This {type(self).__name__} has no length: it shows when all of it is read.")
        return self.turns.count(int(self.total))


class RestOfShare(OwnShare):
    """What ``turns``, which deal the same chunks, do not skip of a rank's share."""

    def __init__(self, share: OwnShare, turns: Turns) -> None:
        super().__init__(turns, share.total, share.description)
        self.share = share

    def __len__(self) -> int:
        mine = super().__len__()
        ranks = (replace(self.turns, rank=rank) for rank in range(self.turns.world_size))
        if not mine and any(turns.count(int(self.total)) for turns in ranks):
            raise TypeError("The ranks read the data together: one that has nothing left to do must take part.")
        return mine

    def __iter__(self) -> Iterator[Any]:
        numbered = zip(self.share.turns.indices(), self.share, strict=False)
        return (batch for index, batch in numbered if self.turns.take(index))


class EvenShare(InTurns):
    """As InTurns of one item each, with the first items again at the end, so that every rank has as many."""

    def __init__(self, items: Iterable[Any], world_size: int, rank: int) -> None:
        super().__init__(items, Turns(world_size, rank))

    def __iter__(self) -> Iterator[Any]:
        world_size, rank = self.turns.world_size, self.turns.rank
        return iter(_padded(list(self.items), world_size)[rank::world_size])

    def __len__(self) -> int:
        return math.ceil(len(self.items) / self.turns.world_size)  # type: ignore[arg-type]


class SkipFirst(Sampler[Any]):
    """A sampler without its first ``count`` items."""

    def __init__(self, items: Iterable[Any], count: int) -> None:
        self.items = items
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        for position, item in enumerate(self.items):
            if position >= self.count:
                yield item

    def __len__(self) -> int:
        return max(0, len(self.items) - self.count)  # type: ignore[arg-type]


def share_for_training(loader: Any, world_size: int, rank: int) -> Any:
    """The loader of one rank in training: as many batches on every rank, the user's order or shuffling kept.

    A random sampler gives the order of torch's DistributedSampler with the global seed.
    """
    if isinstance(loader, OwnShare):
        return loader
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return _undivided(loader, world_size)
    if is_distributed(loader):
        return loader
    if has_own_batches(loader):
        return changed(loader, batch_sampler=EvenShare(SeededSampler(loader.batch_sampler), world_size, rank))  # type: ignore[arg-type]
    sampler = _order(loader)
    if isinstance(sampler, SequentialSampler) or _is_plain_random(sampler):
        shuffle = isinstance(sampler, RandomSampler)
        share: Sampler[Any] = DistributedSampler(loader.dataset, world_size, rank, shuffle=shuffle, seed=global_seed())
    else:
        share = EvenShare(SeededSampler(sampler), world_size, rank)
    return _with_sampler(loader, share)


class ElasticShare(Sampler[Any]):
    """One rank's batches of an epoch that any number of ranks can share, and that goes on where others left it.

    The epoch's batches stand in one order: each of the most ranks that there may be has its own, those that
    ``share_for_training`` would give it, and they take turns. The ranks at work take what is left in turn, likewise.

    Args:
        order: The epoch's samples, or its batches where the user makes these; iterated once per epoch.
        most: Ranks that there may be.
        world_size: Ranks at work.
        rank: This one.
        batch_size: Of what is made of the samples; None: they, or the user's batches, are given as they are.
        drop_last: Leave out a batch of fewer.
    """

    def __init__(
        self, order: Any, most: int, world_size: int, rank: int, batch_size: int | None, drop_last: bool
    ) -> None:
        self.order = order
        self.most = most
        self.world_size = world_size
        self.rank = rank
        self.batch_size = batch_size
        each = math.ceil(len(order) / most)
        self.num_rounds = each if batch_size is None else (each if drop_last else each + batch_size - 1) // batch_size
        """Batches that each of the most ranks would have, under ``limit_train_batches`` where it is set."""
        self.origin = (0, 0)
        """Batches of the epoch that were done, and how many of them count as this rank's, when these ranks began."""
        self._epoch: int | None = None

    @property
    def total(self) -> int:
        """Batches of the epoch, of all ranks together."""
        return self.num_rounds * self.most

    def set_epoch(self, epoch: int) -> None:
        if epoch != self._epoch:
            self.origin, self._epoch = (0, 0), epoch
        self.order.set_epoch(epoch)

    def done(self, done_here: int) -> int:
        """Batches that all ranks have done, when this one has done so many of the epoch."""
        by_all, here = self.origin
        return min(self.total, by_all + (done_here - here) * self.world_size)

    def go_on(self, done: int) -> int:
        """Begin within the epoch, after ``done`` batches; how many of these count as this rank's."""
        self.origin = (done, done // self.world_size)
        return self.origin[1]

    @property
    def is_uneven(self) -> bool:
        """Some ranks have a batch more than others."""
        return (self.total - self.origin[0]) % self.world_size != 0

    @property
    def is_idle(self) -> bool:
        """There is no batch for this rank: it is given one that does not count."""
        return self.origin[0] + self.rank >= self.total

    @property
    def longest(self) -> int:
        """Batches of the rank that has most."""
        return self.origin[1] + math.ceil((self.total - self.origin[0]) / self.world_size)

    def __iter__(self) -> Iterator[Any]:
        yield from itertools.repeat([], self.origin[1])  # batches that are done are skipped, and never looked at
        items = _padded(list(self.order), self.most)
        first = min(self.origin[0] + self.rank, self.total - 1)
        for position in range(first, self.total, self.world_size):
            yield items[position] if self.batch_size is None else self._batch(items, position)

    def _batch(self, items: list[Any], position: int) -> list[Any]:
        turn, rank = divmod(position, self.most)
        step = self.batch_size * self.most if self.batch_size is not None else self.most
        return items[turn * step + rank : (turn + 1) * step : self.most]

    def __len__(self) -> int:
        left = math.ceil((self.total - self.origin[0] - self.rank) / self.world_size)
        return self.origin[1] + max(1, left)


def _padded(items: list[Any], world_size: int) -> list[Any]:
    """``items`` with the first ones again at the end, so that each rank has as many."""
    missing = -len(items) % world_size
    return items + (items * math.ceil(missing / max(len(items), 1)))[:missing]


def share_elastically(loader: Any, most: int, world_size: int, rank: int) -> Any:
    """The loader of one rank in training, where up to ``most`` ranks share the epoch's batches.

    Raises:
        MisconfigurationException: They cannot be shared anew in the middle of an epoch.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or is_distributed(loader):
        dataset = f" of {type(loader.dataset).__name__}" if isinstance(loader, DataLoader) else ""
        raise MisconfigurationException(
            "num_workers=(min, max) shares an epoch anew when workers come or go, which needs one DataLoader of a "
            f"map-style dataset without a DistributedSampler; this is a {type(loader).__name__}{dataset}. "
            "Use such a loader, or a fixed num_workers."
        )
    if has_own_batches(loader):
        drawn = SeededSampler(loader.batch_sampler)  # type: ignore[arg-type]
        return changed(loader, batch_sampler=ElasticShare(drawn, most, world_size, rank, None, False))
    sampler = _order(loader)
    order: Any = SeededSampler(sampler)
    if isinstance(sampler, SequentialSampler) or _is_plain_random(sampler):
        shuffle = isinstance(sampler, RandomSampler)
        order = DistributedSampler(loader.dataset, 1, 0, shuffle=shuffle, seed=global_seed())
    batches: Any = loader.batch_sampler
    if batches is None:
        return changed(loader, sampler=ElasticShare(order, most, world_size, rank, None, False))
    share = ElasticShare(order, most, world_size, rank, batches.batch_size, batches.drop_last)
    return changed(loader, batch_sampler=share)


def elastic_share(loader: Any) -> ElasticShare | None:
    """The one that ``share_elastically`` has put there."""
    for name in ("batch_sampler", "sampler"):
        if isinstance(found := getattr(loader, name, None), ElasticShare):
            return found
    return None


class ShardedIterableDataset(IterableDataset[Any]):
    """Items ``rank``, ``rank + world_size``, ... of an IterableDataset that yields the same order on every rank."""

    def __init__(self, dataset: IterableDataset[Any], world_size: int, rank: int) -> None:
        self.dataset = dataset
        self.world_size = world_size
        self.rank = rank

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self.dataset), self.rank, None, self.world_size)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # while being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


class SizedShardedIterableDataset(ShardedIterableDataset):
    """The same of a dataset that knows its length."""

    def __len__(self) -> int:
        return max(0, math.ceil((len(self.dataset) - self.rank) / self.world_size))  # type: ignore[arg-type]


def shard_iterable(loader: Any, world_size: int, rank: int) -> Any:
    """``loader`` with its IterableDataset divided among the ranks; any other loader as it is."""
    if not isinstance(loader, DataLoader) or not isinstance(loader.dataset, IterableDataset):
        return loader
    kind = SizedShardedIterableDataset if hasattr(type(loader.dataset), "__len__") else ShardedIterableDataset
    return changed(loader, dataset=kind(loader.dataset, world_size, rank))


def _undivided(loader: Any, world_size: int) -> Any:
    if isinstance(loader, DataLoader) and isinstance(loader.dataset, ShardedIterableDataset):
        return loader
    rank_zero_warn(
        f"The data of this {type(loader).__name__} is not divided among the {world_size} workers, as only the dataset "
        "itself could do that: if it does not, each sees all of its data. Use Trainer(shard_iterable_datasets=True), "
        "divide it by torch.distributed.get_rank(), or use a map-style dataset."
    )
    return loader


def share_for_evaluation(loader: Any, world_size: int, rank: int) -> Any:
    """The loader of one rank in an evaluation: whole batches in turn, each on exactly one rank, nothing repeated."""
    if isinstance(loader, OwnShare):
        return loader
    turns = Turns(world_size, rank)
    if not isinstance(loader, DataLoader):
        return InTurns(loader, turns)
    if isinstance(loader.dataset, IterableDataset):
        return _undivided(loader, world_size)
    if is_distributed(loader):
        return loader
    if loader.batch_sampler is None:
        return changed(loader, sampler=InTurns(_in_step(loader.sampler), turns))
    batches: Any = loader.batch_sampler
    if has_own_batches(loader):
        # Without a length they cannot be drawn as a whole: the ranks take them in turn as they come.
        batches = SeededSampler(batches) if _is_sized(batches) else batches
    elif not isinstance(_order(loader), SequentialSampler):
        batches = SeededSampler(batches)
    return changed(loader, batch_sampler=InTurns(batches, turns))


def share_in_parts(loader: Any, turns: Turns) -> Any:
    """The loader of one rank where predictions are written in parts of ``turns.chunk`` batches: those it has to make.

    Raises:
        MisconfigurationException: The batches have no order that is the same in every call and on every rank.
    """
    if isinstance(loader, OwnShare):
        return RestOfShare(loader, turns)
    if not isinstance(loader, DataLoader):
        return InTurns(loader, turns)
    if isinstance(loader.dataset, IterableDataset):
        if turns.world_size > 1:
            raise MisconfigurationException(
                f"predict(write_to=...) on {turns.world_size} workers needs batches that can be divided among them, "
                f"which those of {type(loader.dataset).__name__}, an IterableDataset, cannot. Use a map-style dataset, "
                "a Ray Dataset, or one worker."
            )
        return InTurns(loader, turns)
    inner = getattr(loader.batch_sampler, "sampler", None)
    for sampler in (loader.sampler, inner):
        if isinstance(sampler, DistributedSampler | RandomSampler | SubsetRandomSampler | WeightedRandomSampler):
            raise MisconfigurationException(
                "predict(write_to=...) writes predictions in the dataset's order, and this DataLoader has a "
                f"{type(sampler).__name__}. Use shuffle=False and no sampler."
            )
    name = "sampler" if loader.batch_sampler is None else "batch_sampler"
    return changed(loader, **{name: InTurns(getattr(loader, name), turns)})


def turns_of(loader: Any, world_size: int, rank: int) -> Turns:
    """How the batches of a rank's loader, one for an evaluation, were dealt."""
    for holder in (loader, getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)):
        if isinstance(holder, OwnShare | InTurns):
            return holder.turns
    return Turns(world_size, rank)


def _is_sized(items: Any) -> bool:
    return math.isfinite(loader_length(items))


def _order(loader: DataLoader[Any]) -> Any:
    """The sampler that gives the order of the samples: that of torch's BatchSampler, which may be the user's own."""
    return loader.batch_sampler.sampler if type(loader.batch_sampler) is BatchSampler else loader.sampler


def _in_step(sampler: Any) -> Any:
    return sampler if isinstance(sampler, SequentialSampler) else SeededSampler(sampler)


def is_distributed(loader: DataLoader[Any]) -> bool:
    """The user has divided the data already."""
    inner = getattr(loader.batch_sampler, "sampler", None)
    return isinstance(loader.sampler, DistributedSampler) or isinstance(inner, DistributedSampler)


def has_own_batches(loader: DataLoader[Any]) -> bool:
    """The user makes the batches."""
    return loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler


def _is_plain_random(sampler: Any) -> bool:
    return type(sampler) is RandomSampler and not sampler.replacement and sampler._num_samples is None


def _with_sampler(loader: DataLoader[Any], sampler: Sampler[Any]) -> DataLoader[Any]:
    if loader.batch_sampler is None:
        return changed(loader, sampler=sampler)
    batches = loader.batch_sampler
    return changed(loader, sampler=sampler, batch_sampler=BatchSampler(sampler, batches.batch_size, batches.drop_last))  # type: ignore[attr-defined]


def with_batch_size(loader: Any, batch_size: int) -> Any:
    """``loader`` with batches of another size.

    Raises:
        MisconfigurationException: It is no DataLoader, or makes its batches in a way of its own.
    """
    if not isinstance(loader, DataLoader) or has_own_batches(loader) or loader.batch_size is None:
        raise MisconfigurationException(
            f"The batch size of this {type(loader).__name__} cannot be changed: it is no DataLoader with a batch_size. "
            "Let your LightningModule or LightningDataModule make the loader from an attribute `batch_size`."
        )
    batches = BatchSampler(loader.sampler, batch_size, loader.drop_last)
    return changed(loader, batch_sampler=batches, batch_size=batch_size)


def without_shuffling(prefix: str, loader: Any) -> Any:
    """For overfit_batches: the same batches every epoch."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return loader
    if isinstance(_order(loader), SequentialSampler):
        return loader
    rank_zero_warn(
        f"You requested to overfit but enabled {prefix} dataloader shuffling. We are turning off the {prefix} "
        "dataloader shuffling for you."
    )
    return _with_sampler(loader, SequentialSampler(loader.dataset))  # type: ignore[arg-type]


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell whatever in ``loader`` wants to know the epoch."""
    if isinstance(loader, OwnShare):
        loader.set_epoch(epoch)
    told: list[Any] = []
    for name in ("sampler", "batch_sampler"):
        inner = getattr(loader, name, None)
        for candidate in (inner, getattr(inner, "sampler", None)):
            if callable(getattr(candidate, "set_epoch", None)) and not any(candidate is other for other in told):
                candidate.set_epoch(epoch)  # type: ignore[union-attr]
                told.append(candidate)
