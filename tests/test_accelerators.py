"""Accelerators by themselves; no test here needs a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raylight.accelerators import CPUAccelerator, CUDAAccelerator, MPSAccelerator, find_usable_cuda_devices
from raylight.utilities.exceptions import MisconfigurationException


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``gpus(count)``: torch says that there are so many."""
    return lambda count: monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_cpu() -> None:
    accelerator = CPUAccelerator()
    assert (accelerator.name(), accelerator.is_available(), accelerator.auto_device_count()) == ("cpu", True, 1)
    assert accelerator.get_parallel_devices("2") == [torch.device("cpu")] * 2
    assert set(accelerator.get_device_stats(torch.device("cpu"))) == {
        "cpu_vm_percent",
        "cpu_percent",
        "cpu_swap_percent",
    }
    accelerator.setup_device(torch.device("cpu"))
    with pytest.raises(MisconfigurationException, match="Device should be CPU"):
        accelerator.setup_device(torch.device("cuda"))


@pytest.mark.parametrize("bad", [0, -1, "-1", "2,3", [1]])
def test_cpu_devices(bad: Any) -> None:
    with pytest.raises(TypeError, match="should be an int > 0"):
        CPUAccelerator.parse_devices(bad)


@pytest.mark.parametrize(
    ("devices", "indices"),
    [(1, [0]), (-1, [0, 1, 2]), ("-1", [0, 1, 2]), ("2", [0, 1]), ("1, 2", [1, 2]), ([2], [2]), (0, None), ("0", None)],
)
def test_cuda_devices(gpus: Any, devices: Any, indices: list[int] | None) -> None:
    gpus(3)
    assert CUDAAccelerator.parse_devices(devices) == indices


@pytest.mark.parametrize(
    ("devices", "error"),
    [
        (4, MisconfigurationException),
        ([0, 0], MisconfigurationException),
        (1.5, TypeError),
        (None, TypeError),
        ([False], TypeError),
        (["1"], TypeError),
    ],
)
def test_cuda_devices_refused(gpus: Any, devices: Any, error: type[Exception]) -> None:
    gpus(3)
    with pytest.raises(error):
        CUDAAccelerator.parse_devices(devices)


def test_cuda_without_gpus(gpus: Any) -> None:
    gpus(0)
    assert not CUDAAccelerator.is_available()
    assert CUDAAccelerator.auto_device_count() == 0
    with pytest.raises(MisconfigurationException, match="GPUs requested but none are available"):
        CUDAAccelerator.parse_devices(-1)
    with pytest.raises(MisconfigurationException, match="Device should be GPU"):
        CUDAAccelerator().setup_device(torch.device("cpu"))


def test_usable_devices(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(3)
    monkeypatch.setattr("raylight.accelerators._can_be_used", lambda index: index != 1)
    assert find_usable_cuda_devices(0) == []
    assert find_usable_cuda_devices(1) == [0]
    assert find_usable_cuda_devices() == find_usable_cuda_devices(2) == [0, 2]
    with pytest.raises(RuntimeError, match=r"only 2 are currently available. The devices \[1\]"):
        find_usable_cuda_devices(3)
    with pytest.raises(ValueError, match="this machine only has 3 GPUs"):
        find_usable_cuda_devices(4)
    gpus(0)
    with pytest.raises(ValueError, match="no visible CUDA devices"):
        find_usable_cuda_devices(2)


def test_what_raylight_does_not_run_on() -> None:
    assert isinstance(MPSAccelerator.is_available(), bool)
    with pytest.raises(MisconfigurationException, match="use accelerator='cpu'"):
        MPSAccelerator()
    with pytest.raises(ImportError, match="does not run on TPUs"):
        from raylight.accelerators import XLAAccelerator  # noqa: F401
