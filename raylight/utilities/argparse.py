"""Arguments of a class on the command line and in the environment, as Lightning 1.x has them."""

from __future__ import annotations

import inspect
import os
import types
import typing
from argparse import ArgumentParser, Namespace, _ArgumentGroup
from ast import literal_eval
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

SCALARS = (str, int, float, bool)
"""Types that a command-line argument may have; arguments of ``__init__`` with none of these are left out."""
TRUE_WORDS = ("y", "yes", "t", "true", "on", "1")
FALSE_WORDS = ("n", "no", "f", "false", "off", "0")

Parameters = dict[str, inspect.Parameter]


def add_argparse_args(cls: Any, parent_parser: ArgumentParser, *, use_argument_group: bool = True) -> ArgumentParser:
    """Add an argument for every argument of ``cls.__init__`` that is a str, int, float or bool.

    A bool may be given as ``--flag``, which is True, or ``--flag false``.

    Args:
        cls: A class; with ``_argparse_parameters()`` it says itself what its arguments are.
        parent_parser: An old argument that it has already is left as it is.
        use_argument_group: Show them under the name of the class. False: return a new parser with all arguments.

    Raises:
        RuntimeError: ``parent_parser`` is an argument group.
    """
    if isinstance(parent_parser, _ArgumentGroup):
        raise RuntimeError("Please only pass an `ArgumentParser` instance.")
    if use_argument_group:
        target: Any = parent_parser.add_argument_group(f"raylight.{cls.__name__}")
    else:
        target = ArgumentParser(parents=[parent_parser], add_help=False)
    old = cls.get_deprecated_arg_names() if hasattr(cls, "get_deprecated_arg_names") else ()
    for name, kinds, default in get_init_arguments_and_types(cls):
        kinds = tuple(kind for kind in SCALARS if kind in kinds)
        if not kinds or (name in old and f"--{name}" in parent_parser._option_string_actions):
            continue
        flag = {"nargs": "?", "const": True} if bool in kinds else {}
        required = default is inspect.Parameter.empty
        target.add_argument(
            f"--{name}",
            dest=name,
            default=None if required else default,
            type=_reader(name, kinds),
            required=required,
            **flag,
        )
    return parent_parser if use_argument_group else target


def from_argparse_args(cls: Any, args: Namespace | ArgumentParser, **kwargs: Any) -> Any:
    """An instance made of those ``args`` that ``cls.__init__`` takes; ``kwargs`` win over them."""
    return cls(**{**init_arguments(cls, args), **kwargs})


def init_arguments(cls: Any, args: Namespace | ArgumentParser) -> dict[str, Any]:
    """Those of ``args`` that ``cls.__init__`` takes; a parser is asked for the command line's."""
    given = vars(parse_argparser(cls, args) if isinstance(args, ArgumentParser) else args)
    return {name: given[name] for name in init_parameters(cls) if name in given}


def parse_argparser(cls: Any, arg_parser: ArgumentParser | Namespace) -> Namespace:
    """The arguments given, where a bool that is named without a value is True."""
    args = arg_parser.parse_args() if isinstance(arg_parser, ArgumentParser) else arg_parser
    flags = {name for name, kinds, default in get_init_arguments_and_types(cls) if isinstance(default, bool)}
    return Namespace(**{name: True if value is None and name in flags else value for name, value in vars(args).items()})


def parse_env_variables(cls: Any, template: str = "PL_%(cls_name)s_%(cls_argument)s") -> Namespace:
    """Arguments of ``cls.__init__`` that the environment sets, as ``PL_TRAINER_MAX_EPOCHS=3`` does.

    Values are read as Python literals, and are text where they are none.
    """
    return env_arguments(cls.__name__, init_parameters(cls), template)


def env_arguments(cls_name: str, names: Iterable[str], template: str = "PL_%(cls_name)s_%(cls_argument)s") -> Namespace:
    """Of the arguments ``names``, those that the environment sets."""
    found = Namespace()
    for name in names:
        value: Any = os.environ.get(template % {"cls_name": cls_name.upper(), "cls_argument": name.upper()})
        if value is None or value == "":
            continue
        with suppress(ValueError, SyntaxError):
            value = literal_eval(value)
        setattr(found, name, value)
    return found


def get_init_arguments_and_types(cls: Any) -> list[tuple[str, tuple[Any, ...], Any]]:
    """``(name, types, default)`` of every argument of ``cls.__init__``.

    ``inspect.Parameter.empty`` stands for a default that does not exist.
    """
    return [(name, _kinds(each.annotation), each.default) for name, each in init_parameters(cls).items()]


def init_parameters(cls: Any) -> Parameters:
    """The named arguments of ``cls.__init__``, annotations evaluated where that is possible."""
    if hasattr(cls, "_argparse_parameters"):
        found: Parameters = cls._argparse_parameters()
        return found
    hints: dict[str, Any] = {}
    with suppress(Exception):  # an annotation need not be more than a text
        hints = typing.get_type_hints(cls.__init__)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        name: parameter.replace(annotation=hints.get(name, parameter.annotation))
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name != "self" and parameter.kind not in variable
    }


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The types in a union or Literal; another annotation alone."""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return tuple(dict.fromkeys(type(value) for value in typing.get_args(annotation)))
    if origin in (typing.Union, types.UnionType):
        return tuple(dict.fromkeys(kind for member in typing.get_args(annotation) for kind in _kinds(member)))
    return (annotation,)


def _reader(name: str, kinds: tuple[Any, ...]) -> Callable[[str], Any]:
    """Turns text of the command line into the first of these that it is: bool, int, float, str."""

    def read(text: str) -> Any:
        if bool in kinds and text.lower() in TRUE_WORDS + FALSE_WORDS:
            return text.lower() in TRUE_WORDS
        for kind in (int, float):
            if kind in kinds:
                with suppress(ValueError):
                    return kind(text)
        if str in kinds:
            return text
        raise ValueError(f"--{name} {text} is none of: {', '.join(kind.__name__ for kind in kinds)}")

    read.__name__ = " or ".join(kind.__name__ for kind in kinds)  # argparse names it in its errors
    return read
