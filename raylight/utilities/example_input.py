"""A model and an example of its input, made ready to look at what ``forward`` does with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def transferred(model: Any, batch: Any, device: torch.device) -> Any:
    """``batch`` as ``forward`` would get it on ``device``: through the transfer hooks of ``model``, if it has them."""
    if not hasattr(model, "transfer_batch_to_device"):
        return batch
    batch = model.on_before_batch_transfer(batch, 0)
    batch = model.transfer_batch_to_device(batch, device, 0)
    return model.on_after_batch_transfer(batch, 0)


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, afterwards each submodule is in train or eval mode as before."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each submodule has its own mode again."""
    with kept_modes(model):
        model.eval()
        yield
