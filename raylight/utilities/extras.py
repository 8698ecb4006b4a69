"""Packages that only some features need: imported on first use, with a clear word where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType


def import_extra(module: str, feature: str, install: str) -> ModuleType:
    """Import ``module`` for ``feature``.

    Args:
        module: Its name, such as "wandb".
        feature: What needs it, as the user calls it.
        install: What pip must be given.

    Raises:
        ModuleNotFoundError: It is not installed; the text says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:  # it is there, but broken
            raise
        raise ModuleNotFoundError(
            f"{feature} requires `{error.name}` to be installed: `pip install {install}`.", name=error.name
        ) from error
