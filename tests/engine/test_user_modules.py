"""Which modules travel by value, and what is said where they cannot."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from ray import cloudpickle

import raylight
from raylight.engine import user_modules
from raylight.utilities.exceptions import UnpicklableError

Make = Callable[..., ModuleType]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """``make(name, source)``: a module of that source, imported from a folder on sys.path."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(user_modules, "_first_digests", {})  # of other tests' modules, whose files may change meanwhile
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it would hide a change within the same second

    def write(name: str, source: str) -> ModuleType:
        path = tmp_path / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_modules_of_the_users(make: Make) -> None:
    inner, single = make("namespace.inner", ""), make("single_module", "")
    library = make("site-packages.installed", "")
    found = user_modules.user_modules()
    assert inner in found
    assert single in found
    assert not {library, os, torch, pytest, raylight, sys.modules["__main__"]} & set(found)
    assert not [each for each in found if each.__name__.partition(".")[0] in ("raylight", "torch", "ray", "numpy")]


def test_the_file_of_a_module(make: Make, tmp_path: Path) -> None:
    make("package.__init__", "")
    inner, package = make("package.inner", "a = 1"), sys.modules["package"]
    assert user_modules.source_of(inner).path == "package/inner.py"
    assert user_modules.source_of(package).path == "package/__init__.py"
    source = user_modules.source_of(inner)
    look = cloudpickle.loads(cloudpickle.dumps(user_modules._looking()))
    wanted = [("package", source.path, source.digest), ("package", source.path, "another"), ("absent", "absent.py", "")]
    assert look(wanted, os.getcwd()) == [True, False, False]
    Path(str(inner.__file__)).unlink()
    assert user_modules.source_of(inner).digest == ""
    assert look(wanted[:1], os.getcwd()) == [False]


@pytest.mark.ray
def test_what_has_changed_travels_by_value(ray_cluster: str, make: Make, tmp_path: Path) -> None:
    """Warm workers may have the former version."""
    module: Any = make("changing", "def word():\n    return 'old'\n")
    assert len(user_modules.dumps(module.word, os.getcwd())) < 100  # its name
    make("changing", "def word():\n    return 'newer'\n")
    pickled = user_modules.dumps(importlib.reload(module).word, os.getcwd())
    make("changing", "def word():\n    return 'newest'\n")
    assert cloudpickle.loads(pickled)() == "newer"
    assert "changing" not in cloudpickle.list_registry_pickle_by_value()


@pytest.mark.ray
def test_what_cannot_travel_by_value(ray_cluster: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import threading\nLOCK = threading.Lock()\ndef locked():\n    return LOCK\n"
    make("others", "import threading\nUNUSED = threading.Lock()\n")
    module: Any = make("locking", source)
    user_modules.dumps(module.locked, os.getcwd())
    make("locking", f"{source}\n# changed\n")
    with pytest.warns(UserWarning, match=r"^locking.LOCK \(a _thread.lock\) cannot be pickled.* since: locking\."):
        pickled = user_modules.dumps(module.locked, os.getcwd())
    assert cloudpickle.loads(pickled) is module.locked
    monkeypatch.setattr(user_modules, "_missing_elsewhere", lambda sources, cwd: {"locking"})
    with pytest.raises(UnpicklableError, match=r"do not have the modules locking, .*locking.LOCK .*raylight submit"):
        user_modules.dumps(module.locked, os.getcwd())


@pytest.mark.ray
def test_a_module_that_is_not_there(ray_cluster: str, make: Make) -> None:
    pickled = cloudpickle.dumps(make("here_only", "class Model:\n    pass\n").Model)
    del sys.modules["here_only"]
    (path,) = [Path(folder) / "here_only.py" for folder in sys.path[:1]]
    path.unlink()
    with pytest.raises(UnpicklableError, match=r"the module 'here_only' cannot be imported there\. .*working_dir"):
        user_modules.loads(pickled)
