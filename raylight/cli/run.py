"""``raylight run script.py``: a script that imports Lightning, run on raylight without an edit."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import InspectLoader
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType, TracebackType

from raylight.utilities import aliases

USAGE = "raylight run [-h] (script.py | -m module) [argument ...]"
CANNOT_OPEN = 2
CANNOT_FIND_MODULE = 1
"""Exit status, as Python's own."""


def main(arguments: Sequence[str]) -> int:
    """Run a script, or a module, as ``python`` does, with raylight in Lightning's place.

    The script's own end is this process's: exit status, uncaught exceptions and KeyboardInterrupt pass through.

    Args:
        arguments: What stands behind ``raylight run``.
    """
    parser = argparse.ArgumentParser(usage=USAGE, description=__doc__)
    parser.add_argument("-m", dest="module", action="store_true", help="the name of a module follows, not a path")
    parser.add_argument("script", help="path of the script, or a module's name; what follows is for the script")
    own, behind = _split(arguments)
    options = parser.parse_args([*own, *behind[:1]])
    aliases.install()
    try:
        code, script = _load_module(options.script) if options.module else load_script(options.script)
    except OSError as error:
        print(f"raylight run: can't open file {options.script!r}: {error.strerror}", file=sys.stderr)
        return CANNOT_OPEN
    except ImportError as error:
        print(f"raylight run: {error}", file=sys.stderr)
        return CANNOT_FIND_MODULE
    sys.argv = [str(script.__file__) if options.module else options.script, *behind[1:]]
    sys.modules["__main__"] = script
    try:
        exec(code, vars(script))
    except BaseException as error:
        begin_traceback_at(error.__traceback__.tb_next if error.__traceback__ is not None else None)
        raise
    return 0


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options of this command, which stand first; and the script with all that is behind it, be it options too."""
    first = next((i for i, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))
    return list(arguments[:first]), list(arguments[first:])


def load_script(path: str) -> tuple[CodeType, ModuleType]:
    """The code of a file and the module ``__main__`` that it is to run in; sys.path begins with its folder."""
    with open(path, "rb") as file:
        source = file.read()
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    main = ModuleType("__main__")
    main.__file__ = os.path.abspath(path)
    main.__loader__ = SourceFileLoader("__main__", main.__file__)
    main.__dict__["__cached__"] = None
    main.__dict__["__builtins__"] = __builtins__
    return _compile(source, main.__file__), main


def _compile(source: bytes, path: str) -> CodeType:
    try:
        return compile(source, path, "exec", dont_inherit=True)
    except SyntaxError:
        begin_traceback_at(None)  # no frame of the script has run
        raise


def _load_module(name: str) -> tuple[CodeType, ModuleType]:
    """Likewise for a module, or a package's ``__main__``, that is found from the working directory.

    Raises:
        ImportError: There is none, or it has no code.
    """
    _set_first_path(os.getcwd())
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{name}.__main__")
    code = spec.loader.get_code(spec.name) if spec is not None and isinstance(spec.loader, InspectLoader) else None
    if spec is None or code is None:
        raise ImportError(f"No module named {name}, or it is a package without __main__.")
    main = ModuleType("__main__")
    main.__file__ = spec.origin
    main.__spec__, main.__loader__, main.__package__ = spec, spec.loader, spec.parent
    main.__dict__["__cached__"] = spec.cached
    main.__dict__["__builtins__"] = __builtins__
    return code, main


def _set_first_path(folder: str) -> None:
    if not getattr(sys.flags, "safe_path", False):  # python -P: sys.path has no such entry
        sys.path[0] = folder


def begin_traceback_at(first: TracebackType | None) -> None:
    """Let the exception that ends this process show no frame before ``first``, whichever hook of the script's shows it.

    Python itself does all else that belongs to such an end.
    """
    show = sys.excepthook
    sys.excepthook = lambda kind, error, _: show(kind, error.with_traceback(first), first)
