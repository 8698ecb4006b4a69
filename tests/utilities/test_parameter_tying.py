"""Shared parameters are found and shared again."""

from __future__ import annotations

import pytorch_lightning.utilities as lightnings
import torch
from torch import nn

from raylight.utilities import find_shared_parameters, set_shared_parameters


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.body = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4))
        self.body[1].weight = self.first.weight
        self.body[1].bias = self.first.bias


def test_found_as_by_lightning() -> None:
    model = Tied()
    shared = [["first.weight", "body.1.weight"], ["first.bias", "body.1.bias"]]
    assert find_shared_parameters(model) == shared == lightnings.find_shared_parameters(model)
    assert find_shared_parameters(nn.Linear(1, 1)) == []


def test_shared_again() -> None:
    model = Tied()
    shared = find_shared_parameters(model)
    model.body[1].weight = nn.Parameter(torch.zeros(4, 4))
    assert set_shared_parameters(model, shared) is model
    assert find_shared_parameters(model) == shared
    assert model.body[1].weight is model.first.weight
