"""What a checkpoint holds, in short: plain values that JSON can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from raylight.checkpoint import migrate
from raylight.utilities import secrets

_LIGHTNINGS_KEYS = {
    "epoch",
    "global_step",
    migrate.VERSION_KEY,
    migrate.LEGACY_VERSION_KEY,
    "state_dict",
    "loops",
    "callbacks",
    "optimizer_states",
    "lr_schedulers",
    "MixedPrecision",
    "hparams_name",
    "hyper_parameters",
    "datamodule_hparams_name",
    "datamodule_hyper_parameters",
}
_LONGEST_TEXT = 200
_MOST_ITEMS = 20


def describe(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, counters, hyperparameters, states in short, and the sizes of the weights by top module; no secrets.

    Args:
        checkpoint: As read; anything may be missing from it, or be of an unexpected type.
    """
    described = {
        "lightning_version": short(checkpoint.get(migrate.VERSION_KEY)),
        "legacy_version": short(checkpoint.get(migrate.LEGACY_VERSION_KEY)),
        "epoch": short(checkpoint.get("epoch")),
        "global_step": short(checkpoint.get("global_step")),
        "keys": [str(key) for key in checkpoint],
        "hyper_parameters": short(checkpoint.get("hyper_parameters")),
        "datamodule_hyper_parameters": short(checkpoint.get("datamodule_hyper_parameters")),
        "callbacks": short(checkpoint.get("callbacks")),
        "modules": _modules(checkpoint.get("state_dict")),
        "optimizers": [_optimizer(state) for state in _sequence(checkpoint.get("optimizer_states"))],
        "lr_schedulers": [short(state) for state in _sequence(checkpoint.get("lr_schedulers"))],
        "precision": short(checkpoint.get("MixedPrecision")),
        "raylight": short(checkpoint.get("raylight")),
        "added": sorted(str(key) for key in checkpoint if key not in _LIGHTNINGS_KEYS | {"raylight"}),
    }
    clean: dict[str, Any] = secrets.redact(described)[0]
    return clean


def short(value: Any, depth: int = 3) -> Any:
    """``value`` as JSON can hold it: tensors and what lies deep or is long only in words."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        value = secrets.redact_text(value)  # before a part of it is cut off
        return value if len(value) <= _LONGEST_TEXT else f"{value[:_LONGEST_TEXT]}..."
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 and value.device.type != "meta" else _tensor(value)
    if isinstance(value, Mapping):
        if depth == 0:
            return f"{len(value)} entries"
        shown = {str(key): short(item, depth - 1) for key, item in list(value.items())[:_MOST_ITEMS]}
        return shown if len(value) <= _MOST_ITEMS else {**shown, "...": f"{len(value) - _MOST_ITEMS} more"}
    if isinstance(value, list | tuple | set):
        if depth == 0:
            return f"{len(value)} items"
        items = [short(item, depth - 1) for item in list(value)[:_MOST_ITEMS]]
        return items if len(value) <= _MOST_ITEMS else [*items, f"... {len(value) - _MOST_ITEMS} more"]
    return short(str(value))


def _tensor(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} tensor {list(tensor.shape)}"


def _modules(weights: Any) -> dict[str, dict[str, int]]:
    """Tensors, elements and bytes by the first part of a weight's name."""
    sizes: dict[str, dict[str, int]] = {}
    for name, value in weights.items() if isinstance(weights, Mapping) else ():
        module = sizes.setdefault(str(name).partition(".")[0], {"tensors": 0, "elements": 0, "bytes": 0})
        if isinstance(value, torch.Tensor):
            module["tensors"] += 1
            module["elements"] += value.numel()
            module["bytes"] += value.numel() * value.element_size()
    return sizes


def _optimizer(state: Any) -> dict[str, Any]:
    """Its parameter groups without the parameters, and what it keeps for how many of them."""
    if not isinstance(state, Mapping):
        return {"state": short(state)}
    groups = [group for group in _sequence(state.get("param_groups")) if isinstance(group, Mapping)]
    kept = state.get("state")
    kept = [entry for entry in kept.values() if isinstance(entry, Mapping)] if isinstance(kept, Mapping) else []
    return {
        "param_groups": [
            {**{str(key): short(item) for key, item in group.items() if key != "params"}, "params": _len(group)}
            for group in groups
        ],
        "parameters_with_state": len(kept),
        "state": sorted({str(name) for entry in kept for name in entry}),
    }


def _len(group: Mapping[str, Any]) -> int:
    return len(_sequence(group.get("params")))


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()
