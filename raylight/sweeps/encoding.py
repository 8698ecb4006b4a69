"""What a sweep was asked for, as JSON. Values that JSON does not know have a dict with one key that begins with "$"."""

from __future__ import annotations

import functools
import importlib
import sys
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from raylight.sweeps.expressions import expression_of, parse
from raylight.utilities.import_policy import ImportPolicy, is_installed
from raylight.utilities.secrets import REDACTED

NAME, PARTIAL, DISTRIBUTION, TUPLE, OPAQUE = "$name", "$partial", "$distribution", "$tuple", "$opaque"


def encode(value: Any) -> Any:
    """A value as JSON can hold it; one that it cannot hold in any way as the text of its ``repr``."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return [encode(each) for each in value]
    if isinstance(value, tuple):
        return {TUPLE: [encode(each) for each in value]}
    if (expression := expression_of(value)) is not None:
        return {DISTRIBUTION: expression}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: encode(each) for key, each in value.items()}
    if isinstance(value, functools.partial):
        return {PARTIAL: [encode(value.func), encode(list(value.args)), encode(value.keywords)]}
    if isinstance(value, type | FunctionType) and _found(value.__module__, value.__qualname__) is value:
        return {NAME: f"{value.__module__}:{value.__qualname__}"}
    return {OPAQUE: repr(value)}


@dataclass(frozen=True)
class NotKept:
    """Stands for a value that the file does not hold."""

    why: str


_SECRET = NotKept("it is a secret, which the file does not hold")


def decode(value: Any) -> Any:
    """What ``encode`` was given. Names are looked up among what is imported; modules of the user's are imported.

    What has not been kept, whose name is not there, or is not to be imported, is a ``NotKept``. Nothing is called.
    """
    if isinstance(value, list):
        return [decode(each) for each in value]
    if isinstance(value, str) and REDACTED in value:
        return _SECRET
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((kind, content),) = value.items()
        if kind == TUPLE:
            return tuple(decode(content))
        if kind == DISTRIBUTION:
            return _SECRET if REDACTED in content else parse(content)
        if kind == PARTIAL:
            function, arguments, keywords = map(decode, content)
            return function if isinstance(function, NotKept) else functools.partial(function, *arguments, **keywords)
        if kind == NAME:
            return _named(content)
        if kind == OPAQUE:
            return NotKept(f"{content} could not be kept in the file")
    return {key: decode(each) for key, each in value.items()}


def _named(reference: str) -> Any:
    module, _, name = reference.partition(":")
    if module != "__main__":
        if problem := ImportPolicy(only_imported=is_installed(module)).problem(f"{module}.{name}"):
            return NotKept(f"{reference} may not be imported: {problem}")
        try:
            importlib.import_module(module)
        except ImportError as error:
            return NotKept(f"{reference} cannot be imported: {error}")
    found = _found(module, name)
    # Else "torch.hub:os.system" would be judged as a name of torch's.
    is_its_own = isinstance(found, type | FunctionType) and (found.__module__, found.__qualname__) == (module, name)
    return found if is_its_own else NotKept(f"{name} is not defined in {module}")


def foreign_maker(maker: Any, kind: type) -> str | None:
    """Why a decoded maker must not be called: it neither makes a ``kind`` nor is a function of the user's."""
    function = maker.func if isinstance(maker, functools.partial) else maker
    if function is None or isinstance(function, NotKept):
        return None  # nothing is called, or ``missing_in`` tells
    if isinstance(function, type) and issubclass(function, kind):
        return None
    if isinstance(function, FunctionType) and not is_installed(function.__module__):
        return None
    return f"{getattr(function, '__qualname__', function)!r} is neither a {kind.__name__} nor a function of your own"


def missing_in(value: Any) -> list[str]:
    """Why parts of a decoded value are not there; empty where all are."""
    if isinstance(value, NotKept):
        return [value.why]
    if isinstance(value, functools.partial):
        return missing_in([*value.args, *value.keywords.values()])
    if isinstance(value, dict):
        value = list(value.values())
    return [why for each in value for why in missing_in(each)] if isinstance(value, list | tuple) else []


def _found(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = vars(found).get(part) if isinstance(found, ModuleType | type) else None  # runs no __getattr__
        found = found.__func__ if isinstance(found, staticmethod) else found
    return found
