"""Which sizes are tried and returned, for any memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raylight.callbacks.batch_sizes import Sizes
from raylight.utilities.exceptions import MisconfigurationException


def search(sizes: Sizes, memory: int, samples: float = math.inf, rate: Callable[[int], float] = float) -> list[int]:
    """Run a search on a machine whose memory holds so many samples; the sizes that were tried."""
    tried: list[int] = []
    while sizes.size is not None:
        tried.append(sizes.size)
        assert len(tried) < 200
        fits = sizes.size <= memory
        sizes.take(fits, samples, rate(sizes.size) if fits else math.nan)
    return tried


@given(memory=st.integers(1, 5000), first=st.integers(1, 64), most=st.integers(1, 8192))
def test_binsearch_finds_the_largest(memory: int, first: int, most: int) -> None:
    sizes = Sizes("binsearch", first, most, margin=0.0, trials=100)
    tried = search(sizes, memory)
    assert sizes.result == min(memory, most)
    assert sizes.result in tried
    assert len(tried) == len(set(tried))


@given(memory=st.integers(1, 5000), first=st.integers(1, 64), trials=st.integers(1, 25))
def test_power_finds_a_power(memory: int, first: int, trials: int) -> None:
    sizes = Sizes("power", first, 8192, margin=0.0, trials=trials)
    tried = search(sizes, memory)
    fitted = [size for size in tried if size <= memory]
    assert len(tried) <= trials
    if fitted:
        assert sizes.result == max(fitted)
    else:
        with pytest.raises(MisconfigurationException, match="No batch size fits"):
            _ = sizes.result


@given(memory=st.integers(1, 3000), margin=st.floats(0.0, 0.9))
def test_a_margins_size_is_run(memory: int, margin: float) -> None:
    sizes = Sizes("binsearch", 2, 8192, margin, trials=100)
    tried = search(sizes, memory)
    assert sizes.result == max(1, int(memory * (1 - margin)))
    assert sizes.result in tried


@given(memory=st.integers(1, 500), effective=st.integers(1, 400), mode=st.sampled_from(["power", "binsearch"]))
def test_the_effective_batch_stays(memory: int, effective: int, mode: str) -> None:
    sizes = Sizes(mode, 2, 8192, 0.0, 100, effective)
    tried = search(sizes, memory)
    assert effective % sizes.result == 0
    assert sizes.result in tried
    assert sizes.result <= memory
    if mode == "binsearch":
        assert sizes.result == max(size for size in range(1, min(memory, effective) + 1) if effective % size == 0)


def test_the_fastest_of_those_that_fit() -> None:
    sizes = Sizes("throughput", 2, 8192, 0.0, 25)
    assert search(sizes, memory=100, rate=lambda size: -abs(size - 20)) == [2, 4, 8, 16, 32, 64, 128]
    assert sizes.result == 16


def test_no_more_than_the_data() -> None:
    sizes = Sizes("power", 2, 8192, 0.0, 25)
    assert search(sizes, memory=10**6, samples=20) == [2, 4, 8, 16, 32]
    assert sizes.result == 32


def test_nothing_fits() -> None:
    sizes = Sizes("power", 8, 8192, 0.0, 25)
    assert search(sizes, memory=0) == [8, 4, 2, 1]
    with pytest.raises(MisconfigurationException, match="No batch size fits into memory, down to 1"):
        _ = sizes.result
