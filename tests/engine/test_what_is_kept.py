"""The parts of recovery by themselves: tensors in a snapshot, events heard twice, failures counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raylight.config.messages import GoesOn, Incident, Metrics, Progress, Report, Text
from raylight.engine.attributes import Packer, TooLargeError, loads
from raylight.engine.recovery import Incidents, Listener
from raylight.engine.snapshots import PackedTensor
from raylight.utilities.exceptions import WorkerError


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4),
        torch.randn(4, 3).t(),
        torch.tensor(2.5),
        torch.empty(0, 3),
        torch.ones(2, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.arange(3),
        torch.tensor([1 + 2j]),
    ],
)
def test_a_tensor_in_a_snapshot(tensor: torch.Tensor) -> None:
    packed = PackedTensor.copy(tensor)
    expected = tensor.clone()
    tensor.zero_()  # training goes on
    back = packed.tensor()
    assert torch.equal(back, expected)
    assert (back.dtype, back.shape) == (expected.dtype, expected.shape)


def test_events_are_passed_on_once() -> None:
    heard: list[Any] = []

    def sink(event: Any) -> bool:
        heard.append(event)
        return False

    listener, steps = Listener(sink), []
    listener.goes_on = steps.append
    rows = [Metrics({"loss": float(step)}, step) for step in range(4)]
    bar = Progress("train", "", 1, 2, {})
    for event in (rows[0], bar, rows[1], rows[2]):
        listener.take(event)
    listener.start(1)  # the snapshot was taken after the first row
    for event in (GoesOn(5), rows[1], bar, rows[2], rows[3]):
        listener.take(event)
    assert heard == [rows[0], bar, rows[1], rows[2], bar, rows[3]]
    assert steps == [5]
    assert listener.take(Report({})) is False
    listener.start(4)
    assert listener.take(Report({})) is True  # as it was answered: else there would have been no more
    assert listener.take(Text("more")) is False


def test_failures_are_counted_and_told_when_training_goes_on() -> None:
    told: list[Incident] = []
    incidents = Incidents(1, told.append)
    incidents.take(WorkerError("gone", 1, "10.0.0.1"))
    assert told == []
    incidents.close(7)
    incidents.close(9)
    assert [(each.what, each.rank, each.node, each.step) for each in told] == [("gone", 1, "10.0.0.1", 7)]
    with pytest.raises(WorkerError, match=r"gone again It was failure 2 of this call \(max_failures=1\). Continue"):
        incidents.take(WorkerError("gone again"))
    with pytest.raises(WorkerError, match="^gone Continue from a checkpoint"):
        Incidents(0, told.append).take(WorkerError("gone"))


def test_large_attributes_stay() -> None:
    shared = object()
    packer = Packer([("it", shared)], largest=200)
    assert loads(packer.dumps([1, shared]), {"it": "another"}) == [1, "another"]
    with pytest.raises(TooLargeError):
        packer.dumps(b"x" * 300)
