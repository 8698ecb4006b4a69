"""What a rank counts of its own work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from raylight.worker import throughput
from raylight.worker.throughput import Throughput, num_samples


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (torch.zeros(5, 2), 5),
        ([torch.zeros(4, 2), torch.zeros(4)], 4),
        ((torch.zeros(3),), 3),
        ({"name": ["a", "b"], "x": torch.zeros(7, 1)}, 1),  # as self.log infers it: the first that tells
        ({"x": torch.zeros(7, 1)}, 7),
        ([[torch.zeros(6)], torch.zeros(2)], 6),
        (torch.tensor(1.0), 1),
        ([], 1),
        (None, 1),
        (object(), 1),
    ],
)
def test_samples_of_a_batch(batch: Any, samples: int) -> None:
    assert num_samples(batch) == samples


def test_batches_are_counted_and_waited_for() -> None:
    def slow() -> Iterator[torch.Tensor]:
        for size in (4, 4, 2):
            time.sleep(0.02)
            yield torch.zeros(size, 1)

    counted = Throughput()
    began = time.perf_counter()
    for batch in counted.watch(slow()):
        assert counted.samples >= len(batch)
        time.sleep(0.05)  # training is not waiting
    seconds = time.perf_counter() - began
    assert (counted.batches, counted.samples) == (3, 10)
    assert 0.06 <= counted.waited <= seconds - 3 * 0.05
    assert began < counted.at < began + seconds


def test_an_evaluation_within_an_epoch_counts_too() -> None:
    counted = Throughput()
    for _ in counted.watch(iter([torch.zeros(2)] * 3)):
        for _ in counted.watch(iter([torch.zeros(5)] * 2)):
            pass
    assert (counted.batches, counted.samples) == (3 + 3 * 2, 3 * 2 + 3 * 2 * 5)


def test_an_epoch_that_ends_early_counts_what_was_taken() -> None:
    counted = Throughput()
    for number, _ in enumerate(counted.watch(iter([torch.zeros(2)] * 9))):
        if number == 4:
            break
    assert (counted.batches, counted.samples) == (5, 10)


def test_nothing_is_taken_ahead() -> None:
    taken = []
    items = Throughput().watch(taken.append(item) or item for item in [torch.zeros(1)] * 3)
    next(items)
    assert len(taken) == 1


def test_the_size_may_be_found_elsewhere() -> None:
    counted = Throughput()
    list(counted.watch(iter([(torch.zeros(3), 0, 0)]), lambda item: num_samples(item[0])))
    assert counted.samples == 3


def test_steps_are_timed_and_the_loss_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "SECONDS_BETWEEN_LOSSES", 0.0)
    weight = torch.ones(1, requires_grad=True)
    counted = Throughput()
    assert counted.loss is None

    def step(value: float) -> Any:
        time.sleep(0.02)
        return (weight * value).sum() if value else None

    watched = counted.watch_step(step, synchronizes=False)
    assert watched(2.0).requires_grad
    assert counted.loss == 2.0
    assert counted.stepping >= 0.02
    watched(0.0)
    assert counted.loss == 2.0
    counted.watch_step(lambda: {"loss": weight * 3, "more": 1}, synchronizes=True)()
    assert counted.loss == 3.0


def test_a_step_that_waits_for_the_others_is_not_the_ranks_own_time() -> None:
    counted = Throughput()
    counted.watch_step(lambda: time.sleep(0.01), synchronizes=True)()
    assert counted.stepping == 0.0


def test_a_loss_is_kept_once_a_second() -> None:
    losses = iter([1.0, 2.0])
    counted = Throughput()
    step = counted.watch_step(lambda: torch.tensor(next(losses)), synchronizes=False)
    step()
    step()
    assert counted.loss == 1.0
