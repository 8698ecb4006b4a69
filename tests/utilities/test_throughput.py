"""Rates are Lightning's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning_fabric.utilities import throughput as theirs
from torch import nn

from raylight.utilities import throughput as ours

Updates = list[dict[str, Any]]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"window_size": 3},
        {"window_size": 2, "world_size": 4},
        {"window_size": 2, "separator": "|"},
        {"window_size": 9},
    ],
    ids=str,
)
@pytest.mark.parametrize("counted", [{}, {"lengths": 50}, {"flops": 1000}, {"lengths": 50, "flops": 1000}], ids=str)
def test_rates(settings: dict[str, Any], counted: dict[str, int]) -> None:
    computed = []
    for library in (ours, theirs):
        throughput = library.Throughput(available_flops=400, **settings)  # type: ignore[attr-defined]
        found = []
        for step in range(1, 6):
            growing = {name: value * (step if name == "lengths" else 1) for name, value in counted.items()}
            throughput.update(time=step * 1.5, batches=step, samples=step * 4 + step**2, **growing)
            found.append(throughput.compute())
        throughput.reset()
        throughput.update(time=0.5, batches=1, samples=2)
        found.append(throughput.compute())
        computed.append(found)
    assert computed[0] == [pytest.approx(each) for each in computed[1]]


@pytest.mark.parametrize(
    "updates",
    [
        [{"time": 1, "batches": 2, "samples": 1}],
        [{"time": 1, "batches": 1, "samples": 3, "lengths": 2}],
        [{"time": 1, "batches": 1, "samples": 1}, {"time": 1, "batches": 2, "samples": 2}],
        [{"time": 1, "batches": 1, "samples": 1}, {"time": 2, "batches": 1, "samples": 2}],
        [{"time": 1, "batches": 1, "samples": 1}, {"time": 2, "batches": 2, "samples": 2, "lengths": 9}],
    ],
    ids=str,
)
def test_counts_that_cannot_be(updates: Updates) -> None:
    errors = []
    for library in (ours, theirs):
        throughput = library.Throughput()  # type: ignore[attr-defined]
        for update in updates[:-1]:
            throughput.update(**update)
        with pytest.raises((ValueError, RuntimeError)) as error:
            throughput.update(**updates[-1])
        errors.append(error)
    assert errors[0].type is errors[1].type
    assert str(errors[0].value) == str(errors[1].value)


def test_flops_of_a_model() -> None:
    with torch.device("meta"):
        model, x = nn.Linear(8, 4), torch.randn(2, 8)
    assert ours.measure_flops(model, lambda: model(x)) == 2 * 2 * 8 * 4
    assert ours.measure_flops(model, lambda: model(x), torch.sum) == 2 * 2 * 2 * 8 * 4


@pytest.mark.parametrize(
    ("name", "dtype", "flops"),
    [
        ("NVIDIA H200", torch.bfloat16, 989.4e12),
        ("NVIDIA H100 PCIe", torch.float16, 756e12),
        ("NVIDIA A100-SXM4-80GB", torch.float32, 19.5e12),
        ("NVIDIA L40S", torch.bfloat16, 362e12),
        ("NVIDIA L4", torch.bfloat16, 121e12),
        ("Tesla V100-PCIE-32GB", torch.float64, 7e12),
        ("NVIDIA RTX A6000", torch.float16, 154.8e12),
        ("NVIDIA GeForce RTX 4090", torch.float16, 165.2e12),
    ],
)
def test_flops_of_a_device(monkeypatch: pytest.MonkeyPatch, name: str, dtype: torch.dtype, flops: float) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert ours.get_available_flops(torch.device("cuda"), dtype) == int(flops)


def test_rounded_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-PCIE-40GB")
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert ours.get_available_flops(torch.device("cuda"), torch.float32) == 156 * 10**12


def test_flops_that_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ours.get_available_flops(torch.device("cpu"), torch.float32) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.warns(UserWarning, match="'Tesla T4' does not support torch.bfloat16"):
        assert ours.get_available_flops(torch.device("cuda"), torch.bfloat16) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Voodoo 2")
    with pytest.warns(UserWarning, match="FLOPs not found for 'Voodoo 2'"):
        assert ours.get_available_flops(torch.device("cuda"), torch.float32) is None
