"""Collections on their way to a device, and small questions."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning.utilities as lightnings
import torch
import torch.distributed as dist
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature as lightnings_takes
from torch import Tensor, nn

from raylight.utilities import is_shared_filesystem, measure_flops, move_data_to_device
from raylight.utilities.apply_func import convert_tensors_to_scalars
from raylight.utilities.imports import package_available
from raylight.utilities.signature_utils import is_param_in_hook_signature


class Movable:
    """Its ``to`` forgets to return itself."""

    def to(self, device: torch.device) -> None:
        self.device = device


@pytest.mark.parametrize("device", ["meta", torch.device("meta")])
def test_move(device: Any) -> None:
    movable = Movable()
    moved = move_data_to_device({"x": [torch.ones(1)], "y": movable, "z": "text"}, device)
    assert moved["x"][0].device.type == "meta"
    assert moved["z"] == "text"
    assert moved["y"] is movable
    assert movable.device == torch.device("meta")


def test_scalars() -> None:
    assert convert_tensors_to_scalars({"a": torch.tensor(2), "b": [torch.tensor([0.5])], "c": 1}) == {
        "a": 2,
        "b": [0.5],
        "c": 1,
    }
    with pytest.raises(ValueError, match="does not contain a single element"):
        convert_tensors_to_scalars(torch.ones(2))


def test_flops_are_lightnings() -> None:
    with torch.device("meta"):
        model, x = nn.Linear(32, 2), torch.randn(2, 32)

    def forward() -> Tensor:
        output: Tensor = model(x)
        return output

    assert measure_flops(model, forward) == lightnings.measure_flops(model, forward) == 2 * 2 * 32 * 2
    with_backward = measure_flops(model, forward, lambda y: y.sum())
    assert with_backward == lightnings.measure_flops(model, forward, lambda y: y.sum())
    assert with_backward > measure_flops(model, forward)


class Hooks:
    def named(self, batch: Any, batch_idx: int) -> None: ...

    def open(self, *args: Any) -> None: ...


@pytest.mark.parametrize("takes", [lightnings_takes, is_param_in_hook_signature])
def test_arguments_of_a_hook(takes: Any) -> None:
    assert takes(Hooks.named, "batch_idx")
    assert not takes(Hooks.named, "dataloader_idx")
    assert takes(Hooks.named, "dataloader_idx", min_args=2)
    assert takes(Hooks.open, "batch_idx")
    assert not takes(Hooks.open, "batch_idx", explicit=True)


def test_packages() -> None:
    assert package_available("torch.nn")
    assert not package_available("no_such_package.at_all")


class Ranks:
    world_size = 2


def test_shared_filesystem(tmp_path: Any) -> None:
    assert is_shared_filesystem(object(), tmp_path)  # one worker
    assert is_shared_filesystem(Ranks(), "s3://bucket/folder")
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert is_shared_filesystem(Ranks(), tmp_path)
        with pytest.raises(FileNotFoundError, match="Unable to determine if the path belongs to a shared filesystem"):
            is_shared_filesystem(Ranks(), tmp_path / "missing")
    finally:
        dist.destroy_process_group()
    assert list(tmp_path.iterdir()) == []
