"""Strategies by name, and one worker alone. Several workers are tested with the engine that starts them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from raylight.checkpoint.io import AsyncCheckpointIO, TorchCheckpointIO
from raylight.precision import DoublePrecision
from raylight.strategies import DDPStrategy, SingleDeviceStrategy, Strategy, make_strategy
from raylight.strategies.ddp import StepModule
from raylight.strategies.layer_sync import LayerSync
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


def test_device_must_be_the_trainers() -> None:
    ranks = {"global_rank": 0, "local_rank": 0, "node_rank": 0, "world_size": 1}
    for device in ("cpu", torch.device("cpu"), None):
        strategy = SingleDeviceStrategy(device)
        strategy.attach(torch.device("cpu"), **ranks)
        assert strategy.root_device == torch.device("cpu")
    with pytest.raises(MisconfigurationException, match="contradicts the Trainer"):
        SingleDeviceStrategy("cuda:1").attach(torch.device("cuda", 0), **ranks)


def test_ddp_of_one_worker_keeps_what_it_was_given() -> None:
    precision = DoublePrecision()
    alone = make_strategy(DDPStrategy(precision_plugin=precision), 1)
    assert type(alone) is SingleDeviceStrategy
    assert alone.precision_plugin is precision


def test_checkpoint_io_is_torchs_where_none_is_given() -> None:
    strategy = SingleDeviceStrategy()
    assert isinstance(strategy.checkpoint_io, TorchCheckpointIO)
    assert strategy.checkpoint_io is strategy.checkpoint_io


def test_inner_checkpoint_io_is_filled_in() -> None:
    inner = AsyncCheckpointIO()
    strategy = SingleDeviceStrategy(checkpoint_io=AsyncCheckpointIO(inner))
    assert isinstance(strategy.checkpoint_io, AsyncCheckpointIO)
    assert strategy.checkpoint_io.checkpoint_io is inner
    assert isinstance(inner.checkpoint_io, TorchCheckpointIO)


def test_layers_are_synchronized_while_a_run_lasts() -> None:
    calls = []

    class Sync(LayerSync):
        def apply(self, model: nn.Module) -> nn.Module:
            calls.append("apply")
            return model

        def revert(self, model: nn.Module) -> nn.Module:
            calls.append("revert")
            return model

    for kind in (DDPStrategy, SingleDeviceStrategy):  # one worker alone has nothing to synchronize
        strategy = kind()
        strategy.layer_sync = Sync()
        strategy.setup(nn.Linear(1, 1), for_training=False)  # type: ignore[arg-type]
        strategy.teardown()
    assert calls == ["apply", "revert"]


def test_step_module_calls_the_step_that_is_named() -> None:
    class Model(nn.Module):
        def training_step(self, batch: int, batch_idx: int) -> tuple[int, int]:
            return batch, batch_idx

    module = StepModule(Model())  # type: ignore[arg-type]
    heard: list[Any] = []
    module.register_forward_hook(lambda module, args, output: heard.append(output))
    assert module("training_step", 5, batch_idx=1) == (5, 1)
    assert heard == [(5, 1)]


@pytest.mark.parametrize("name", ["parallel_devices", "cluster_environment", "model_averaging_period"])
def test_what_ddp_cannot_do_is_refused(name: str) -> None:
    with pytest.raises(MisconfigurationException, match=f"{name}=.* is not supported"):
        DDPStrategy(**{name: 1})


def test_start_method_makes_no_difference() -> None:
    assert DDPStrategy(start_method="spawn").kwargs == DDPStrategy().kwargs
