"""Parameters that several modules share."""

from __future__ import annotations

from torch import nn


def find_shared_parameters(module: nn.Module) -> list[list[str]]:
    """The names of each parameter that ``module`` has under several, e.g. ``[["embedding.weight", "head.weight"]]``."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return [same for same in names.values() if len(same) > 1]


def set_shared_parameters(module: nn.Module, shared_params: list[list[str]]) -> nn.Module:
    """Let parameters be one again, as ``find_shared_parameters`` found them; changes and returns ``module``."""
    for first, *others in shared_params:
        shared = module.get_parameter(first)
        for name in others:
            path, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(path), attribute, shared)
    return module
