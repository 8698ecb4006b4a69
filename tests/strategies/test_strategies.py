"""Strategies by name, and one worker alone. Several workers are tested with the engine that starts them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from raylight.strategies import DDPStrategy, SingleDeviceStrategy, Strategy, make_strategy
from raylight.strategies.ddp import StepModule
from raylight.utilities.exceptions import MisconfigurationException


@pytest.mark.parametrize(
    ("name", "world_size", "kind"),
    [
        ("auto", 1, SingleDeviceStrategy),
        ("auto", 2, DDPStrategy),
        ("ddp", 1, SingleDeviceStrategy),
        ("ddp", 4, DDPStrategy),
        ("ddp_spawn", 2, DDPStrategy),
        ("ddp_notebook_find_unused_parameters_true", 2, DDPStrategy),
        ("single_device", 1, SingleDeviceStrategy),
    ],
)
def test_names(name: str, world_size: int, kind: type[Strategy]) -> None:
    assert type(make_strategy(name, world_size)) is kind


@pytest.mark.parametrize(
    ("name", "find"),
    [("ddp", None), ("ddp_find_unused_parameters_true", True), ("ddp_find_unused_parameters_false", False)],
)
def test_unused_parameters(name: str, find: bool | None) -> None:
    strategy = make_strategy(name, 2)
    assert isinstance(strategy, DDPStrategy)
    assert strategy.find_unused_parameters is find


def test_own_strategy_is_taken() -> None:
    own = DDPStrategy(static_graph=True)
    assert make_strategy(own, 2) is own
    assert own.kwargs["static_graph"] is True


@pytest.mark.parametrize(
    ("name", "world_size", "error"),
    [
        ("nothing", 1, ValueError),
        (None, 1, ValueError),
        ("fsdp", 2, MisconfigurationException),
        ("deepspeed_stage_2", 2, MisconfigurationException),
        ("single_device", 2, MisconfigurationException),
    ],
)
def test_refused(name: Any, world_size: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="strategy="):
        make_strategy(name, world_size)


def test_one_worker_agrees_with_itself() -> None:
    strategy = SingleDeviceStrategy()
    assert strategy.broadcast("x") == "x"
    assert strategy.all_gather_object(1) == [1]
    assert strategy.reduce(torch.tensor(2.0), reduce_op="sum") == 2
    assert strategy.reduce_boolean_decision(True)
    gathered = strategy.all_gather({"a": torch.ones(2), "b": 3, "c": "text"})
    assert torch.equal(gathered["a"], torch.ones(2))
    assert gathered["b"] == torch.tensor(3)
    assert gathered["c"] == "text"
    strategy.barrier()


@pytest.mark.parametrize(("algorithm", "expected"), [("norm", [0.6, 0.8]), (None, [0.6, 0.8]), ("value", [1.0, 1.0])])
def test_clipping(algorithm: str | None, expected: list[float]) -> None:
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    SingleDeviceStrategy().clip_gradients(torch.optim.SGD(parameters, lr=1.0), 1.0, algorithm)
    found = [parameter.grad.item() for parameter in parameters if parameter.grad is not None]
    assert found == pytest.approx(expected, abs=1e-4)


def test_step_module_calls_the_step_that_is_named() -> None:
    class Model(nn.Module):
        def training_step(self, batch: int, batch_idx: int) -> tuple[int, int]:
            return batch, batch_idx

    module = StepModule(Model())  # type: ignore[arg-type]
    heard: list[Any] = []
    module.register_forward_hook(lambda module, args, output: heard.append(output))
    assert module("training_step", 5, batch_idx=1) == (5, 1)
    assert heard == [(5, 1)]
