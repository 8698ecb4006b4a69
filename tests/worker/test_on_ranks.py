"""Workers in a gloo group: metrics exact for uneven sizes, shards that end early, streams, several optimizers.

And which checkpoint they begin from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raylight.checkpoint import format as checkpoint_format
from raylight.utilities.exceptions import MisconfigurationException

OnRanks = Callable[..., list[Any]]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(workers=st.integers(1, 3), size=st.integers(1, 23), batch_size=st.integers(1, 9))
def test_evaluation_is_that_of_one_process(on_ranks: OnRanks, workers: int, size: int, batch_size: int) -> None:
    x = ranks.samples(size)
    expected = {
        "val_mean": (x**2 + x).mean().item(),
        "val_sum": x.sum().item(),
        "val_max": x.max().item(),
        "val_min": x.min().item(),
        "val_count": size,
    }
    for result in on_ranks(workers, ranks.validate, size=size, batch_size=batch_size):
        assert result == pytest.approx(expected, rel=1e-5, abs=1e-6)


def uneven_reference(sizes: list[int]) -> tuple[list[float], torch.Tensor]:
    """Weights of DDP's Join: gradients summed over those that have data, divided by all; and the samples seen."""
    model = ranks.Measuring()
    optimizer = model.configure_optimizers()
    parts = [ranks.Part(sum(sizes[:rank]), size) for rank, size in enumerate(sizes)]
    for step in range(max(sizes)):
        optimizer.zero_grad()
        for part in parts:
            if step < len(part):
                (((model.layer(part[step][0]) - 1) ** 2).mean() / len(sizes)).backward()
        optimizer.step()
    return [model.layer.weight.item(), model.layer.bias.item()], ranks.samples(sum(sizes))


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
@pytest.mark.parametrize("sized", [True, False], ids=["sized", "unsized"])
@pytest.mark.parametrize("sizes", [[3, 5], [4, 1, 2], [2, 2]], ids=str)
def test_uneven_shards_train_to_the_end(on_ranks: OnRanks, sizes: list[int], sized: bool, manual: bool) -> None:
    weights, x = uneven_reference(sizes)
    for result in on_ranks(len(sizes), ranks.fit_unevenly, sizes=sizes, sized=sized, manual=manual):
        assert [result["weight"], result["bias"]] == pytest.approx(weights, rel=1e-5)
        assert result["steps"] == max(sizes)
        assert result["batches"] == list(range(max(sizes)))
        assert result["metrics"]["train_mean"] == pytest.approx((x**2 + x).mean().item(), rel=1e-5)
        assert result["metrics"]["train_sum"] == pytest.approx(x.sum().item(), rel=1e-5)
        assert result["metrics"]["train_count"] == sum(sizes)


def test_rank_without_any_batch_is_named(on_ranks: OnRanks) -> None:
    with pytest.raises(MisconfigurationException, match=r"\[2, 0\] training batches, by rank"):
        on_ranks(2, ranks.fit_unevenly, sizes=[2, 0], sized=True)


def test_stream_is_divided_on_request(on_ranks: OnRanks) -> None:
    whole = ranks.samples(7).flatten().tolist()
    first, second = on_ranks(2, ranks.fit_sharded, size=7, shard=True)
    assert first == pytest.approx(whole[0::2])
    assert second[:3] == pytest.approx(whole[1::2])  # then it repeats its last batch, which counts for nothing
    undivided = on_ranks(2, ranks.fit_sharded, size=7, shard=False)
    assert undivided[0] == undivided[1] == pytest.approx(whole)


def test_own_distributed_sampler_is_kept(on_ranks: OnRanks) -> None:
    whole = ranks.samples(6).flatten().tolist()
    assert on_ranks(2, ranks.with_sampler_of_its_own) == [pytest.approx(whole[0::2]), pytest.approx(whole[1::2])]


def test_several_optimizers_on_two_ranks(on_ranks: OnRanks) -> None:
    (alone,) = on_ranks(1, ranks.fit_two_optimizers)
    for weights in on_ranks(2, ranks.fit_two_optimizers):
        assert weights == pytest.approx(alone, rel=1e-5)
        assert not math.isclose(weights[0], weights[2])  # the optimizers have different rates


def test_ddp_takes_a_communication_hook(on_ranks: OnRanks) -> None:
    assert on_ranks(2, ranks.fit_with_comm_hook, backend="gloo") == [(1, 1), (1, 1)]
    with pytest.raises(MisconfigurationException, match="workers on cpu talk by 'gloo'"):
        on_ranks(2, ranks.fit_with_comm_hook, backend="nccl")


def test_timeout_holds_while_data_is_prepared(on_ranks: OnRanks) -> None:
    assert on_ranks(2, ranks.prepare_slowly, seconds=0.1, timeout=20.0) == ["", ""]
    _, waited = on_ranks(2, ranks.prepare_slowly, seconds=3.0, timeout=0.5)
    assert "500ms" in waited


@pytest.mark.parametrize("rewraps", [False, True], ids=["unused", "rewrapped"])
def test_what_was_frozen_when_a_run_was_lost(on_ranks: OnRanks, rewraps: bool) -> None:
    whole, same = on_ranks(2, ranks.fit_freezing, rewraps=rewraps, lost_at=-1)
    assert whole == same
    assert on_ranks(2, ranks.fit_freezing, rewraps=rewraps, lost_at=7) == [whole, whole]


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[str]:
    """The newest first: the n-th is of a weight of n."""
    paths = [str(tmp_path / name) for name in ("new.ckpt", "old.ckpt", "older.ckpt")]
    for number, path in enumerate(paths):
        weights = {"layer.weight": torch.full((1, 1), float(number)), "layer.bias": torch.zeros(1)}
        checkpoint_format.save({"state_dict": weights}, path)
    return paths


@pytest.mark.parametrize("rank", [0, 1])
def test_ranks_begin_from_the_same_file(on_ranks: OnRanks, checkpoints: list[str], rank: int) -> None:
    """The newest that all can read, though one has had a reason of its own to pass over those before."""
    missing = {rank: checkpoints[:1], 1 - rank: checkpoints[1:2]}
    results = on_ranks(2, ranks.validate_from, paths=checkpoints, missing=missing)
    assert [weight for weight, _, _ in results] == [2.0, 2.0]
    own, others = results[rank][1], results[1 - rank][1]
    assert "new.ckpt is not there. An older" in own
    assert f"Rank {1 - rank} cannot read the checkpoint" in own
    assert f"Rank {rank} cannot read the checkpoint {checkpoints[0]}, though others can" in others
    (alone,) = on_ranks(1, ranks.validate_from, paths=checkpoints, missing={0: checkpoints[:1]})
    assert alone[0] == 1.0


def test_error_of_every_rank_where_one_has_no_file(on_ranks: OnRanks, checkpoints: list[str]) -> None:
    results = on_ranks(2, ranks.validate_from, paths=checkpoints[:1], missing={1: checkpoints[:1]})
    (_, _, other), (_, _, own) = results
    assert own == f"CheckpointNotFoundError: {checkpoints[0]} is not there."
    assert other.startswith("CheckpointError: Rank 1 cannot read the checkpoint")
    assert other.endswith("new.ckpt is not there.")
