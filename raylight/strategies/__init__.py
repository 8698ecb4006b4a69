"""Strategies by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylight.strategies.base import SingleDeviceStrategy, Strategy
from raylight.strategies.ddp import DDPStrategy
from raylight.utilities.aliases import lazy_names
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.registry import Registry

__all__ = ["DDPStrategy", "SingleDeviceStrategy", "Strategy", "StrategyRegistry", "make_strategy"]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)


class _Strategies(Registry):
    def available_strategies(self) -> list[str]:
        """All names."""
        return list(self)


StrategyRegistry = _Strategies("strategy")
"""What ``Trainer(strategy=...)`` may name; add kinds of your own."""
StrategyRegistry.register("single_device", SingleDeviceStrategy, description="One worker")
for _name in ("ddp", "ddp_spawn", "ddp_fork", "ddp_notebook"):  # all the same: raylight starts the workers itself
    StrategyRegistry.register(_name, DDPStrategy, description="Workers that average their gradients")
    for _unused in (True, False):
        StrategyRegistry.register(
            f"{_name}_find_unused_parameters_{str(_unused).lower()}",
            DDPStrategy,
            description=f"DDPStrategy with find_unused_parameters={_unused}",
            find_unused_parameters=_unused,
        )
BUILT_IN = {name: StrategyRegistry[name] for name in StrategyRegistry}
"""Those that every worker knows by name."""
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
    if strategy in StrategyRegistry:
        return _fitting(StrategyRegistry.get(strategy), world_size)
    if isinstance(strategy, str) and strategy.startswith(LATER):
        raise MisconfigurationException(f"strategy={strategy!r} is not supported by this version: use 'ddp'.")
    raise ValueError(
        f"You selected an invalid strategy name: `strategy={strategy!r}`. It must be either a string or an instance of "
        "`raylight.strategies.Strategy`. Example choices: auto, ddp, single_device."
    )


def _fitting(strategy: Strategy, world_size: int) -> Strategy:
    if world_size > 1 and not strategy.distributed:
        raise MisconfigurationException(
            f"strategy={type(strategy).__name__} does not exchange gradients, but {world_size} workers are asked for: "
            "use DDPStrategy."
        )
    if world_size > 1 or not strategy.distributed:
        return strategy
    # Averaging over one worker changes nothing.
    return SingleDeviceStrategy(**strategy.given)
