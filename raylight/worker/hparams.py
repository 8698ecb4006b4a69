"""Hyperparameters that a run logs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raylight.utilities.redaction import without_secrets


def merged_hparams(model: Any, datamodule: Any) -> dict[str, Any] | None:
    """The saved hyperparameters of model and datamodule; None where neither saved any to be logged.

    Raises:
        RuntimeError: The two hold different values under one name.
    """
    owners = [o for o in (model, datamodule) if o is not None and getattr(o, "_log_hyperparams", False)]
    if not owners:
        return None
    merged: dict[str, Any] = {}
    for owner in owners:
        for name, value in dict(owner.hparams_initial).items():
            if name == "_class_path":  # how LightningCLI makes the object again: no hyperparameter
                continue
            if name in merged and _differ(merged[name], value):
                raise RuntimeError(
                    f"Error while merging hparams: the keys ['{name}'] are present in both the LightningModule's and "
                    "LightningDataModule's hparams but have different values."
                )
            merged[name] = value
    return without_secrets(merged)


def _differ(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return True
    if isinstance(left, Tensor):
        return not torch.equal(left, right)
    return bool(left != right)
