"""Names that Trainer's flags may be given, the user's own too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from raylight import Trainer
from raylight.accelerators import AcceleratorRegistry, CPUAccelerator
from raylight.strategies import SingleDeviceStrategy, StrategyRegistry
from raylight.utilities.registry import Registry


class Named:
    def __init__(self, size: int = 0) -> None:
        self.size = size


@pytest.fixture
def registry() -> Registry:
    registry = Registry("named")
    registry.register("small", Named, description="A small one", size=1)
    return registry


def test_entry(registry: Registry) -> None:
    expected = {"named": Named, "named_name": "small", "description": "A small one", "init_params": {"size": 1}}
    assert registry["small"] == expected
    assert registry.get("small").size == 1
    assert (list(registry), len(registry)) == (["small"], 1)
    registry.remove("small")
    assert "small" not in registry


def test_decorator(registry: Registry) -> None:
    assert registry.register("large", size=9)(Named) is Named
    assert registry.get("large").size == 9


@pytest.mark.parametrize(("name", "error"), [(1, TypeError), ("small", ValueError)])
def test_refused(name: Any, error: type[Exception], registry: Registry) -> None:
    with pytest.raises(error, match="name|present"):
        registry.register(name, Named)


def test_taken_over(registry: Registry) -> None:
    registry.register("small", Named, override=True, size=2)
    assert registry.get("small").size == 2


def test_unknown(registry: Registry) -> None:
    assert registry.get("large", default=3) == 3
    with pytest.raises(KeyError, match="Available names: small"):
        registry.get("large")


class OwnStrategy(SingleDeviceStrategy):
    pass


class OwnAccelerator(CPUAccelerator):
    pass


@pytest.fixture
def own_kinds() -> Iterator[None]:
    StrategyRegistry.register("own", OwnStrategy)
    AcceleratorRegistry.register("own", OwnAccelerator)
    yield
    StrategyRegistry.remove("own")
    AcceleratorRegistry.remove("own")


@pytest.mark.usefixtures("own_kinds")
def test_trainer_takes_own_names() -> None:
    trainer = Trainer(strategy="own", accelerator="own", devices=1, logger=False)
    assert isinstance(trainer.strategy, OwnStrategy)
    assert isinstance(trainer.accelerator, OwnAccelerator)


def test_known_names() -> None:
    assert {"ddp", "ddp_find_unused_parameters_true", "single_device"} <= set(StrategyRegistry.available_strategies())
    assert AcceleratorRegistry.available_accelerators() == {"cpu", "cuda"}
