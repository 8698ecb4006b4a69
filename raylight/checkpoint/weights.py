"""The ``state_dict`` of a checkpoint, into a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from raylight.utilities.exceptions import WeightsMismatchError
from raylight.utilities.rank_zero import rank_zero_warn

_WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""


def load_weights(model: nn.Module, checkpoint: Mapping[str, Any], strict: bool) -> Any:
    """Give ``model`` the weights of ``checkpoint``, saved from itself or from a wrapper around it.

    Args:
        strict: Refuse missing and unexpected names; mis-shaped weights are refused in any case.

    Returns:
        What ``model.load_state_dict`` does: the names that are missing and those that are unexpected.

    Raises:
        WeightsMismatchError: They are another model's.
    """
    weights = _unwrapped(checkpoint["state_dict"], model)
    try:
        return model.load_state_dict(weights, strict=strict)
    except RuntimeError as error:
        if not str(error).startswith("Error(s) in loading state_dict"):
            raise
        remedy = (
            ""
            if not strict
            else (
                " Where only some names differ, set `model.strict_loading = False`, or pass `strict=False` to "
                "`load_from_checkpoint`."
            )
        )
        raise WeightsMismatchError(
            f"{error}\nThe checkpoint was saved by another model: use the class and the hyperparameters that it was "
            f"saved with.{remedy}"
        ) from error


def warn_of_differences(keys: Any) -> None:
    """Name what a loading that was not strict has left out; ``keys`` is what ``load_weights`` returned."""
    if getattr(keys, "missing_keys", None):
        rank_zero_warn(f"Found keys that are in the model state dict but not in the checkpoint: {keys.missing_keys}")
    if getattr(keys, "unexpected_keys", None):
        rank_zero_warn(f"Found keys that are not in the model state dict but in the checkpoint: {keys.unexpected_keys}")


def _unwrapped(weights: Any, model: nn.Module) -> Any:
    for prefix in _WRAPPERS:
        wrapped = bool(weights) and all(isinstance(name, str) and name.startswith(prefix) for name in weights)
        if wrapped and not any(name.startswith(prefix) for name in model.state_dict()):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights
