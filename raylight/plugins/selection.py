"""From the Trainer's flags to a Strategy with all that belongs to it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from raylight.accelerators import KINDS, Accelerator, AcceleratorRegistry
from raylight.checkpoint.io import CheckpointIO
from raylight.plugins.environments import ClusterEnvironment
from raylight.precision import Precision, make_precision
from raylight.strategies import BUILT_IN, Strategy, StrategyRegistry, make_strategy
from raylight.strategies.layer_sync import LayerSync, TorchSyncBatchNorm
from raylight.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from raylight.config.flags import TrainerConfig

Plugins = dict[type, Any]
"""Precision, CheckpointIO and LayerSync, each with the one that was given."""


def with_registered(config: TrainerConfig) -> TrainerConfig:
    """``config`` with objects for the names that the user has registered, which workers of Ray's do not know."""
    accelerator, strategy = config.accelerator, config.strategy
    if accelerator in AcceleratorRegistry and accelerator not in KINDS:
        config = dataclasses.replace(config, accelerator=AcceleratorRegistry.get(accelerator))
    if strategy in StrategyRegistry and StrategyRegistry[strategy] is not BUILT_IN.get(strategy):
        config = dataclasses.replace(config, strategy=StrategyRegistry.get(strategy))
    return config


def with_devices_of_strategy(config: TrainerConfig) -> TrainerConfig:
    """``config`` with the accelerator and the device that its Strategy object was made with.

    Raises:
        MisconfigurationException: The flags say something else.
    """
    given = config.strategy.given if isinstance(config.strategy, Strategy) else {}
    device = given.get("device")
    accelerator = given.get("accelerator") or (device.type if device is not None else None)
    if accelerator is None:
        return config
    if config.accelerator == "auto":
        config = dataclasses.replace(config, accelerator=accelerator)
    elif "accelerator" in given:
        raise MisconfigurationException("accelerator set through both strategy class and accelerator flag, choose one")
    if device is not None and device.index is not None and config.devices == "auto":
        config = dataclasses.replace(config, devices=[device.index])
    return config


def equipped_strategy(config: TrainerConfig, world_size: int, device_type: str) -> Strategy:
    """The Strategy that the flags mean, with its precision, accelerator, CheckpointIO and LayerSync.

    Raises:
        MisconfigurationException: A plugin is of no known kind, or two of a kind are given.
        ValueError: There is no such strategy or precision, or a precision is given twice.
    """
    plugins = sort_plugins(config.plugins)
    if Precision in plugins and config.precision is not None:
        raise ValueError(
            f"Received both `precision={config.precision}` and `plugins={plugins[Precision]}`. Choose one."
        )
    if config.sync_batchnorm:
        layer_sync = plugins.setdefault(LayerSync, TorchSyncBatchNorm())
        if not isinstance(layer_sync, TorchSyncBatchNorm):
            raise MisconfigurationException(
                f"You set `Trainer(sync_batchnorm=True)` and provided a `{type(layer_sync).__name__}` plugin, but this "
                "is not allowed. Choose one or the other."
            )
    strategy = make_strategy(config.strategy, world_size)
    for kind, argument in ((Precision, "precision_plugin"), (CheckpointIO, "checkpoint_io")):
        if kind in plugins and argument in strategy.given:
            raise MisconfigurationException(f"{argument} set through both strategy class and plugins, choose one")
    if "precision_plugin" not in strategy.given:
        strategy.precision_plugin = plugins.get(Precision) or make_precision(config.precision, device_type)
    if CheckpointIO in plugins:
        strategy.checkpoint_io = plugins[CheckpointIO]
    strategy.accelerator = accelerator_of(config, device_type)
    strategy.layer_sync = plugins.get(LayerSync)
    return strategy


def accelerator_of(config: TrainerConfig, device_type: str) -> Accelerator:
    """The user's Accelerator, or the one for "cpu" or "cuda"."""
    return config.accelerator if isinstance(config.accelerator, Accelerator) else KINDS[device_type]()


def sort_plugins(plugins: Any) -> Plugins:
    """What ``Trainer(plugins=...)`` was given, by kind.

    Raises:
        MisconfigurationException: One is of no known kind, or two are of one.
    """
    given = list(plugins) if isinstance(plugins, Iterable) else [] if plugins is None else [plugins]
    found: Plugins = {}
    counts: Counter[str] = Counter()
    for plugin in given:
        kind = next((each for each in (Precision, CheckpointIO, LayerSync) if isinstance(plugin, each)), None)
        if isinstance(plugin, ClusterEnvironment):
            raise MisconfigurationException(ClusterEnvironment.REFUSAL)
        if kind is None:
            raise MisconfigurationException(
                f"Found invalid type for plugin {plugin}. Expected one of: Precision, CheckpointIO, or LayerSync."
            )
        found[kind] = plugin
        counts[kind.__name__] += 1
    if several := [name for name, count in counts.items() if count > 1]:
        raise MisconfigurationException(
            f"Received multiple values for {', '.join(several)} flags in `plugins`. Expected one value for each type "
            "at most."
        )
    return found
