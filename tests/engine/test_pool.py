"""Workers stay warm between calls, and let go when they should."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.util import placement_group, remove_placement_group
from small_models import QUIET, Linear, batches

import raylight as pl
from raylight.engine import cluster, pool
from raylight.utilities.exceptions import ResourceError, WorkerError

pytestmark = [pytest.mark.ray, pytest.mark.timeout(60)]


class Located(Linear):
    """Tells the processes of all ranks, by rank."""

    pids: tuple[int, ...] = ()

    def on_train_start(self) -> None:
        self.pids = tuple(self.all_gather(os.getpid()).flatten().tolist())

    def on_test_start(self) -> None:
        self.pids = tuple(self.all_gather(os.getpid()).flatten().tolist())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))


def test_calls_share_warm_workers(two_workers: Any) -> None:
    trainer, model = two_workers(), Located()
    trainer.fit(model, batches())
    of_fit, model.pids = model.pids, ()
    trainer.test(model, batches(), verbose=False)
    of_test, model.pids = model.pids, ()
    two_workers(max_epochs=2).fit(model, batches())
    assert len(set(of_fit)) == 2
    assert os.getpid() not in of_fit
    assert of_fit == of_test == model.pids


@pytest.mark.slow
def test_another_placement_takes_the_workers_place(two_workers: Any) -> None:
    first, second = Located(), Located()
    two_workers().fit(first, batches())
    two_workers(num_workers=1, resources_per_worker={"CPU": 2}).fit(second, batches())
    assert len(second.pids) == 1
    assert second.pids[0] not in first.pids


def test_random_numbers_go_on_where_rank_0_stopped(two_workers: Any) -> None:
    class Drawing(Linear):
        def on_fit_end(self) -> None:
            torch.rand(7)
            self.state = torch.get_rng_state()

    trainer, model = two_workers(), Drawing()
    trainer.fit(model, batches(shuffle=True))
    assert torch.equal(torch.get_rng_state(), model.state)
    assert not torch.distributed.is_initialized()  # the driver itself is no rank


def test_leaving_the_with_block_releases_everything(two_workers: Any, nothing_held: Any) -> None:
    with two_workers() as trainer:
        trainer.fit(Linear(), batches())
    nothing_held()
    assert ray.is_initialized()  # the cluster is not raylight's


@pytest.mark.slow
def test_shutdown_may_be_called_again_and_a_fit_may_follow(two_workers: Any, nothing_held: Any) -> None:
    trainer = two_workers()
    trainer.shutdown()
    trainer.fit(Linear(), batches())
    trainer.shutdown()
    trainer.shutdown()
    nothing_held()
    trainer.fit(Linear(), batches())
    assert trainer.state.finished


@pytest.mark.slow
def test_idle_workers_are_let_go(two_workers: Any, nothing_held: Any) -> None:
    trainer = two_workers(idle_timeout=0.2)
    trainer.fit(Linear(), batches())
    nothing_held()
    trainer.fit(Linear(), batches())
    assert trainer.state.finished


@pytest.fixture
def no_workers(nothing_held: Callable[[], None]) -> None:
    """The cluster is free."""
    pool.shutdown()
    nothing_held()


def test_more_workers_than_the_cluster_has(no_workers: None, nothing_held: Any) -> None:
    trainer = pl.Trainer(num_workers=3, resource_timeout=1, **QUIET)
    with pytest.raises(ResourceError, match=r"3 workers with 1 CPU each .* 2 of 2 CPU free.*Waited 1 s.*fewer devices"):
        trainer.fit(Linear(), batches())
    nothing_held()


def test_the_holder_of_the_resources_is_named(no_workers: None, two_workers: Any, wait_until: Any) -> None:
    held = placement_group([{"CPU": 2}], name="somebody else's")
    wait_until(lambda: held.wait(0.1))
    try:
        with pytest.raises(ResourceError, match=r"0 of 2 CPU free.*Held by: .*somebody else's \(2 CPU\)"):
            two_workers(resource_timeout=1).fit(Linear(), batches())
    finally:
        remove_placement_group(held)


def test_more_nodes_than_a_cluster_of_raylights_own_has(no_workers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a one does not grow, so there is nothing to wait for."""
    monkeypatch.setattr(cluster, "_own", cluster.session())
    trainer = pl.Trainer(devices=1, num_nodes=2, resource_timeout=50, **QUIET)
    with pytest.raises(ResourceError, match=r"must spread over 2 nodes \(num_nodes\); it has 1\.") as refused:
        trainer.fit(Linear(), batches())
    assert "Waited" not in str(refused.value)


@pytest.mark.parametrize("other", [("session_of_before", None), (None, "02000000")])
def test_another_cluster_is_not_raylights(
    ray_cluster: str, monkeypatch: pytest.MonkeyPatch, other: tuple[str | None, str | None]
) -> None:
    now = cluster.session()
    monkeypatch.setattr(cluster, "_own", tuple(new or old for new, old in zip(other, now, strict=True)))
    cluster.connect(3, 1)  # which it would end, for one of three CPUs, if it were
    cluster.disconnect()
    assert cluster.session() == now


@pytest.mark.slow
def test_fit_waits_for_resources(no_workers: None, two_workers: Any, wait_until: Any) -> None:
    held = placement_group([{"CPU": 1}])
    wait_until(lambda: held.wait(0.1))
    released = threading.Timer(1.0, remove_placement_group, [held])
    released.start()
    trainer = two_workers(resource_timeout=30)
    trainer.fit(Linear(), batches())
    released.join()
    assert trainer.state.finished


class Endless(Linear):
    """Trains until it is stopped; tells the process of ``rank`` from batch 20 on."""

    def __init__(self, pid_file: Path, rank: int) -> None:
        super().__init__()
        self.pid_file, self.rank = pid_file, rank

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.trainer.state.total_batches == 20 and self.global_rank == self.rank:
            partial = self.pid_file.with_suffix(".partial")
            partial.write_text(str(os.getpid()))
            partial.rename(self.pid_file)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_worker_ends_the_run(two_workers: Any, nothing_held: Any, tmp_path: Path, rank: int) -> None:
    pid_file, over = tmp_path / "pid", threading.Event()
    killed_at = []

    def kill() -> None:
        while not pid_file.exists():
            if over.wait(0.02):
                return
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
        killed_at.append(time.monotonic())

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(WorkerError, match=rf"rank {rank} \(pid \d+ on node [\d.]+\) is gone") as caught:
            two_workers(max_epochs=-1, max_failures=0).fit(Endless(pid_file, rank), batches())
        seconds = time.monotonic() - killed_at[0]
    finally:
        over.set()
        killer.join()
    assert caught.value.rank == rank
    assert caught.value.node
    assert pid_file.read_text() in str(caught.value)
    assert seconds < 20, "some 2 s on a quiet machine; without noticing it, for ever"
    nothing_held()


def test_a_worker_killed_between_two_calls_is_replaced(two_workers: Any) -> None:
    trainer, model = two_workers(), Located()
    trainer.fit(model, batches())
    before, model.pids = model.pids, ()
    os.kill(before[1], signal.SIGKILL)
    trainer.test(model, batches(), verbose=False)
    assert len(model.pids) == 2
    assert not set(model.pids) & set(before)
