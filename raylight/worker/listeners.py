"""Who listens to which hook: asked once, when a call starts."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raylight.callbacks.base import HOOKS, Callback
from raylight.callbacks.checkpoint import Checkpoint
from raylight.callbacks.early_stopping import EarlyStopping
from raylight.callbacks.legacy import OLD_CALLBACK_HOOKS
from raylight.core.module import LightningModule
from raylight.strategies import Strategy
from raylight.utilities.rank_zero import rank_zero_warn
from raylight.utilities.signatures import count_required
from raylight.worker.legacy import add_old_hooks, with_old_argument

if TYPE_CHECKING:
    from raylight.worker.run import Run

Listener = Callable[..., Any]

WITH_OWN_ORDER = ("setup", "teardown", "on_save_checkpoint", "on_load_checkpoint", "on_exception")
"""Hooks that are called with other arguments, or in another order, than callbacks first and then the model."""


LATE = "on_train_epoch_end_monitors"
"""Stands for on_train_epoch_end of the callbacks that monitor a metric: they come after the model, which may log."""


def overrides(obj: Any, name: str, base: type) -> bool:
    """Whether ``obj`` has a method ``name`` that is not the one of ``base``, on its class or on itself.

    One that a test has wrapped and set on the object counts, as it wants to be called; ``is_overridden`` looks within.
    """
    if obj is None:
        return False
    if name in vars(obj):
        return vars(obj)[name] is not None
    method = getattr(type(obj), name, None)
    return method is not None and method is not getattr(base, name, None)


def collect(run: Run) -> dict[str, list[Listener]]:
    """For each hook what to call, with its own arguments: callbacks in their order, the model, then the strategy."""
    model, strategy, recorder = run.model, run.strategy, run.recorder
    listeners: dict[str, list[Listener]] = {LATE: []}
    for hook in HOOKS:
        if hook in WITH_OWN_ORDER:
            continue
        called = [callback for callback in run.callbacks if recorder.records or hears(callback, hook)]
        if hook == "on_train_epoch_end":
            listeners[LATE] = _bind(run, [callback for callback in called if monitors(callback)], hook)
            called = [callback for callback in called if not monitors(callback)]
        listeners[hook] = _bind(run, called, hook)
        own_hook = hasattr(LightningModule, hook)  # else it is one of callbacks alone
        if own_hook and (overrides(model, hook, LightningModule) or recorder.records):
            own = getattr(model, hook)
            listeners[hook].append(with_old_argument(run, hook, getattr(run.hooked, hook), count_required(own)))
        if overrides(strategy, hook, Strategy) or (recorder.records and hasattr(strategy, hook)):
            _add_silent(listeners[hook], getattr(recorder.hooks("Strategy", strategy), hook))
    add_old_hooks(run, listeners)
    return listeners


def hears(callback: Any, hook: str) -> bool:
    """Whether ``hook`` of ``callback`` is to be called."""
    listens_to = getattr(callback, "_listens_to", None)
    return overrides(callback, hook, Callback) and (listens_to is None or listens_to(hook))


def monitors(callback: Any) -> bool:
    """Whether a callback reads a metric at the end of an epoch."""
    return isinstance(callback, Checkpoint | EarlyStopping) or getattr(callback, "_comes_last", False)


def _bind(run: Run, callbacks: list[Any], hook: str) -> list[Listener]:
    return [_bound(run, callback, hook) for callback in callbacks]


def _bound(run: Run, callback: Any, hook: str) -> Listener:
    method = getattr(callback, hook)
    listener = functools.partial(run.recorder.call(action_of(callback, hook), method), run.trainer, run.model)
    return with_old_argument(run, hook, listener, count_required(method) - 2)


def _add_silent(listeners: list[Listener], last: Listener) -> None:
    """Add a listener whose result does not count: the model's, which was the last one so far, does."""
    before = listeners.pop() if listeners else None

    def both(*args: Any) -> Any:
        result = before(*args) if before is not None else None
        last(*args)
        return result

    listeners.append(both)


def action_of(callback: Any, hook: str) -> str:
    """What a profiler calls ``hook`` of ``callback``."""
    return f"[Callback]{callback.state_key}.{hook}"


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
        if unknown := unknown_hooks(callback):
            rank_zero_warn(f"{type(callback).__name__}.{unknown[0]} is not a hook and will not be called.")


def unknown_hooks(callback: Any) -> list[str]:
    """Methods of a callback of the user's that are named like a hook, but as none is."""
    if type(callback).__module__.partition(".")[0] in ("raylight", "pytorch_lightning", "lightning"):
        return []
    return [
        name
        for name, value in vars(type(callback)).items()
        if name.startswith("on_") and name not in (*HOOKS, *OLD_CALLBACK_HOOKS) and inspect.isfunction(value)
    ]
