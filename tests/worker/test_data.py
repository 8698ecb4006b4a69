"""Loaders as a rank uses them: shares, limits, and where they stand."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from raylight.utilities import seed
from raylight.utilities.combined_loader import CombinedLoader
from raylight.utilities.exceptions import MisconfigurationException
from raylight.worker import data, sharing


@pytest.fixture(autouse=True)
def _own_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.delenv("PL_SEED_WORKERS", raising=False)


def loader(num_samples: int = 10, **settings: Any) -> DataLoader[Any]:
    return DataLoader(range(num_samples), **{"batch_size": 2, **settings})  # type: ignore[arg-type]


def items(loader: Any) -> list[int]:
    return [int(item) for batch in loader for item in batch]


def batches(loader: Any) -> list[list[int]]:
    return [batch.tolist() for batch in loader]


def elastic(world_size: int, rank: int, most: int = 3, **settings: Any) -> DataLoader[Any]:
    shared: DataLoader[Any] = sharing.share_elastically(loader(**settings), most, world_size, rank)
    return shared


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(5))


# ---------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_training_in_the_users_order(world_size: int) -> None:
    """Unlike in Lightning a loader that does not shuffle still does not."""
    shares = [items(sharing.share_for_training(loader(), world_size, rank)) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    assert [share[0] for share in shares] == list(range(world_size))
    assert sorted(set(sum(shares, []))) == list(range(10))


@pytest.mark.parametrize("epoch", [0, 1])
def test_shuffled_training_is_torchs_distributed_sampler(epoch: int) -> None:
    for rank in range(2):
        share = sharing.share_for_training(loader(shuffle=True), 2, rank)
        sharing.set_epoch(share, epoch)
        sampler = DistributedSampler(range(10), 2, rank, shuffle=True, seed=0)  # type: ignore[arg-type]
        sampler.set_epoch(epoch)
        assert items(share) == list(sampler)


@pytest.mark.parametrize("world_size", [2, 3])
def test_own_sampler_is_dealt_out(world_size: int) -> None:
    """All ranks draw the same order; another one each epoch."""
    own = WeightedRandomSampler([1.0] * 10, 12)
    shares = [sharing.share_for_training(loader(sampler=own), world_size, rank) for rank in range(world_size)]
    drawn = [[items(share) for share in shares] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert [len(share) for share in drawn[0]] == [12 // world_size] * world_size
    for share in shares:
        sharing.set_epoch(share, 1)
    assert [items(share) for share in shares] != drawn[0]


class Drawing(Sampler[Any]):
    """Draws its order from all generators; with ``size`` in batches of so many."""

    def __init__(self, size: int | None = None) -> None:
        self.size = size

    def __iter__(self) -> Iterator[Any]:
        order = [2, 3, 4, 5]
        random.shuffle(order)
        order = [*np.random.permutation(2).tolist(), *order, *(6 + torch.randperm(2)).tolist()]
        return iter(order if self.size is None else [order[i : i + self.size] for i in range(0, len(order), self.size)])

    def __len__(self) -> int:
        return 8 if self.size is None else math.ceil(8 / self.size)


class Unsized(Sampler[int]):
    """Has no end."""

    def __iter__(self) -> Iterator[int]:
        return itertools.cycle(range(10))


@pytest.mark.parametrize("share", [sharing.share_for_training, sharing.share_for_evaluation])
@pytest.mark.parametrize(
    "settings",
    [
        {"sampler": Drawing()},
        {"sampler": Drawing(), "batch_size": None},
        {"batch_sampler": Drawing(2)},
        {"batch_sampler": BatchSampler(Drawing(), 2, False)},
        {"batch_sampler": BatchSampler(RandomSampler(range(8)), 2, False)},
    ],
    ids=["sampler", "of single samples", "batch sampler", "torch's BatchSampler", "torch's own two"],
)
def test_every_rank_draws_the_same_order(share: Any, settings: dict[str, Any]) -> None:
    """Whatever its generators have given before, which they go on from."""

    def of_rank(rank: int, epoch: int) -> list[int]:
        shared = share(DataLoader(range(8), **settings), 2, rank)  # type: ignore[arg-type]
        sharing.set_epoch(shared, epoch)
        seed.seed_rng(100 + rank)
        before = seed.packed_rng_state()
        order = list(shared.sampler if shared.batch_sampler is None else shared.batch_sampler)
        assert seed.packed_rng_state() == before
        return torch.tensor(order).flatten().tolist()

    epochs = [[of_rank(rank, epoch) for rank in range(2)] for epoch in range(3)]
    for ranks in epochs:
        assert sorted(ranks[0] + ranks[1]) == list(range(8))
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]


@pytest.mark.parametrize("share", [sharing.share_for_training, sharing.share_for_evaluation])
@pytest.mark.parametrize("settings", [{}, {"batch_size": None}, {"drop_last": True}], ids=str)
def test_a_sampler_without_an_end_cannot_be_dealt_out(share: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(MisconfigurationException, match=r"Unsized has no finite .*use_distributed_sampler=False"):
        share(loader(sampler=Unsized(), **settings), 2, 0)
    with pytest.raises(MisconfigurationException, match="Unsized has no finite"):
        elastic(2, 0, sampler=Unsized(), **settings)


def test_own_batches_without_a_length() -> None:
    class Batches(Sampler[Any]):
        def __iter__(self) -> Iterator[list[int]]:
            return iter([[0], [1, 2], [3]])

    own = DataLoader(range(4), batch_sampler=Batches())  # type: ignore[arg-type]
    assert [batches(sharing.share_for_evaluation(own, 2, rank)) for rank in range(2)] == [[[0], [3]], [[1, 2]]]
    with pytest.raises(MisconfigurationException, match="Batches has no finite"):
        sharing.share_for_training(own, 2, 0)


def test_own_batch_sampler_keeps_its_batches() -> None:
    class Buckets(BatchSampler):
        def __iter__(self) -> Iterator[list[int]]:
            yield from ([0], [1, 2], [3, 4, 5])

        def __len__(self) -> int:
            return 3

    own = DataLoader(range(6), batch_sampler=Buckets(SequentialSampler(range(6)), 1, False))  # type: ignore[arg-type]
    shares = [batches(sharing.share_for_training(own, 2, rank)) for rank in range(2)]
    assert shares == [[[0], [3, 4, 5]], [[1, 2], [0]]]
    assert [len(sharing.share_for_training(own, 2, rank)) for rank in range(2)] == [2, 2]


def test_divided_loader_is_left_alone() -> None:
    sampler = DistributedSampler(range(10), 2, 1)  # type: ignore[arg-type]
    own = loader(sampler=sampler)
    assert sharing.share_for_training(own, 2, 0) is own
    assert sharing.share_for_evaluation(own, 2, 0) is own


@pytest.mark.parametrize("stream", [DataLoader(Stream()), [1, 2, 3]], ids=["IterableDataset", "list"])
def test_stream_is_seen_by_all_and_that_is_said(stream: Any) -> None:
    with pytest.warns(UserWarning, match="each sees all of its data"):
        assert sharing.share_for_training(stream, 2, 0) is stream


def test_shuffling_with_replacement_is_kept() -> None:
    own = loader(sampler=RandomSampler(range(10), replacement=True, num_samples=8))
    assert len(items(sharing.share_for_training(own, 2, 0))) == 4


def test_subclass_with_its_own_arguments() -> None:
    """Nothing is rebuilt, so a subclass may have any ``__init__``."""

    class Named(DataLoader[Any]):
        def __init__(self, name: str) -> None:
            super().__init__(range(10), batch_size=5)  # type: ignore[arg-type]
            self.name = name

    shared = sharing.share_for_training(Named("mine"), 2, 0)
    assert (type(shared), shared.name) == (Named, "mine")
    assert batches(shared) == [[0, 2, 4, 6, 8]]


# ---------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize(
    "settings", [{}, {"shuffle": True}, {"batch_size": None}, {"drop_last": True, "batch_size": 3}], ids=str
)
def test_evaluation_sees_each_sample_once(world_size: int, settings: dict[str, Any]) -> None:
    shares = [sharing.share_for_evaluation(loader(**settings), world_size, rank) for rank in range(world_size)]
    seen = [[int(x) for batch in share for x in torch.atleast_1d(torch.as_tensor(batch))] for share in shares]
    assert sorted(sum(seen, [])) == list(range(9 if settings.get("drop_last") else 10))
    assert [len(list(share)) for share in shares] == [len(share) for share in shares]


def test_evaluation_keeps_whole_batches_in_turn() -> None:
    assert [batches(sharing.share_for_evaluation(loader(5), 2, rank)) for rank in range(2)] == [[[0, 1], [4]], [[2, 3]]]


def test_evaluation_of_plain_batches_deals_them_out() -> None:
    assert [list(sharing.share_for_evaluation([0, 1, 2, 3, 4], 2, rank)) for rank in range(2)] == [[0, 2, 4], [1, 3]]


def test_evaluation_of_a_stream_is_left_to_the_dataset() -> None:
    stream = DataLoader(Stream(), batch_size=1)
    with pytest.warns(UserWarning, match="each sees all of its data"):
        assert sharing.share_for_evaluation(stream, 2, 1) is stream


# ---------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("length", "limit", "expected"),
    [
        (10, 1.0, 10), (10, 0.5, 5), (10, 0.55, 5), (10, 1, 1), (10, 30, 10), (10, 0, 0), (10, 0.0, 0), (0, 0.5, 0),
        (math.inf, 1.0, math.inf), (math.inf, 4, 4), (math.inf, 0, 0),
    ],
)  # fmt: skip
def test_limits(length: float, limit: float, expected: float) -> None:
    assert data.limit_batches(length, limit, "limit_train_batches") == expected


@pytest.mark.parametrize(
    ("length", "limit", "said"), [(10, 0.01, "at least `limit_test_batches=0.1`"), (math.inf, 0.5, "no length")]
)
def test_impossible_limits(length: float, limit: float, said: str) -> None:
    with pytest.raises(MisconfigurationException, match=f"limit_test_batches.*{said}"):
        data.limit_batches(length, limit, "limit_test_batches")


# ---------------------------------------------------------------------------------------------------- using


@pytest.mark.parametrize("limit", [1.0, 3])
@pytest.mark.parametrize("skip", [0, 1, 2])
def test_batches_of_an_epoch(limit: float, skip: int) -> None:
    train = data.TrainData(loader(), limit)
    count = {1.0: 5, 3: 3}[limit]
    assert train.num_batches == count
    found = [(index, batch.tolist(), last) for index, batch, last in train.batches(skip)]
    assert found == [(i, [2 * i, 2 * i + 1], i == count - 1) for i in range(skip, count)]


def test_skipped_samples_are_not_loaded() -> None:
    loaded = []

    class Noting(Dataset[int]):
        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> int:
            loaded.append(index)
            return index

    train = data.TrainData(DataLoader(Noting(), batch_size=2), 1.0)
    assert [index for index, _, _ in train.batches(skip=3)] == [3, 4]
    assert loaded == [6, 7, 8, 9]


def test_no_batch_is_fetched_beyond_the_limit() -> None:
    fetched = []

    class Noting:
        def __iter__(self) -> Iterator[int]:
            for i in range(10):
                fetched.append(i)
                yield i

        def __len__(self) -> int:
            return 10

    assert len(list(data.TrainData(Noting(), 4).batches())) == 4
    assert fetched == [0, 1, 2, 3]


@pytest.mark.parametrize("skip", [0, 2])
def test_last_batch_of_a_stream_is_known(skip: int) -> None:
    train = data.TrainData(DataLoader(Stream(), batch_size=2), 1.0)
    assert math.isinf(train.num_batches)
    found = [(index, last) for index, _, last in train.batches(skip)]
    assert found == [(0, False), (1, False), (2, True)][skip:]


def test_several_training_loaders_go_together() -> None:
    train = data.TrainData({"long": loader(6), "short": loader(2)}, 1.0)
    assert train.num_batches == 3
    found = [{name: part.tolist() for name, part in batch.items()} for _, batch, _ in train.batches()]
    assert found == [
        {"long": [0, 1], "short": [0, 1]},
        {"long": [2, 3], "short": [0, 1]},
        {"long": [4, 5], "short": [0, 1]},
    ]


def test_an_epoch_starts_each_loader_once() -> None:
    """torch draws a number from its global generator at each start."""

    class Counted:
        starts = 0

        def __len__(self) -> int:
            return 2

        def __iter__(self) -> Iterator[int]:
            Counted.starts += 1
            return iter(range(2))

    train = data.TrainData([Counted(), Counted()], 1.0)
    train.start()
    assert len(list(train.batches())) == 2
    assert Counted.starts == 2


def test_sequential_training_is_refused() -> None:
    with pytest.raises(ValueError, match="sequential"):
        data.TrainData(CombinedLoader([loader()], "sequential"), 1.0)


def test_evaluation_loaders_one_after_the_other() -> None:
    evaluated = data.EvalData([loader(4), loader(6)], 1.0, "limit_val_batches")
    assert (evaluated.num_batches, evaluated.several) == ([2, 3], True)
    found = [(batch.tolist(), index, which) for batch, index, which in evaluated.batches([1, 2])]
    assert found == [([0, 1], 0, 0), ([0, 1], 0, 1), ([2, 3], 1, 1)]


def test_evaluation_loaders_together() -> None:
    evaluated = data.EvalData(CombinedLoader([loader(4), loader(6)], "min_size"), 1.0, "limit_val_batches")
    assert not evaluated.several
    assert len(list(evaluated.batches(evaluated.num_batches))) == 2


def test_overfitting_does_not_shuffle() -> None:
    own = DataLoader(range(10), batch_sampler=BatchSampler(RandomSampler(range(10)), 3, False))  # type: ignore[arg-type]
    for shuffled in (loader(shuffle=True), own):
        with pytest.warns(UserWarning, match="shuffling"):
            plain = sharing.without_shuffling("train", shuffled)
        assert items(plain) == list(range(10))
    same = loader()
    assert sharing.without_shuffling("train", same) is same


def test_epoch_reaches_every_sampler() -> None:
    class Noting(SequentialSampler):
        epoch: int | None = None

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

    plain, batched = Noting(range(4)), Noting(range(4))
    sharing.set_epoch(loader(sampler=plain), 3)
    sharing.set_epoch(DataLoader(range(4), batch_sampler=BatchSampler(batched, 2, False)), 5)  # type: ignore[arg-type]
    assert (plain.epoch, batched.epoch) == (3, 5)


def test_loader_workers_in_an_actor_start_without_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    own = loader(num_workers=1)
    assert data.prepare_workers(own) is own
    monkeypatch.setenv("RAYLIGHT_WORKER", "1")
    assert data.prepare_workers(own).multiprocessing_context.get_start_method() == "forkserver"
    assert data.prepare_workers(loader()).multiprocessing_context is None


def test_loader_workers_are_seeded_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_SEED_WORKERS", "1")
    assert data.prepare_workers(loader(num_workers=1)).worker_init_fn is not None
    own = loader(num_workers=1, worker_init_fn=print)
    assert data.prepare_workers(own).worker_init_fn is print


def test_map_loaders_keeps_nesting_and_mode() -> None:
    nested = {"a": [1, (2, 3)]}
    assert data.map_loaders(lambda x: x + 1, nested) == {"a": [2, (3, 4)]}
    combined = data.map_loaders(lambda x: x, CombinedLoader([range(2), range(3)], "max_size"))
    assert (combined.mode, combined.flattened) == ("max_size", [range(2), range(3)])


def test_users_loader_is_never_changed() -> None:
    own = DataLoader(Subset(TensorDataset(torch.arange(10)), list(range(10))), batch_size=2, shuffle=True)
    before = dict(vars(own))
    sharing.share_for_training(own, 2, 0)
    sharing.share_for_evaluation(own, 2, 0)
    assert vars(own) == before


# ---------------------------------------------------------------------------------------------------- elastic


@pytest.mark.parametrize("settings", [{"num_samples": 36}, {"num_samples": 31}, {"num_samples": 36, "shuffle": True}])
def test_any_number_of_ranks_takes_the_batches_of_the_most(settings: dict[str, Any]) -> None:
    """In the same order, each once."""
    most = [batches(sharing.share_for_training(loader(**settings), 3, rank)) for rank in range(3)]
    everyones = [batch for step in zip(*most, strict=True) for batch in step]
    for world_size in (1, 2, 3, 5):
        shares = [batches(elastic(world_size, rank, **settings)) for rank in range(world_size)]
        for rank, share in enumerate(shares):
            assert share == everyones[rank::world_size]


def test_samplers_with_a_generator_are_drawn_from_once() -> None:
    def given() -> DataLoader[Any]:
        sampler = SubsetRandomSampler(range(12), generator=torch.Generator().manual_seed(1))
        return DataLoader(range(12), batch_size=2, sampler=sampler)  # type: ignore[arg-type]

    for world_size in (1, 2, 3):
        shares = [items(sharing.share_elastically(given(), 3, world_size, rank)) for rank in range(world_size)]
        assert sorted(sample for share in shares for sample in share) == list(range(12))
    fixed = [batches(sharing.share_for_training(given(), 3, rank)) for rank in range(3)]
    assert [batches(sharing.share_elastically(given(), 3, 3, rank)) for rank in range(3)] == fixed


def test_batches_of_the_users_own_and_none_at_all() -> None:
    own = BatchSampler(SequentialSampler(range(12)), 3, drop_last=False)
    own_plain = BatchSampler(SequentialSampler(range(6)), 4, drop_last=False)
    shares = [
        batches(sharing.share_elastically(DataLoader(range(12), batch_sampler=_Own(own)), 2, 1, 0)),  # type: ignore[arg-type]
        batches(sharing.share_elastically(DataLoader(range(6), batch_sampler=own_plain), 1, 1, 0)),  # type: ignore[arg-type]
        [int(i) for i in sharing.share_elastically(DataLoader(range(5), batch_size=None), 2, 1, 0)],  # type: ignore[arg-type]
    ]
    assert shares == [[[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]], [[0, 1, 2, 3], [4, 5]], [0, 1, 2, 3, 4, 0]]


def test_a_rank_without_a_batch_goes_on_with_one_that_does_not_count() -> None:
    given = data.TrainData(elastic(2, 1, most=3, num_samples=14), 1.0)  # 9 batches of all
    given.set_epoch(0)
    assert (given.num_batches, given.is_exhausted(3), given.is_exhausted(4)) == (5, False, True)
    skip = given.take_over(8)
    given.start(skip)
    assert [(index, given.in_shadow, is_last) for index, _, is_last in given.batches(skip)] == [(4, True, True)]


def test_the_batches_of_an_even_epoch_count_after_an_uneven_one() -> None:
    given = data.TrainData(elastic(2, 1, most=2, num_samples=16), 1.0)  # 8 batches of all
    given.set_epoch(0)
    skip = given.take_over(3)
    given.set_epoch(0)
    given.start(skip)
    assert [given.in_shadow for _ in given.batches(skip)] == [False, False, True]
    given.end(4)
    given.set_epoch(1)
    assert not given.is_uneven
    given.start(0)
    assert [given.in_shadow for _ in given.batches(0)] == [False] * 4


class _Own(BatchSampler):
    def __init__(self, batches: BatchSampler) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


@pytest.mark.parametrize("before", [0, 1, 2, 3])
@pytest.mark.parametrize(("former", "now"), [(3, 1), (1, 3), (2, 3), (3, 2)])
def test_the_rest_of_an_epoch_is_shared_anew(former: int, now: int, before: int) -> None:
    def train_data(world_size: int, rank: int) -> data.TrainData:
        given = data.TrainData(elastic(world_size, rank, num_samples=24), 1.0)
        given.set_epoch(0)
        return given

    seen: list[int] = []
    done = None
    for rank in range(former):
        first = train_data(former, rank)
        taken = list(zip(range(before), first.batches(), strict=False))
        seen += [int(sample) for _, (_, batch, _) in taken for sample in batch]
        done = first.done_by_all(before)
    assert done == before * former
    lengths = set()
    for rank in range(now):
        second = train_data(now, rank)
        skip = second.take_over(done)
        second.set_epoch(0)
        second.start(skip)
        lengths.add(second.num_batches)
        for _, batch, _ in second.batches(skip):
            seen += [] if second.in_shadow else [int(sample) for sample in batch]
    assert sorted(seen) == list(range(24))
    assert len(lengths) == 1
    second.set_epoch(1)
    assert second.num_batches == math.ceil(12 / now)


def test_a_limit_is_one_of_the_most_ranks() -> None:
    shares = [data.TrainData(elastic(2, rank, num_samples=60), 2) for rank in range(2)]
    for share in shares:
        share.set_epoch(0)
    assert [share.num_batches for share in shares] == [3, 3]
    assert sorted(int(i) for share in shares for _, batch, _ in share.batches() for i in batch) == list(range(12))


@pytest.mark.parametrize(
    "given",
    [
        DataLoader(Stream()),
        [1, 2],
        DataLoader(range(8), sampler=DistributedSampler(range(8), 2, 0)),  # type: ignore[arg-type]
    ],
    ids=["stream", "list", "divided"],
)
def test_what_cannot_be_shared_anew(given: Any) -> None:
    with pytest.raises(MisconfigurationException, match="needs one DataLoader of a map-style dataset"):
        sharing.share_elastically(given, 2, 2, 0)
