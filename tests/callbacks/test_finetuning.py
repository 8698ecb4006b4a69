"""What BaseFinetuning's tools do to modules and optimizers."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from raylight.callbacks import BackboneFinetuning, BaseFinetuning
from raylight.utilities.exceptions import MisconfigurationException


class WithOwnParameter(nn.Module):
    """A parent that has a parameter beside its child."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(2))


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Sequential(WithOwnParameter(), nn.ReLU()))


def trained(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize(
    "nesting", [lambda each: each, list, lambda each: nn.ModuleDict({"all": each}), lambda e: [[e]]]
)
def test_flatten_modules(nesting: Any) -> None:
    module = net()
    found = [type(each).__name__ for each in BaseFinetuning.flatten_modules(nesting(module))]
    assert found == ["Linear", "BatchNorm1d", "WithOwnParameter", "Linear", "ReLU"]


def test_parameters_are_given_once() -> None:
    module = net()
    assert len(list(BaseFinetuning.filter_params(module))) == len(list(module.parameters()))
    assert len(list(BaseFinetuning.filter_params(module, train_bn=False))) == len(list(module.parameters())) - 2
    assert list(BaseFinetuning.filter_params(module, requires_grad=False)) == []


@pytest.mark.parametrize("train_bn", [True, False])
def test_freeze_and_make_trainable(train_bn: bool) -> None:
    module = net()
    BaseFinetuning.freeze(module, train_bn=train_bn)
    assert trained(module) == (["1.weight", "1.bias"] if train_bn else [])
    assert module[1].track_running_stats is train_bn
    BaseFinetuning.make_trainable(module)
    assert len(trained(module)) == len(list(module.parameters()))
    assert module[1].track_running_stats


def test_freeze_module_leaves_its_children() -> None:
    module = WithOwnParameter()
    BaseFinetuning.freeze_module(module)
    assert trained(module) == ["child.weight", "child.bias"]


@pytest.mark.parametrize(("lr", "expected"), [(None, 0.02), (0.5, 0.5)])
def test_a_group_is_added(lr: float | None, expected: float) -> None:
    module = net()
    BaseFinetuning.freeze(module[0])
    optimizer = SGD(filter(lambda p: p.requires_grad, module.parameters()), lr=0.1)
    BaseFinetuning.unfreeze_and_add_param_group(module[0], optimizer, lr=lr, initial_denom_lr=5)
    first, second = optimizer.param_groups
    assert first["lr"] == 0.1
    assert second["lr"] == expected
    assert [id(p) for p in second["params"]] == [id(p) for p in module[0].parameters()]
    assert trained(module[0]) == ["weight", "bias"]


def test_parameters_that_the_optimizer_has_are_not_added() -> None:
    module = net()
    optimizer = SGD(module.parameters(), lr=0.1)
    BaseFinetuning.freeze(module[0])
    with pytest.warns(UserWarning, match="already exist within another group of this optimizer"):
        BaseFinetuning.unfreeze_and_add_param_group(module[0], optimizer)
    assert len(optimizer.param_groups) == 1


def test_other_parameters_of_the_same_values_are_added() -> None:
    one, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    optimizer = SGD(one.parameters(), lr=0.1)
    BaseFinetuning.unfreeze_and_add_param_group(other, optimizer)
    assert len(optimizer.param_groups[1]["params"]) == 2


def test_a_backbone_is_needed(in_raylight: Any) -> None:
    with pytest.raises(MisconfigurationException, match="should have a nn.Module `backbone` attribute"):
        in_raylight.trainer(BackboneFinetuning(), max_epochs=1).fit(in_raylight.model())


def test_base_must_be_filled_in() -> None:
    with pytest.raises(NotImplementedError):
        BaseFinetuning().freeze_before_training(None)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError):
        BaseFinetuning().finetune_function(None, 0, None)  # type: ignore[arg-type]


def test_rates_are_told(caplog: pytest.LogCaptureFixture) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = nn.Linear(2, 2), nn.Linear(2, 1)

    model: Any = Model()
    callback = BackboneFinetuning(1, lambda_func=lambda epoch: 1.5, verbose=True, rounding=3)
    callback.freeze_before_training(model)
    optimizer = SGD(model.head.parameters(), lr=0.11111)
    with caplog.at_level(logging.INFO, logger="raylight"):
        for epoch in range(3):
            callback.finetune_function(model, epoch, optimizer)
    assert caplog.messages == ["Current lr: 0.111, Backbone lr: 0.011", "Current lr: 0.111, Backbone lr: 0.017"]


def test_state_of_the_oldest_files() -> None:
    groups = {0: [{"lr": 0.1, "params": ["layer.weight"]}]}
    callback = BaseFinetuning()
    callback.load_state_dict(groups)
    assert callback.state_dict() == {"internal_optimizer_metadata": groups}
