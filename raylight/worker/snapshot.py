"""A model as it is now, to be put back bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

METRIC_COUNTERS = ("_update_count", "_forward_cache", "_computed")
"""Attributes of a torchmetrics Metric that are none of its states."""


class Snapshot:
    """Weights, buffers, modes and the state of torchmetrics Metrics of ``model``, copied."""

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._tensors = [
            (owner, name, tensor, tensor.detach().clone())
            for module in modules
            for owner in _owners(module)
            for name, tensor in owner.items()
            if tensor is not None
        ]
        self._requires_grad = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        self._modes = [(module, module.training) for module in modules]
        self._metrics = [(module, metric_state(module)) for module in modules if hasattr(module, "metric_state")]

    def restore(self) -> None:
        """Put everything back into the same tensors; gradients are dropped."""
        with torch.no_grad():
            for owner, name, tensor, value in self._tensors:
                tensor.copy_(value)
                owner[name] = tensor
        for parameter, required in self._requires_grad:
            parameter.requires_grad = required
            parameter.grad = None
        for module, training in self._modes:
            module.training = training
        for metric, state in self._metrics:
            set_metric_state(metric, state)


def _owners(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    return module._parameters, module._buffers


def metric_state(metric: Any) -> dict[str, Any]:
    """A copy of what a torchmetrics Metric has gathered so far."""
    state = metric.metric_state.items()
    return {name: value.clone() if isinstance(value, Tensor) else list(value) for name, value in state}


def set_metric_state(metric: Any, state: dict[str, Any]) -> None:
    """Put back what ``metric_state`` gave, and counters beside it; other names, of a file, reach nothing."""
    for name in {*metric.metric_state, *METRIC_COUNTERS}.intersection(state):
        setattr(metric, name, state[name])
