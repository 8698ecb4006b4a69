"""Arguments of Lightning 1.x in calls that have others today."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_deprecation

Translation = Callable[[Any, dict[str, Any]], dict[str, Any]]
"""``(value, the call's other arguments) -> arguments of today``."""
F = TypeVar("F", bound=Callable[..., Any])


def understands(old: Mapping[str, str | Translation]) -> Callable[[F], F]:
    """Decorate a function to take arguments that it had once, each with a notice.

    Args:
        old: Name of an argument of old -> its name today, or what it means today.

    Raises:
        MisconfigurationException: In the call: what an old argument means is given too, and is something else.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for name in [name for name in kwargs if name in old]:
                _translate(function, name, old[name], kwargs)
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def _translate(function: Any, name: str, today: str | Translation, kwargs: dict[str, Any]) -> None:
    value = kwargs.pop(name)
    new = {today: value} if isinstance(today, str) else today(value, kwargs)
    for argument, meant in new.items():
        if kwargs.get(argument, meant) is not meant and kwargs[argument] != meant:
            raise MisconfigurationException(
                f"Both `{argument}` and its old form `{name}` are given: leave `{name}` out."
            )
    kwargs.update(new)
    written = ", ".join(f"{argument}=..." for argument in new)
    owner = function.__qualname__.removesuffix(".__init__")
    rank_zero_deprecation(
        f"`{owner}({name}=...)` is Lightning 1.x: " + (f"write `{written}`." if new else "leave it out."), stacklevel=7
    )


def renamed(today: str) -> Translation:
    """An argument of another name; None said nothing."""
    return lambda value, others: {} if value is None else {today: value}


# ------------------------------------------------------------------------------------------------ ModelCheckpoint


def _filepath(value: Any, others: dict[str, Any]) -> dict[str, Any]:
    if value is None:
        return {}
    if os.path.isdir(value):
        return {"dirpath": value}
    folder, name = os.path.split(os.fspath(value))
    return {"dirpath": folder or os.curdir, **({"filename": name} if name else {})}


def _prefix(value: Any, others: dict[str, Any]) -> dict[str, Any]:
    if not value:
        return {}
    others["filename"] = f"{value}-{others.get('filename') or '{epoch}-{step}'}"
    return {"filename": others["filename"]}


CHECKPOINT_ARGUMENTS: dict[str, str | Translation] = {
    "period": renamed("every_n_epochs"),
    "every_n_val_epochs": renamed("every_n_epochs"),
    "filepath": _filepath,
    "prefix": _prefix,
}
"""Of ModelCheckpoint; ``filepath`` comes before ``prefix`` where both are given."""

# ------------------------------------------------------------------------------------------------ LightningCLI


def _save_config(name: str) -> Translation:
    def translate(value: Any, others: dict[str, Any]) -> dict[str, Any]:
        others["save_config_kwargs"] = {**(others.get("save_config_kwargs") or {}), name: value}
        return {"save_config_kwargs": others["save_config_kwargs"]}

    return translate


def _parser(name: str) -> Translation:
    def translate(value: Any, others: dict[str, Any]) -> dict[str, Any]:
        others["parser_kwargs"] = {**(others.get("parser_kwargs") or {}), name: value}
        return {"parser_kwargs": others["parser_kwargs"]}

    return translate


CLI_ARGUMENTS: dict[str, str | Translation] = {
    "save_config_filename": _save_config("config_filename"),
    "save_config_overwrite": _save_config("overwrite"),
    "save_config_multifile": _save_config("multifile"),
    "description": _parser("description"),
    "env_prefix": _parser("env_prefix"),
    "env_parse": _parser("default_env"),
}
"""Of LightningCLI."""
