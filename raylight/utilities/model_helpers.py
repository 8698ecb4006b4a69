"""What a class overrides, and models of torchvision by name."""

from __future__ import annotations

import functools
from typing import Any
from unittest.mock import Mock

from torch import nn

BASES = ("LightningModule", "LightningDataModule", "Callback")
"""Classes of raylight whose methods users override."""


def is_overridden(method_name: str, instance: object | None = None, parent: type[object] | None = None) -> bool:
    """Whether ``instance`` has a method of its own in place of ``parent``'s.

    Args:
        method_name: A method of ``parent``.
        instance: None overrides nothing.
        parent: None: whichever of LightningModule, LightningDataModule and Callback ``instance`` is.

    Raises:
        ValueError: ``instance`` is none of these, or ``parent`` has no such method.
    """
    if instance is None:
        return False
    parent = parent or next((base for base in type(instance).__mro__ if _is_base(base)), None)
    if parent is None:
        raise ValueError("Expected a parent")
    method = _unwrapped(getattr(instance, method_name, None))
    if method is None:
        return False
    original = _unwrapped(getattr(parent, method_name, None))
    if original is None:
        raise ValueError("The parent should define the method")
    return bool(getattr(method, "__code__", method) != getattr(original, "__code__", original))


def is_lightning_module(obj: object) -> bool:
    """Whether ``obj`` is a LightningModule."""
    return any(base.__name__ == "LightningModule" and _is_base(base) for base in type(obj).__mro__)


def _is_base(cls: type[object]) -> bool:
    return cls.__name__ in BASES and cls.__module__.partition(".")[0] == "raylight"


def _unwrapped(method: Any) -> Any:
    """The function behind decorators, a ``Mock(wraps=...)`` or a ``partial``."""
    if isinstance(method, Mock):
        return method._mock_wraps
    method = getattr(method, "__wrapped__", method)
    return method.func if isinstance(method, functools.partial) else method


def get_torchvision_model(model_name: str, **kwargs: Any) -> nn.Module:
    """``torchvision.models.get_model``."""
    from torchvision.models import get_model

    model: nn.Module = get_model(model_name, **kwargs)
    return model
