"""Where the workers of a run go. The machine's GPUs are what the test says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raylight.config.accelerators import place, wants_ray
from raylight.config.flags import TrainerConfig
from raylight.utilities.exceptions import MisconfigurationException


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYLIGHT_LAUNCHER", raising=False)


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("flags", "gpus", "device_type", "num_workers", "use_ray"),
    [
        ({}, 0, "cpu", 1, False),
        ({}, 1, "cuda", 1, False),
        ({"accelerator": "cpu"}, 8, "cpu", 1, False),
        ({"accelerator": "cpu", "devices": 2}, 0, "cpu", 2, True),
        ({"accelerator": "cpu", "devices": "3"}, 0, "cpu", 3, True),
        ({"accelerator": "cpu", "num_nodes": 2}, 0, "cpu", 2, True),
        ({"accelerator": "cpu", "devices": 2, "num_nodes": 2}, 0, "cpu", 4, True),
        ({"accelerator": "cpu", "num_workers": 5}, 0, "cpu", 5, True),
        ({"accelerator": "cpu", "num_workers": 1}, 0, "cpu", 1, True),
        ({"accelerator": "cpu", "resources_per_worker": {"CPU": 2}}, 0, "cpu", 1, True),
        ({"accelerator": "cpu", "launcher": "ray"}, 0, "cpu", 1, True),
        ({"accelerator": "gpu", "devices": 1}, 2, "cuda", 1, False),
        ({"accelerator": "gpu", "devices": "0,"}, 2, "cuda", 1, False),
        ({"accelerator": "gpu", "devices": [1]}, 2, "cuda", 1, False),
    ],
    ids=str,
)
def test_placement(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], gpus: int, device_type: str, num_workers: int, use_ray: bool
) -> None:
    with_gpus(monkeypatch, gpus)
    config = TrainerConfig(**flags)
    found = place(config)
    assert (found.device_type, found.num_workers, found.use_ray) == (device_type, num_workers, use_ray)
    assert wants_ray(config) == use_ray


@pytest.mark.parametrize(
    ("flags", "cluster_gpus", "num_workers"),
    [
        ({"accelerator": "gpu", "devices": 2}, 4, 2),
        ({"accelerator": "gpu", "devices": -1}, 4, 4),
        ({"accelerator": "gpu", "devices": "auto"}, 4, 4),
        ({"accelerator": "gpu", "devices": "0,1"}, 4, 2),
        ({"accelerator": "gpu", "num_workers": 3}, 4, 3),
    ],
    ids=str,
)
def test_driver_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], cluster_gpus: int, num_workers: int
) -> None:
    """A laptop drives a cluster that has them."""
    with_gpus(monkeypatch, 0)
    found = place(TrainerConfig(**flags), cluster_gpus)
    assert (found.device_type, found.num_workers, found.use_ray) == ("cuda", num_workers, True)
    assert found.resources == {"CPU": 1.0, "GPU": 1.0}
    assert found.backend == "nccl"


def test_own_resources_are_added() -> None:
    config = TrainerConfig(
        accelerator="cpu", num_workers=2, resources_per_worker={"CPU": 4, "accelerator_type:T4": 0.1}
    )
    assert place(config).resources == {"CPU": 4, "accelerator_type:T4": 0.1}
    assert place(config).backend == "gloo"


def test_chosen_gpu_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 4)
    assert place(TrainerConfig(accelerator="gpu", devices=[2])).device_index == 2
    assert place(TrainerConfig(accelerator="gpu", devices="3,")).device_index == 3
    assert place(TrainerConfig(accelerator="gpu", devices=1)).device_index == 0


@pytest.mark.parametrize(
    ("flags", "error", "said"),
    [
        ({"accelerator": "abacus"}, ValueError, "invalid accelerator name: `accelerator='abacus'`"),
        ({"accelerator": "tpu"}, MisconfigurationException, "is not available"),
        ({"accelerator": "cpu", "devices": 0}, MisconfigurationException, "devices=0"),
        (
            {"accelerator": "cpu", "devices": []},
            MisconfigurationException,
            "`Trainer(devices=[])` value is not a valid",
        ),
        ({"accelerator": "cpu", "devices": -2}, MisconfigurationException, "devices=-2"),
        ({"accelerator": "cpu", "devices": -1}, MisconfigurationException, "devices=-1"),
        ({"accelerator": "cpu", "devices": "many"}, MisconfigurationException, "'many'"),
        ({"accelerator": "cpu", "devices": 2, "launcher": "local"}, MisconfigurationException, "use launcher='ray'"),
        ({"accelerator": "gpu", "launcher": "local"}, MisconfigurationException, "No supported gpu backend found!"),
        ({"accelerator": "cpu", "devices": 2, "num_workers": 3}, MisconfigurationException, "contradicts"),
        ({"accelerator": "cpu", "devices": 2, "num_workers": (1, 2)}, MisconfigurationException, "leave out devices"),
        ({"accelerator": "cpu", "num_nodes": 2, "num_workers": (2, 4)}, MisconfigurationException, "leave out devices"),
        (
            {"accelerator": "cpu", "num_workers": (2, 3)},
            MisconfigurationException,
            "no number from 2 to 2 divides the 3 batches of an optimizer step",
        ),
    ],
    ids=str,
)
def test_refused(monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], error: type[Exception], said: str) -> None:
    with_gpus(monkeypatch, 0)
    with pytest.raises(error) as caught:
        place(TrainerConfig(**flags))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "sizes", "keeps_global_batch"),
    [
        ({"num_workers": (1, 4)}, (4, 2, 1), True),
        ({"num_workers": (2, 3), "accumulate_grad_batches": 2}, (3, 2), True),
        ({"num_workers": (2, 3), "accumulate_grad_batches": {0: 4, 3: 2}}, (3, 2), True),
        ({"num_workers": (1, 4), "elastic": "local_batch"}, (4, 3, 2, 1), False),
        ({"num_workers": (2, 2)}, (2,), True),
        ({"num_workers": 3}, (3,), False),
    ],
    ids=str,
)
def test_numbers_of_workers(flags: dict[str, Any], sizes: tuple[int, ...], keeps_global_batch: bool) -> None:
    placement = place(TrainerConfig(accelerator="cpu", **flags))
    assert (placement.sizes, placement.keeps_global_batch) == (sizes, keeps_global_batch)


def test_gpu_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 2)
    with pytest.raises(MisconfigurationException, match=r"machine only has: \[0, 1\]"):
        place(TrainerConfig(accelerator="gpu", devices=[5]))
