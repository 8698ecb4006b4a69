"""A callback made of functions."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from raylight.callbacks.base import HOOKS, Callback
from raylight.callbacks.legacy import OLD_CALLBACK_HOOKS
from raylight.utilities.exceptions import UnknownFlagError


class LambdaCallback(Callback):
    """A callback whose hooks are given as functions, without ``self``.

    >>> callback = LambdaCallback(on_fit_start=lambda trainer, pl_module: print("fit"))

    Args:
        **hooks: Function by name of the hook; None is no function.

    Raises:
        UnknownFlagError: There is no such hook; a TypeError, as for any unknown argument.
    """

    def __init__(self, **hooks: Callable[..., Any] | None) -> None:
        unknown = [name for name in hooks if name not in (*HOOKS, *OLD_CALLBACK_HOOKS)]
        if unknown:
            raise UnknownFlagError(f"Unknown hooks: {', '.join(map(_with_guess, unknown))}.")
        for name, function in hooks.items():
            if function is not None:
                setattr(self, name, function)


def _with_guess(name: str) -> str:
    guesses = difflib.get_close_matches(name, HOOKS, n=1)
    return f"{name} (did you mean {guesses[0]}?)" if guesses else name
