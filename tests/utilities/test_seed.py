"""Seeds and generators."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import pytest
import torch

from raylight.utilities import seed


@pytest.fixture(autouse=True)
def _own_generators(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    monkeypatch.delenv("PL_SEED_WORKERS", raising=False)
    with seed.isolate_rng():
        yield


def draw() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_same_seed_same_numbers() -> None:
    assert seed.seed_everything(3) == 3
    first = draw()
    seed.seed_everything(4)
    assert draw() != first
    seed.seed_everything(3)
    assert draw() == first


def test_numbers_are_those_of_lightning() -> None:
    import pytorch_lightning

    pytorch_lightning.seed_everything(5, verbose=False)
    theirs = draw()
    seed.seed_everything(5)
    assert draw() == theirs


@pytest.mark.parametrize("bad", [-1, 2**32])
def test_out_of_range(bad: int) -> None:
    with pytest.raises(ValueError, match=f"{bad} is not in bounds"):
        seed.seed_everything(bad)


def test_seed_is_remembered_for_later_runs() -> None:
    seed.seed_everything(11, workers=True)
    assert os.environ["PL_GLOBAL_SEED"] == "11"
    assert (seed.global_seed(), seed.workers_are_seeded()) == (11, True)
    assert seed.seed_everything() == 11
    assert not seed.workers_are_seeded()


def test_no_seed_is_zero() -> None:
    with pytest.warns(UserWarning, match="No seed found"):
        assert seed.seed_everything() == 0
    del os.environ["PL_GLOBAL_SEED"]
    assert seed.seed_everything(verbose=False) == 0


def test_seed_of_the_environment_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "abc")
    with pytest.raises(ValueError, match="Invalid seed specified via PL_GLOBAL_SEED: 'abc'"):
        seed.seed_everything()


def test_isolation() -> None:
    seed.seed_everything(1)
    undisturbed = draw()
    seed.seed_everything(1)
    with seed.isolate_rng():
        draw()
    assert draw() == undisturbed


def test_state_is_plain_and_comes_back(tmp_path: Any) -> None:
    """It stands in checkpoints, which are read without unpickling."""
    torch.save(seed.rng_state(), tmp_path / "state.pt")
    expected = draw()
    seed.set_rng_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == expected


def test_loader_workers_differ_by_worker_and_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = set()
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        for worker in range(2):
            torch.manual_seed(100 + worker)  # what torch does in worker number ``worker``
            seed.seed_dataloader_worker(worker)
            drawn.add(tuple(draw()))
    assert len(drawn) == 4


def test_packed_state() -> None:
    random.gauss(0, 1)
    np.random.randn()
    state = seed.packed_rng_state()

    def draw() -> list[float]:
        return [random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand(), float(torch.rand(()))]

    before = draw()
    draw()
    seed.set_packed_rng_state(state)
    assert draw() == before
