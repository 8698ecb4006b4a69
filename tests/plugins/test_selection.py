"""Flags and plugins to a Strategy with all that belongs to it."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from raylight.accelerators import CPUAccelerator, CUDAAccelerator
from raylight.config.flags import TrainerConfig
from raylight.plugins import (
    DoublePrecision,
    LayerSync,
    MixedPrecision,
    Precision,
    TorchCheckpointIO,
    TorchSyncBatchNorm,
)
from raylight.plugins.environments import ClusterEnvironment
from raylight.plugins.selection import equipped_strategy, sort_plugins, with_devices_of_strategy
from raylight.strategies import DDPStrategy, SingleDeviceStrategy
from raylight.utilities.exceptions import MisconfigurationException


class OwnSync(LayerSync):
    def apply(self, model: Any) -> Any:
        return model

    def revert(self, model: Any) -> Any:
        return model


def equipped(world_size: int = 1, device_type: str = "cpu", **flags: Any) -> Any:
    return equipped_strategy(TrainerConfig(**flags), world_size, device_type)


def test_nothing_given() -> None:
    strategy = equipped()
    assert type(strategy) is SingleDeviceStrategy
    assert type(strategy.precision_plugin) is Precision
    assert type(strategy.checkpoint_io) is TorchCheckpointIO
    assert type(strategy.accelerator) is CPUAccelerator
    assert strategy.layer_sync is None
    assert type(equipped(device_type="cuda").accelerator) is CUDAAccelerator


def test_all_given() -> None:
    precision, checkpoint_io, layer_sync = MixedPrecision("bf16-mixed", "cpu"), TorchCheckpointIO(), OwnSync()
    strategy = equipped(2, plugins=(precision, checkpoint_io, layer_sync))
    assert type(strategy) is DDPStrategy
    assert strategy.precision_plugin is precision
    assert strategy.checkpoint_io is checkpoint_io
    assert strategy.layer_sync is layer_sync


def test_one_needs_no_list() -> None:
    precision = DoublePrecision()
    assert sort_plugins(precision) == {Precision: precision}
    assert sort_plugins([]) == sort_plugins(None) == {}


def test_sync_batchnorm() -> None:
    own = TorchSyncBatchNorm()
    assert isinstance(equipped(2, sync_batchnorm=True).layer_sync, TorchSyncBatchNorm)
    assert equipped(2, sync_batchnorm=True, plugins=own).layer_sync is own


def test_the_same_flags_again() -> None:
    """In a worker, or for a second Trainer with the same strategy."""
    flags: dict[str, Any] = {"strategy": SingleDeviceStrategy(precision_plugin=DoublePrecision())}
    assert equipped(**flags).precision_plugin is equipped(**flags).precision_plugin
    assert with_devices_of_strategy(TrainerConfig(accelerator="cpu", **flags)).accelerator == "cpu"


class Cluster(ClusterEnvironment):
    pass


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"plugins": "foo"}, "Found invalid type for plugin f"),
        ({"plugins": [3]}, "Found invalid type for plugin 3"),
        (
            {"plugins": [TorchCheckpointIO(), TorchCheckpointIO()]},
            "multiple values for CheckpointIO flags",
        ),
        ({"plugins": [Precision(), DoublePrecision()]}, "multiple values for Precision flags"),
        ({"plugins": DoublePrecision(), "precision": "32-true"}, "Received both `precision=32-true` and `plugins="),
        ({"plugins": OwnSync(), "sync_batchnorm": True}, "provided a `OwnSync` plugin, but this is not allowed"),
        ({"plugins": Cluster()}, "Ray places the workers"),
        (
            {"plugins": DoublePrecision(), "strategy": SingleDeviceStrategy(precision_plugin=DoublePrecision())},
            "set through both strategy class and plugins",
        ),
        (
            {"plugins": TorchCheckpointIO(), "strategy": SingleDeviceStrategy(checkpoint_io=TorchCheckpointIO())},
            "set through both strategy class and plugins",
        ),
    ],
    ids=str,
)
def test_refused(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(MisconfigurationException if "both `pre" not in said else ValueError, match=said):
        equipped(**flags)


def test_devices_of_a_strategy() -> None:
    accelerator = CPUAccelerator()
    config = with_devices_of_strategy(TrainerConfig(strategy=SingleDeviceStrategy(accelerator=accelerator)))
    assert config.accelerator is accelerator
    assert with_devices_of_strategy(TrainerConfig(strategy=SingleDeviceStrategy("cpu"))).accelerator == "cpu"
    config = with_devices_of_strategy(TrainerConfig(strategy=SingleDeviceStrategy(torch.device("cuda", 1))))
    assert (config.accelerator, config.devices) == ("cuda", [1])
    with pytest.raises(MisconfigurationException, match="accelerator set through both"):
        with_devices_of_strategy(TrainerConfig(accelerator="gpu", strategy=DDPStrategy(accelerator=accelerator)))


@pytest.mark.parametrize(
    ("module", "name", "said"),
    [
        ("raylight.plugins", "FSDPPrecision", "no FSDP strategy"),
        ("raylight.plugins", "XLAPrecision", "does not run on TPUs"),
        ("raylight.plugins.precision", "BitsandbytesPrecision", "quantize the model yourself"),
        ("raylight.plugins.precision", "TransformerEnginePrecision", "bf16-true"),
        ("raylight.plugins.io", "XLACheckpointIO", "does not run on TPUs"),
        ("raylight.plugins.environments", "SLURMEnvironment", "Ray places the workers"),
    ],
)
def test_absent_names_say_what_to_use(module: str, name: str, said: str) -> None:
    found = importlib.import_module(module)
    with pytest.raises(ImportError, match=said):
        getattr(found, name)
    assert not hasattr(found, "NothingOfTheKind")
