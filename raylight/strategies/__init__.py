"""Strategies by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylight.strategies.base import SingleDeviceStrategy, Strategy
from raylight.strategies.ddp import DDPStrategy
from raylight.utilities.aliases import lazy_names
from raylight.utilities.exceptions import MisconfigurationException

__all__ = ["DDPStrategy", "SingleDeviceStrategy", "Strategy", "make_strategy"]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)

DDP_NAMES = ("ddp", "ddp_spawn", "ddp_fork", "ddp_notebook")
"""All mean the same here: raylight starts the workers itself."""
LATER = ("fsdp", "deepspeed", "xla", "single_xla", "single_tpu")


def make_strategy(strategy: Any, world_size: int) -> Strategy:
    """The Strategy that ``Trainer(strategy=...)`` names, for a run of ``world_size`` workers.

    Raises:
        ValueError: There is no such strategy.
        MisconfigurationException: It is Lightning's, and raylight does not have it.
    """
    if isinstance(strategy, Strategy):
        return _fitting(strategy, world_size)
    if strategy == "auto":
        return DDPStrategy() if world_size > 1 else SingleDeviceStrategy()
    if strategy == "single_device":
        if world_size > 1:
            raise MisconfigurationException(f"strategy='single_device' has one worker, but {world_size} are asked for.")
        return SingleDeviceStrategy()
    for name in DDP_NAMES:
        if strategy in (name, f"{name}_find_unused_parameters_true", f"{name}_find_unused_parameters_false"):
            return _make_ddp(strategy, world_size)
    if isinstance(strategy, str) and strategy.startswith(LATER):
        raise MisconfigurationException(f"strategy={strategy!r} is not supported by this version: use 'ddp'.")
    raise ValueError(
        f"You selected an invalid strategy name: `strategy={strategy!r}`. It must be either a string or an instance of "
        "`raylight.strategies.Strategy`. Example choices: auto, ddp, single_device."
    )


def _fitting(strategy: Strategy, world_size: int) -> Strategy:
    if world_size > 1 and not strategy.distributed:
        raise MisconfigurationException(
            f"{type(strategy).__name__} does not exchange gradients, but {world_size} workers are asked for: "
            "use DDPStrategy."
        )
    if world_size > 1 or not strategy.distributed:
        return strategy
    # Averaging over one worker changes nothing.
    return SingleDeviceStrategy(**strategy.given)


def _make_ddp(name: str, world_size: int) -> Strategy:
    if world_size == 1:
        return SingleDeviceStrategy()  # averaging over one worker changes nothing
    if name.endswith("_true"):
        return DDPStrategy(find_unused_parameters=True)
    return DDPStrategy(find_unused_parameters=False if name.endswith("_false") else None)
