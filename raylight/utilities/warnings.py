"""Kinds of warnings, and how to be spared those that may be wrong."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from raylight.utilities.aliases import lazy_names
from raylight.utilities.rank_zero import LightningDeprecationWarning, PossibleUserWarning, WarningCache

__all__ = ["LightningDeprecationWarning", "PossibleUserWarning", "WarningCache", "disable_possible_user_warnings"]


def disable_possible_user_warnings(module: str = "") -> None:
    """Ignore warnings of the kind ``PossibleUserWarning``.

    Args:
        module: Regular expression for the beginning of the name of the module that warns; "": all modules.
    """
    warnings.filterwarnings("ignore", module=module, category=PossibleUserWarning)


if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)
