"""Which optional packages there are."""

from __future__ import annotations

import importlib.util
import sys


def package_available(package_name: str) -> bool:
    """Whether ``package_name`` can be imported; it is not imported, its parents are."""
    try:
        return importlib.util.find_spec(package_name) is not None
    except ModuleNotFoundError:
        return False


_PYTHON_GREATER_EQUAL_3_11_0 = sys.version_info >= (3, 11)
_OMEGACONF_AVAILABLE = package_available("omegaconf")
_RICH_AVAILABLE = package_available("rich")
_TORCHVISION_AVAILABLE = package_available("torchvision")
