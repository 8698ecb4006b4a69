"""A model as it is now, to be put back bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from raylight.utilities.rank_zero import rank_zero_warn

METRIC_COUNTERS = ("_update_count", "_forward_cache", "_computed")
"""Attributes of a torchmetrics Metric that are none of its states."""


class ModelState:
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
        self._metrics = [(module, metric_state(module)) for module in modules if is_metric(module)]

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


def is_metric(module: Any) -> bool:
    """Whether it is a torchmetrics Metric; a MetricCollection is none, but its members are."""
    return hasattr(module, "metric_state") and hasattr(module, "_reductions")


def metric_state(metric: Any) -> dict[str, Any]:
    """A copy of what a torchmetrics Metric has gathered so far."""
    state = metric.metric_state.items()
    return {name: value.clone() if isinstance(value, Tensor) else list(value) for name, value in state}


def merge_metric_states(metric: Any, states: list[dict[str, Any]]) -> dict[str, Any]:
    """Several ``metric_state`` of one Metric as if it had gathered all of it, and with its counters beside them."""
    merged = dict(states[0])
    for name, reduction in metric._reductions.items():
        values = [state[name] for state in states]
        if isinstance(values[0], list):
            merged[name] = [item for value in values for item in value]
        elif reduction is not None and len(values) > 1:
            merged[name] = reduction(torch.stack(values))
        elif len(values) > 1:
            rank_zero_warn(
                f"The state {name!r} of a {type(metric).__name__} cannot be merged: after the number of workers has "
                "changed its value of this epoch is that of some of the batches."
            )
    if "_update_count" in merged:
        merged["_update_count"] = sum(state["_update_count"] for state in states)
    return merged


def set_metric_state(metric: Any, state: dict[str, Any]) -> None:
    """Put back what ``metric_state`` gave, and counters beside it; other names, of a file, reach nothing."""
    for name in {*metric.metric_state, *METRIC_COUNTERS}.intersection(state):
        setattr(metric, name, state[name])
