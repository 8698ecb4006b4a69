"""Norms of gradients, beside Lightning's."""

from __future__ import annotations

import pytest
import pytorch_lightning.utilities.grads as lightnings
import torch

from raylight.utilities.grads import grad_norm


@pytest.fixture
def module() -> torch.nn.Module:
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
    module(torch.randn(5, 3)).sum().backward()
    module[1].bias.grad = None
    return module


@pytest.mark.parametrize("norm_type", [1, 1.25, 2, 3.0, "2", "inf"])
@pytest.mark.parametrize("separator", ["/", "-"])
def test_same_as_lightning(module: torch.nn.Module, norm_type: float | str, separator: str) -> None:
    ours, theirs = grad_norm(module, norm_type, separator), lightnings.grad_norm(module, norm_type, separator)
    assert list(ours) == list(theirs)
    torch.testing.assert_close(ours, theirs)


def test_names(module: torch.nn.Module) -> None:
    assert list(grad_norm(module, 2)) == [
        "grad_2.0_norm/0.weight",
        "grad_2.0_norm/0.bias",
        "grad_2.0_norm/1.weight",
        "grad_2.0_norm_total",
    ]


def test_no_gradients() -> None:
    assert grad_norm(torch.nn.Linear(1, 1), 2) == {}


@pytest.mark.parametrize("norm_type", [0, -1, "-inf"])
def test_not_positive(module: torch.nn.Module, norm_type: float | str) -> None:
    with pytest.raises(ValueError, match="must be a positive number or 'inf'"):
        grad_norm(module, norm_type)
