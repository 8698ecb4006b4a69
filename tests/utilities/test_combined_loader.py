"""CombinedLoader, against Lightning's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pytorch_lightning.utilities import CombinedLoader as Reference
from torch.utils.data import DataLoader

from raylight.utilities.combined_loader import MODES, CombinedLoader, loader_length

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
"""Lightning's."""


class Unsized:
    """Three items, no length."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


class Counted:
    """Counts how often it is started."""

    starts = 0

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[int]:
        self.starts += 1
        return iter(range(2))


NESTINGS: dict[str, Any] = {
    "one": range(3),
    "list": [range(2), range(5)],
    "dict": {"a": range(4), "b": range(2)},
    "deep": [range(1), {"a": (range(3), range(2))}],
    "equal": [range(2), range(2)],
}


@pytest.mark.parametrize("limits", [None, 1, 0, 100])
@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("mode", MODES)
def test_gives_what_lightnings_gives(mode: str, nesting: str, limits: int | None) -> None:
    ours, theirs = CombinedLoader(NESTINGS[nesting], mode), Reference(NESTINGS[nesting], mode)
    for _ in range(2):  # starts again each time
        if limits is not None:
            ours.limits = [limits] * len(ours.flattened)
            theirs.limits = [limits] * len(theirs.flattened)
        iter(theirs)
        length = len(theirs)
        # Lightning leaves it to its fetcher to stop at the limit
        expected = [item for item, _ in zip(theirs, range(length), strict=False)]
        assert list(ours) == expected
        assert len(ours) == length


def test_default_mode() -> None:
    assert CombinedLoader([1]).mode == Reference([range(1)])._mode == "min_size"


def test_samplers_are_nested_as_the_loaders_are() -> None:
    loader = DataLoader(list(range(4)), batch_size=2)
    combined = CombinedLoader({"a": loader, "b": [range(2)]})
    assert combined.sampler == {"a": loader.sampler, "b": [None]}
    assert combined.batch_sampler == {"a": loader.batch_sampler, "b": [None]}


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="Unsupported mode 'shortest'"):
        CombinedLoader([range(1)], "shortest")


@pytest.mark.parametrize("mode", ["max_size_cycle", "max_size", "sequential"])
def test_loader_without_a_length(mode: str) -> None:
    combined = CombinedLoader([Unsized(), range(2)], mode)
    iter(combined)
    with pytest.raises(NotImplementedError, match="without `__len__`"):
        len(combined)
    assert len([batch for batch, _, _ in combined]) == {"sequential": 5}.get(mode, 3)
    assert loader_length(Unsized()) == float("inf")


def test_flattened_can_be_replaced() -> None:
    combined = CombinedLoader({"a": range(2), "b": [range(3)]}, "sequential")
    combined.flattened = [range(1), range(4)]
    assert combined.iterables == {"a": range(1), "b": [range(4)]}
    with pytest.raises(ValueError, match="Mismatch"):
        combined.flattened = [range(1)]


def test_next_before_iter() -> None:
    with pytest.raises(RuntimeError, match="call `iter"):
        next(CombinedLoader([range(1)]))


@pytest.mark.parametrize("mode", MODES)
def test_each_loader_is_started_once(mode: str) -> None:
    """A start costs worker processes, and a number of torch's generator."""
    loaders = [Counted(), Counted()]
    assert [batch for batch, _, _ in CombinedLoader(loaders, mode)]
    assert [loader.starts for loader in loaders] == [1, 1]


def test_no_loader() -> None:
    assert CombinedLoader([], "sequential").num_batches == 0
    assert list(CombinedLoader([], "sequential")) == []


@pytest.mark.parametrize("mode", MODES)
def test_none_is_a_batch(mode: str) -> None:
    """A dataset's collate_fn may give None for a bad batch; the others go on."""
    loaders = [iter_of(None, 1), iter_of(2, 3)]
    combined = CombinedLoader(loaders, mode)
    ours = [(batch, *where) for batch, *where in combined]
    theirs = iter(Reference(loaders, mode))
    assert ours == [next(theirs) for _ in range(len(ours))]
    assert len(ours) == (4 if mode == "sequential" else 2)


def iter_of(*batches: Any) -> Any:
    """A loader without a length that gives ``batches`` each time."""
    return type("Loader", (), {"__iter__": lambda self: iter(batches)})()


def test_limits() -> None:
    combined = CombinedLoader([range(3), range(4)], "sequential")
    combined.limits = 2
    assert combined.limits == [2, 2]
    with pytest.raises(ValueError, match=r"Mismatch in number of limits \(1\) and number of iterables \(2\)"):
        combined.limits = [1]


def test_length_before_iter_and_after_reset() -> None:
    combined = CombinedLoader([range(3)], "min_size")
    with pytest.raises(RuntimeError, match="call `iter"):
        len(combined)
    iter(combined)
    assert len(combined) == 3
    combined.reset()
    with pytest.raises(RuntimeError, match="call `iter"):
        len(combined)
