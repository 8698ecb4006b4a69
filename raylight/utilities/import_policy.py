"""What a configuration may import: code of installed packages and of the user's script, of the type that is asked for.

``class_path: some.module.Class`` in a configuration names code to run, and jsonargparse imports what it is told. While
``enforced``, every name that a value gives is judged first, before anything of it is imported:

- a name that jsonargparse itself denies (``os``, ``subprocess``, ``builtins.exec``, ...) is refused;
- what the program has already imported may be named: importing it runs nothing;
- the rest must be of an installed package, of the standard library, of a file below the script's folder, or of a
  package in the current one.

That the class is of the type which the argument is declared with is jsonargparse's own check; an argument declared
without a type keeps ``class_path`` as plain data.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

PACKAGE_PATHS = ("purelib", "platlib", "stdlib", "platstdlib")
"""Of sysconfig: where installed packages are, and Python's own."""
_active: ContextVar[ImportPolicy | None] = ContextVar("active_import_policy", default=None)


class ImportPolicy:
    """Judges import paths that come from data.

    Args:
        allow: Packages, modules or full paths that may be named wherever they are and whatever they do.
        only_imported: Refuse everything that the program has not imported by itself, installed packages included.
    """

    def __init__(self, allow: Iterable[str] = (), only_imported: bool = False) -> None:
        self.allow = tuple(allow)
        self.only_imported = only_imported

    def problem(self, path: str) -> str | None:
        """Why ``path``, such as "package.module.Class", may not be imported; None if it may. Imports nothing."""
        if any(path == name or path.startswith(f"{name}.") for name in self.allow):
            return None
        if _is_denied(path):
            return "it can run code, or reach files, processes or the network, whatever it is meant for here"
        if _is_imported(path):
            return None
        if self.only_imported:
            return "the program has not imported it"
        package = path.partition(".")[0]
        outside = [place for place in _places(package) if not _is_trusted(place)]
        if not outside:
            return None
        return f"{package!r} comes from {outside[0]}, which is neither an installed package nor in the script's folder"


def is_installed(module: str) -> bool:
    """Whether a module is of an installed package, of Python or of raylight, and not the user's."""
    places = _places(module.partition(".")[0])
    return module != "__main__" and all(any(_lies_in(place, each) for each in _installed_folders()) for place in places)


@contextlib.contextmanager
def enforced(policy: ImportPolicy) -> Iterator[None]:
    """Within this block jsonargparse imports nothing that ``policy`` refuses.

    An outer block's policy stays in force, but for a stricter one that trusts only what is imported.

    Raises:
        ImportError: This version of jsonargparse cannot be guarded.
    """
    outer = _active.get()
    token = _active.set(policy if outer is None or policy.only_imported else outer)
    try:
        with _guarded() if outer is None else contextlib.nullcontext():
            yield
    finally:
        _active.reset(token)


_INSTANTIATE_ANY = "instantiate_subclass_spec_in_any"


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    from jsonargparse import _common, _typehints, _util

    # The public settings can only be added to, for the whole process and for all who use jsonargparse in it.
    settings = _common.parsing_settings
    guards: list[Any] = [_util, _typehints]
    if not all(hasattr(module, "check_import_path") for module in guards) or _INSTANTIATE_ANY not in settings:
        raise ImportError(f"jsonargparse {metadata.version('jsonargparse')} is not supported: install another version.")
    originals = [module.check_import_path for module in guards]
    instantiate_any = settings[_INSTANTIATE_ANY]
    try:
        settings[_INSTANTIATE_ANY] = False
        for module in guards:
            module.check_import_path = _check_import_path
        yield
    finally:
        settings[_INSTANTIATE_ANY] = instantiate_any
        for module, original in zip(guards, originals, strict=True):
            module.check_import_path = original


def _check_import_path(path: str) -> None:
    from jsonargparse import _common

    policy = _active.get()
    problem = policy.problem(path) if policy is not None else None
    if policy is None or problem is None:
        return
    if policy.only_imported:
        remedy = "Import it in the program before if you trust this file."
    else:
        name = path if _is_denied(path) else path.partition(".")[0]
        remedy = f"If you trust it, name it: --allow-import {name}, or LightningCLI(allow_import=[{name!r}])."
    raise _common.ImportDenied(f"A configuration may not name {path!r}: {problem}. {remedy}")


def _is_denied(path: str) -> bool:
    from jsonargparse import _common

    return _common.denying_import_path_entry(path) is not None


def _is_imported(path: str) -> bool:
    """Whether the object itself is there: ``package.name`` of an imported package may be a module that is not."""
    owner, _, name = path.rpartition(".")
    if not owner:
        return path in sys.modules
    if owner in sys.modules:
        return path in sys.modules or hasattr(sys.modules[owner], name)
    # Module.Class.method, or Class.Nested. Within a package "Class" could be a module.
    module_name, _, class_name = owner.rpartition(".")
    module: ModuleType | None = sys.modules.get(module_name)
    return module is not None and not hasattr(module, "__path__") and hasattr(getattr(module, class_name, None), name)


def _places(package: str) -> list[Path]:
    """Files or folders of a top-level package; none for one that is built in, or that does not exist."""
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # __main__ and the like: there already, with no place of its own
        return []
    if spec is None or spec.origin in ("built-in", "frozen"):
        return []
    places = list(spec.submodule_search_locations or [])
    if not places and spec.has_location and spec.origin is not None:
        places = [spec.origin]
    return [Path(place).absolute() for place in places] or [Path(f"<{spec.origin}>")]


def _is_trusted(place: Path) -> bool:
    if any(_lies_in(place, folder) for folder in _trusted_folders()):
        return True
    if place.parent == Path.cwd():
        return True
    return any(_lies_in(place, folder) for folder in _editable_folders())


def _lies_in(place: Path, folder: Path) -> bool:
    # An installed package may be a link to elsewhere, and the folder that it is in too.
    return place.is_relative_to(folder) or place.resolve().is_relative_to(folder.resolve())


def _installed_folders() -> Iterator[Path]:
    """Where packages are installed, and this one."""
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    folders += [path for name, path in sysconfig.get_paths().items() if name in PACKAGE_PATHS]
    yield from map(Path, folders)
    yield Path(__file__).absolute().parents[1]


def _trusted_folders() -> Iterator[Path]:
    """Where packages are installed, and the folder of the user's script."""
    yield from _installed_folders()
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is not None and len((folder := Path(script).absolute().parent).parts) > 1:  # "/" would be everything
        yield folder


def _editable_folders() -> Iterator[Path]:
    """Folders of the packages that are installed with ``pip install -e``."""
    for distribution in metadata.distributions():
        text = distribution.read_text("direct_url.json")
        origin = json.loads(text) if text else {}
        if origin.get("dir_info", {}).get("editable"):
            yield Path(url2pathname(urlsplit(origin["url"]).path))
