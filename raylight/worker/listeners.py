"""Who listens to which hook: asked once, when a call starts."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from raylight.callbacks.base import HOOKS, Callback
from raylight.callbacks.checkpoint import Checkpoint
from raylight.callbacks.early_stopping import EarlyStopping
from raylight.core.module import LightningModule
from raylight.utilities.rank_zero import rank_zero_warn

Listener = Callable[..., Any]

WITH_OWN_ORDER = ("setup", "teardown", "on_save_checkpoint", "on_load_checkpoint", "on_exception")
"""Hooks that are called with other arguments, or in another order, than callbacks first and then the model."""


LATE = "on_train_epoch_end_monitors"
"""Stands for on_train_epoch_end of the callbacks that monitor a metric: they come after the model, which may log."""


def overrides(obj: Any, name: str, base: type) -> bool:
    """Whether ``obj`` has a method ``name`` that is not the one of ``base``, on its class or on itself."""
    if name in vars(obj):
        return True
    method = getattr(type(obj), name, None)
    return method is not None and method is not getattr(base, name, None)


def collect(model: LightningModule, callbacks: list[Any], trainer: Any) -> dict[str, list[Listener]]:
    """For each hook what to call, with the hook's own arguments: callbacks in their order, then the model."""
    listeners: dict[str, list[Listener]] = {LATE: []}
    for hook in HOOKS:
        if hook in WITH_OWN_ORDER:
            continue
        called = [callback for callback in callbacks if hears(callback, hook)]
        if hook == "on_train_epoch_end":
            listeners[LATE] = _bind([callback for callback in called if monitors(callback)], hook, trainer, model)
            called = [callback for callback in called if not monitors(callback)]
        of_model = [getattr(model, hook)] if overrides(model, hook, LightningModule) else []
        listeners[hook] = [*_bind(called, hook, trainer, model), *of_model]
    return listeners


def hears(callback: Any, hook: str) -> bool:
    """Whether ``hook`` of ``callback`` is to be called."""
    listens_to = getattr(callback, "_listens_to", None)
    return overrides(callback, hook, Callback) and (listens_to is None or listens_to(hook))


def monitors(callback: Any) -> bool:
    """Whether a callback reads a metric at the end of an epoch."""
    return isinstance(callback, Checkpoint | EarlyStopping)


def _bind(callbacks: list[Any], hook: str, trainer: Any, model: LightningModule) -> list[Listener]:
    return [functools.partial(getattr(callback, hook), trainer, model) for callback in callbacks]


def lend_log(callbacks: list[Any], model: LightningModule) -> None:
    """Let callbacks log in their hooks, ``self.log(...)``, as the model does."""
    for callback in callbacks:
        for name in ("log", "log_dict"):
            if not hasattr(callback, name):
                setattr(callback, name, getattr(model, name))


def take_log_back(callbacks: list[Any], model: LightningModule) -> None:
    """Undo ``lend_log``: a callback that holds the model could not be copied or sent without it."""
    for callback in callbacks:
        for name in ("log", "log_dict"):
            if vars(callback).get(name) == getattr(model, name):
                delattr(callback, name)


def warn_of_unknown_hooks(callbacks: list[Any]) -> None:
    """Warn about methods named like a hook that no hook has: they would never be called."""
    for callback in callbacks:
        unknown = [
            name
            for name, value in vars(type(callback)).items()
            if name.startswith("on_") and name not in HOOKS and inspect.isfunction(value)
        ]
        if unknown and type(callback).__module__.partition(".")[0] not in (
            "raylight",
            "pytorch_lightning",
            "lightning",
        ):
            rank_zero_warn(f"{type(callback).__name__}.{unknown[0]} is not a hook and will not be called.")


def requires(function: Callable[..., Any], name: str) -> bool:
    """Whether ``function`` has an argument ``name`` without a default."""
    parameter = inspect.signature(function).parameters.get(name)
    return parameter is not None and parameter.default is parameter.empty


def accepts(function: Callable[..., Any], name: str, min_arguments: int) -> bool:
    """Whether ``function`` takes an argument ``name``, or at least so many positional ones."""
    parameters = inspect.signature(function).parameters.values()
    kinds = [parameter.kind for parameter in parameters]
    if any(kind is inspect.Parameter.VAR_POSITIONAL for kind in kinds):
        return True
    if any(parameter.name == name for parameter in parameters):
        return True
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(kind in positional for kind in kinds) >= min_arguments
