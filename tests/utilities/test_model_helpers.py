"""Who overrides what."""

from __future__ import annotations

import functools
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

import raylight as pl
from raylight.demos.boring_classes import BoringDataModule, BoringModel
from raylight.utilities.compile import from_compiled, to_uncompiled
from raylight.utilities.model_helpers import get_torchvision_model, is_overridden


class Silent(pl.Callback):
    pass


class Loud(pl.Callback):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        print("fit")


def test_overridden_methods() -> None:
    assert is_overridden("training_step", BoringModel())
    assert not is_overridden("on_fit_start", BoringModel())
    assert is_overridden("train_dataloader", BoringDataModule())
    assert is_overridden("on_fit_start", Loud())
    assert not is_overridden("on_fit_start", Silent())
    assert not is_overridden("on_fit_start", None)
    assert not is_overridden("whatever", BoringModel())


def test_overridden_by_other_means() -> None:
    model = BoringModel()
    model.validation_step = functools.partial(BoringModel.training_step, model)  # type: ignore[method-assign]
    assert is_overridden("validation_step", model)
    model.test_step = Mock(wraps=model.test_step)  # type: ignore[method-assign]
    assert is_overridden("test_step", model)


def test_overridden_against_a_parent() -> None:
    assert not is_overridden("training_step", BoringModel(), parent=BoringModel)
    with pytest.raises(ValueError, match="The parent should define the method"):
        is_overridden("step", BoringModel(), parent=pl.LightningModule)
    with pytest.raises(ValueError, match="Expected a parent"):
        is_overridden("forward", nn.Linear(1, 1))


def test_model_of_torchvision() -> None:
    assert type(get_torchvision_model("squeezenet1_1")).__name__ == "SqueezeNet"


def test_compiled_module_there_and_back() -> None:
    calls = []
    model = BoringModel()
    model.loss = lambda preds: calls.append("loss") or preds.sum()  # type: ignore[assignment, method-assign, func-returns-value]
    compiled = from_compiled(torch.compile(model, backend="eager"))
    assert compiled is model
    assert "training_step" in vars(model)
    expected = model.layer(torch.ones(1, 32)).sum()
    assert torch.equal(model.training_step(torch.ones(1, 32), 0)["loss"], expected)  # type: ignore[index, call-overload]
    assert to_uncompiled(model) is model
    assert "training_step" not in vars(model)
    assert calls == ["loss"]


def test_what_is_not_compiled() -> None:
    with pytest.raises(ValueError, match="required to be a `OptimizedModule`. Found a `BoringModel`"):
        from_compiled(BoringModel())
    with pytest.raises(ValueError, match="expected to be a compiled LightningModule. Found a `Linear`"):
        from_compiled(torch.compile(nn.Linear(1, 1)))
    with pytest.raises(ValueError, match="Found a non-compiled LightningModule"):
        to_uncompiled(BoringModel())
    with pytest.raises(ValueError, match="must either be an instance of OptimizedModule or LightningModule"):
        to_uncompiled(nn.Linear(1, 1))
