"""Modules of the user's that the workers do not have: their classes and functions travel by value.

A script's own classes always do. Those of a module beside it travel as a name, which is worth something only where the
same file is. So before anything is pickled the other nodes are asked for the files.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylight.utilities.exceptions import UnpicklableError
from raylight.utilities.rank_zero import rank_zero_warn

REMEDY = (
    'Send the files along: call `ray.init(runtime_env={"working_dir": "."})` before the Trainer is made, or start the '
    "script with `raylight submit --working-dir . script.py`."
)
INSTALLED = ("raylight", "ray", "torch", "torchvision", "torchmetrics", "pytorch_lightning", "lightning", "numpy")
"""Packages that every worker has, even where this process has them from a folder of their sources."""
SECONDS_TO_LOOK = 30.0
"""For a node that is asked for files; one that has not answered has none."""


@dataclass(frozen=True)
class Source:
    """The file of a module."""

    package: str
    """Its topmost one, or itself."""
    path: str
    """Below the folder that the package is in."""
    digest: str
    """Of what is in it; "" where it is gone."""


_first_digests: dict[str, str] = {}
"""By module: of its file, when something was first sent to workers, which may have imported it then."""
_answers: dict[tuple[str, Source], bool] = {}
"""By node and file: whether it has that. Others are asked for."""


def dumps(obj: Any, cwd: str) -> bytes:
    """Runs on the driver: ``obj`` pickled, so that workers on all nodes can unpickle it.

    Args:
        obj: What is to travel.
        cwd: The working directory that the workers will have, where there is such a folder.

    Raises:
        UnpicklableError: Something of a module that other nodes do not have cannot travel by value.
    """
    modules = {module.__name__: module for module in user_modules()}
    sources = {name: source_of(module) for name, module in modules.items()}
    missing = _missing_elsewhere(sources, cwd)
    changed = {name for name, source in sources.items() if source.digest != _first_digest(name, source)}
    chosen = list(modules.values()) if missing or changed else []  # all, as their classes refer to each other
    try:
        with by_value(chosen):
            return bytes(cloudpickle.dumps(obj))
    except Exception as error:  # of any kind: pickling runs the classes' own code
        what = _culprit(obj, chosen)
        if what is None:
            raise
        if not missing:
            rank_zero_warn(
                f"{what} cannot be pickled, so the workers use the modules' files, as they are now or as they were "
                f"when each worker imported them. Changed since: {', '.join(sorted(changed))}. `trainer.shutdown()` "
                "makes the next call start new workers."
            )
            return bytes(cloudpickle.dumps(obj))
        raise UnpicklableError(
            f"Other nodes of the cluster do not have the modules {', '.join(sorted(missing))}, and their classes and "
            f"functions cannot be sent there: {what} cannot be pickled. {REMEDY}"
        ) from error


def loads(pickled: bytes) -> Any:
    """Runs in every worker: what ``dumps`` was given.

    Raises:
        UnpicklableError: It comes from a module that this node does not have, or has in another version.
    """
    try:
        return cloudpickle.loads(pickled)
    except (ImportError, AttributeError) as error:
        if isinstance(error, AttributeError) and not str(error).startswith("Can't get attribute"):
            raise  # the user's own
        named = isinstance(error, ImportError) and error.name is not None
        what = f"the module {error.name!r} cannot be imported there" if named else str(error)
        node = ray.util.get_node_ip_address()
        raise UnpicklableError(
            f"A worker on node {node} cannot make the model, its data or its callbacks: {what}. {REMEDY}"
        ) from error


@contextlib.contextmanager
def by_value(modules: Iterable[ModuleType]) -> Iterator[None]:
    """What these modules define is pickled by value in this block."""
    registered = cloudpickle.list_registry_pickle_by_value()
    own = [module for module in modules if module.__name__ not in registered]
    for module in own:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in own:
            cloudpickle.unregister_pickle_by_value(module)


def user_modules() -> list[ModuleType]:
    """Modules in Python's own language that were imported from folders of the user's: no library's, nor raylight's."""
    return [module for name, module in list(sys.modules.items()) if name != "__main__" and _is_users(name, module)]


def _is_users(name: str, module: Any) -> bool:
    file = getattr(module, "__file__", None)
    if not isinstance(module, ModuleType) or not isinstance(file, str) or not file.endswith(".py"):
        return False
    return module.__name__ == name and name.partition(".")[0] not in INSTALLED and not _is_installed(file)


def _is_installed(file: str) -> bool:
    path = os.path.abspath(file)
    folders = path.split(os.sep)
    return "site-packages" in folders or "dist-packages" in folders or path.startswith(_library_folders())


@cache
def _library_folders() -> tuple[str, ...]:
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += [*site.getsitepackages(), site.getusersitepackages()]
    both = {*map(os.path.abspath, paths), *map(os.path.realpath, paths)}  # of a virtual environment, some are links
    return tuple(os.path.join(path, "") for path in both)


def source_of(module: ModuleType) -> Source:
    """The file of a module of the user's."""
    assert module.__file__ is not None
    name, file = module.__name__, os.path.abspath(module.__file__)
    depth = name.count(".") + (os.path.basename(file) == "__init__.py")
    path = os.sep.join(file.split(os.sep)[-depth - 1 :])
    try:
        with open(file, "rb") as source:
            digest = hashlib.sha256(source.read()).hexdigest()
    except OSError:
        digest = ""
    return Source(name.partition(".")[0], path, digest)


def _first_digest(name: str, source: Source) -> str:
    return _first_digests.setdefault(name, source.digest)


# ---------------------------------------------------------------------------------------------------- other nodes


def _missing_elsewhere(sources: dict[str, Source], cwd: str) -> set[str]:
    """Names of those modules that a node beside this one does not have, or has otherwise."""
    here = ray.get_runtime_context().get_node_id()
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    _ask(nodes, list(sources.values()), cwd)
    return {name for name, source in sources.items() if not all(_answers[node, source] for node in nodes)}


def _ask(nodes: list[str], sources: list[Source], cwd: str) -> None:
    asked = {}
    for node in nodes:
        unknown = [source for source in sources if (node, source) not in _answers]
        if unknown:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            look = ray.remote(num_cpus=0, max_retries=0)(_looking()).options(scheduling_strategy=there)
            asked[look.remote([(each.package, each.path, each.digest) for each in unknown], cwd)] = node, unknown
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=SECONDS_TO_LOOK) if asked else ([], [])
    for reference, (node, unknown) in asked.items():
        try:
            found = ray.get(reference) if reference in ready else [False] * len(unknown)
        except ray.exceptions.RayError:  # the node has gone meanwhile
            found = [False] * len(unknown)
        _answers.update({(node, source): has for source, has in zip(unknown, found, strict=True)})


def _looking() -> Any:
    """A function that finds files; one that travels by value, as its process would take seconds to import raylight."""

    def look(sources: list[tuple[str, str, str]], cwd: str) -> list[bool]:
        import hashlib
        import importlib.util
        import os

        if os.path.isdir(cwd):
            os.chdir(cwd)  # as a worker does

        def has(package: str, path: str, digest: str) -> bool:
            try:
                spec = importlib.util.find_spec(package)
                places = list(spec.submodule_search_locations or []) if spec is not None else []
                places += [spec.origin] if spec is not None and spec.origin is not None and not places else []
                for place in places:
                    with open(os.path.join(os.path.dirname(place), path), "rb") as file:
                        if hashlib.sha256(file.read()).hexdigest() == digest:
                            return True
            except (ImportError, OSError, ValueError):
                return False
            return False

        return [has(*source) for source in sources]

    return look


# ---------------------------------------------------------------------------------------------------- errors


class _Watching(cloudpickle.Pickler):
    """Keeps what it comes by; where it fails, the last is to blame."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.seen: list[Any] = []

    def reducer_override(self, obj: Any) -> Any:
        self.seen.append(obj)
        return super().reducer_override(obj)


def _culprit(obj: Any, modules: list[ModuleType]) -> str | None:
    """The object of these modules by which pickling ``obj`` fails; None where that is nothing of theirs."""
    watching = _Watching(io.BytesIO())
    with by_value(modules), contextlib.suppress(Exception):  # it has failed before, in whatever way
        watching.dump(obj)
    names = {id(value): f"{module.__name__}.{name}" for module in modules for name, value in vars(module).items()}
    for each in reversed(watching.seen):
        if id(each) in names:
            return f"{names[id(each)]} (a {type(each).__module__}.{type(each).__qualname__})"
    return None
