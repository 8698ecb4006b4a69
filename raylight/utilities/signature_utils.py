"""Questions about the arguments of a hook."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def is_param_in_hook_signature(
    hook_fx: Callable[..., Any], param: str, explicit: bool = False, min_args: int | None = None
) -> bool:
    """Whether a hook takes the positional argument ``param``.

    Args:
        hook_fx: A method; its first argument is not looked at where it is not bound.
        param: Name of the argument.
        explicit: It must stand there by name; False: ``*args`` takes it as well.
        min_args: So many arguments, ``self`` aside, take it under any name.
    """
    spec = inspect.getfullargspec(getattr(hook_fx, "__wrapped__", hook_fx))
    names = spec.args[1:]
    enough = isinstance(min_args, int) and len(names) >= min_args
    return param in names or (not explicit and spec.varargs is not None) or enough
