"""Lightning's import paths, served by raylight's modules.

Two finders of Python's import system read the table of ``import_paths``. One serves ``raylight.<Lightning's path>``; it
is asked only where raylight has no such module. The other, which ``install`` puts in place, serves
``pytorch_lightning``, ``lightning`` and ``lightning_fabric`` themselves, whether Lightning is installed or not, so that
a script which nobody has edited runs on raylight.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

from raylight.utilities.exceptions import MissingNameError
from raylight.utilities.import_paths import INSTEAD, PATHS

ROOTS = {
    "lightning.pytorch": "raylight",
    "lightning.fabric": "raylight.fabric",
    "pytorch_lightning": "raylight",
    "lightning_fabric": "raylight.fabric",
    "lightning": "raylight",
}
"""Packages that raylight takes the place of; of two that fit, the first."""

LIGHTNING_LOGGERS = ("lightning.pytorch", "pytorch_lightning")
"""Names under which a script sets the level of Lightning's messages."""


def lazy_names(package: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package of raylight's: what is imported when it is first asked for.

    These are its modules, under Lightning's names too, and the names that the table has for it.
    """

    def __getattr__(name: str) -> Any:
        names = PATHS.get(_relative(package))
        if isinstance(names, dict) and name in names:
            return _find(names[name], f"{package}.{name}")
        if not name.startswith("_"):
            try:
                return importlib.import_module(f"{package}.{name}")
            except MissingNameError as error:
                raise AttributeError(str(error)) from None
            except ModuleNotFoundError as error:
                if error.name != f"{package}.{name}":
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__


def _relative(module: str) -> str:
    return module.partition(".")[2]


def _find(place: str, asked: str) -> Any:
    """The object at ``place``, such as "config.messages.TrainerFn", which stands for the name ``asked``."""
    module, _, name = place.rpartition(".")
    try:
        return getattr(_import(f"raylight.{module}", asked), name)
    except (MissingNameError, AttributeError):
        raise AttributeError(str(_missing(asked))) from None


def _missing(name: str) -> MissingNameError:
    """The error for a full name of Lightning's, or of a module of raylight's."""
    package, _, last = name.rpartition(".")
    remedy = INSTEAD.get(last, f"see dir({package}) for what there is of Lightning")
    return MissingNameError(f"raylight has no {last!r} (asked for as {name}): {remedy}.", name=last)


class _Whole(ModuleType):
    """A module of Lightning's whose names are those of ``target``."""

    def __init__(self, name: str, target: str) -> None:
        super().__init__(name)
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._target), name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *dir(importlib.import_module(self._target))]

    def __reduce__(self) -> Any:
        return importlib.import_module, (self.__name__,)


class _Names(ModuleType):
    """A module of Lightning's that has no room of its own in raylight: each name comes from its own place."""

    def __init__(self, name: str, places: dict[str, str]) -> None:
        super().__init__(name)
        self.__all__ = [public for public in places if not public.startswith("_")]

    def __getattr__(self, name: str) -> Any:
        found = lazy_names(self.__name__)(name)
        setattr(self, name, found)
        return found

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.__all__]

    def __reduce__(self) -> Any:
        return importlib.import_module, (self.__name__,)


class _RaylightPaths(MetaPathFinder, Loader):
    """Serves ``raylight.<Lightning's path>``; the last to be asked."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith("raylight."):
            return None
        if _relative(fullname) in PATHS:
            # One that has no modules below it can be run with `python -m`.
            has_modules = any(path.startswith(f"{_relative(fullname)}.") for path in PATHS)
            return ModuleSpec(fullname, self, is_package=has_modules)
        if fullname.rpartition(".")[2] in INSTEAD:
            raise _missing(fullname)
        return None

    def get_code(self, fullname: str) -> CodeType:
        """What ``python -m raylight.<Lightning's path>`` runs: the ``main`` of the module that is found there."""
        return compile(f"import {fullname} as module; module.main()", fullname, "exec")

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        entry = PATHS[_relative(spec.name)]
        return _Names(spec.name, entry) if isinstance(entry, dict) else _Whole(spec.name, f"raylight.{entry}")

    def exec_module(self, module: ModuleType) -> None:
        if isinstance(module, _Whole):
            found = _import(module._target, module.__name__)
            # A package would let Python's own finder load its modules again, under this name.
            if not getattr(found, "__path__", None):
                sys.modules[module.__name__] = found


def _import(target: str, asked: str) -> ModuleType:
    """The module ``target`` of raylight's, which stands for the name ``asked``."""
    try:
        return importlib.import_module(target)
    except MissingNameError:
        raise
    except ModuleNotFoundError as error:
        if error.name is None or not f"{target}.".startswith(f"{error.name}."):
            raise  # something that it needs is not installed
        raise _missing(asked) from None


# At the end: ordinary modules come first.
sys.meta_path.append(_RaylightPaths())


# ---------------------------------------------------------------------------------------------- in Lightning's place


def install() -> None:
    """Take Lightning's place in this process, and in the processes that multiprocessing starts from it.

    Raises:
        RuntimeError: Lightning itself has been imported already.
    """
    if installed():
        return
    imported = [root for root in ROOTS if root in sys.modules]
    if imported:
        raise RuntimeError(
            f"raylight cannot take the place of {imported[0]}, which is imported already: its classes would mix. Call "
            "`raylight.utilities.aliases.install()` before that import, or start the script with `raylight run`."
        )
    sys.meta_path.insert(0, _LightningPaths())
    _share_log_levels()
    _install_in_children()


def installed() -> bool:
    """Whether raylight has taken Lightning's place in this process."""
    return any(isinstance(finder, _LightningPaths) for finder in sys.meta_path)


class _Root(_Whole):
    """``pytorch_lightning`` itself: raylight under Lightning's version."""

    def __reduce__(self) -> Any:
        return _import_installed, (self.__name__,)


def _import_installed(name: str) -> ModuleType:
    """Unpickles a module of Lightning's name: wherever such a pickle arrives, raylight has to stand for it."""
    install()
    return importlib.import_module(name)


class _LightningPaths(MetaPathFinder, Loader):
    """Serves Lightning's packages; the first to be asked, so that it does not matter what is installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        counterpart = _counterpart(fullname)
        if counterpart is None:
            return None
        try:
            found = importlib.util.find_spec(counterpart)
        except ModuleNotFoundError:  # what stands before its last dot is no package, or is missing
            found = None
        if found is None:
            raise _missing(fullname)
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return _Root(spec.name, "raylight") if _counterpart(spec.name) == "raylight" else None

    def exec_module(self, module: ModuleType) -> None:
        counterpart = _counterpart(module.__name__)
        assert counterpart is not None
        if not isinstance(module, _Root):
            sys.modules[module.__name__] = _import(counterpart, module.__name__)
            return
        module.__version__ = _find("checkpoint.format.LIGHTNING_VERSION", "__version__")  # type: ignore[attr-defined]
        if module.__name__ == "lightning":
            importlib.import_module("lightning.pytorch")
            importlib.import_module("lightning.fabric")


def _counterpart(fullname: str) -> str | None:
    """raylight's name for a module of Lightning's; None for any other module."""
    for root, ours in ROOTS.items():
        if fullname == root or fullname.startswith(f"{root}."):
            return ours + fullname[len(root) :]
    return None


def _share_log_levels() -> None:
    """Let raylight's messages heed the levels and handlers that a script gives to Lightning's loggers."""
    logger = logging.getLogger("raylight")
    if logger.level != logging.INFO:  # in a worker
        return
    logger.setLevel(logging.NOTSET)
    for name in reversed(LIGHTNING_LOGGERS):
        logger.parent = logging.getLogger(name)
        logger = logger.parent
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def _install_in_children() -> None:
    """Where multiprocessing does not fork, a new process imports the script before anything else of ours."""
    from multiprocessing import spawn

    prepare = spawn.get_preparation_data

    @functools.wraps(prepare)
    def get_preparation_data(name: str) -> dict[str, Any]:
        return {**prepare(name), "raylight": _Installed()}

    spawn.get_preparation_data = get_preparation_data


class _Installed:
    """Unpickling it takes Lightning's place."""

    def __reduce__(self) -> Any:
        return install, ()
