"""Norms of gradients, for logging."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def grad_norm(module: nn.Module, norm_type: float | int | str, group_separator: str = "/") -> dict[str, Tensor]:
    """The norm of every parameter's gradient, and of all gradients together.

    Args:
        module: Its parameters that have a gradient are looked at.
        norm_type: p of the p-norm; "inf" for the largest absolute value.
        group_separator: Between ``grad_<p>_norm`` and a parameter's name; a logger shows what follows it as a group.

    Returns:
        ``grad_<p>_norm/<parameter>`` and ``grad_<p>_norm_total``; nothing where there are no gradients.

    Raises:
        ValueError: ``norm_type`` is not positive.
    """
    p = float(norm_type)
    if p <= 0:
        raise ValueError(f"`norm_type` must be a positive number or 'inf' (infinity norm). Got {p}")
    norms = {
        f"grad_{p}_norm{group_separator}{name}": torch.linalg.vector_norm(parameter.grad.detach(), p)
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    if norms:
        device = next(iter(norms.values())).device
        each = torch.stack([norm.to(device) for norm in norms.values()])
        norms[f"grad_{p}_norm_total"] = torch.linalg.vector_norm(each, p)
    return norms
