"""Move nested collections of data to a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raylight.utilities.aliases import lazy_names
from raylight.utilities.tree import map_leaves, to_device


def move_data_to_device(batch: Any, device: str | torch.device) -> Any:
    """``batch`` with tensors, and whatever else has ``.to(device)``, on ``device``; all else as it is.

    Args:
        batch: Any nesting of lists, tuples, mappings and dataclasses.
        device: Such as "cuda:0".
    """
    return to_device(batch, torch.device(device))


def convert_tensors_to_scalars(data: Any) -> Any:
    """``data`` with Python numbers in place of tensors. Waits for the device.

    Raises:
        ValueError: A tensor has more than one element.
    """

    def item(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.numel() != 1:
            raise ValueError(
                f"The metric `{leaf}` does not contain a single element, thus it cannot be converted to a scalar."
            )
        return leaf.item()

    return map_leaves(item, data)


if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)
