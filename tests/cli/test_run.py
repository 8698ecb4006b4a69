"""``raylight run`` against ``python``: what a script sees, and how it ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import PROGRAMS, Python

Runs = Callable[[list[list[str]]], list[list[Any]]]


@pytest.fixture
def raylight_runs(python: Python) -> Runs:
    """``raylight_runs(lists of arguments)``: exit status, output and errors of ``raylight run`` for each."""

    def run(arguments: list[list[str]]) -> list[list[Any]]:
        forked = python(str(PROGRAMS / "run_forked.py"), stdin=json.dumps(arguments))
        assert forked.returncode == 0, forked.stderr
        return list(json.loads(forked.stdout))

    return run


def test_a_script_for_lightning_runs_without_an_edit(raylight_run: Python) -> None:
    script = PROGRAMS / "whole_script.py"
    ended = raylight_run(str(script), "--lr", "0.1", "-m")
    assert ended.returncode == 7, ended.stderr
    assert json.loads(ended.stdout) == {
        "argv": [str(script), "--lr", "0.1", "-m"],
        "file": str(script),
        "path": str(PROGRAMS),
        "main": True,
        "doc": True,
        "spec": "None",
        "steps": 4,
        "trainer": "raylight.trainer",
    }


TELLING = """
import os, sys
print(sys.argv, __file__, __name__, __package__, __spec__ and __spec__.name, sys.path[0], __cached__)
print(sorted(set(globals()) - {"os", "sys", "__annotations__"}), sys.modules["__main__"].sys is sys)
"""
ENDS = {
    "def fail():\n    raise ValueError('no')\n\nfail()\n": 1,
    "import sys\nsys.excepthook = lambda *error: print(error[1], error[2].tb_lineno)\n1 / 0\n": 1,
    "x = = 3\n": 1,
    "raise SystemExit('sorry')\n": 1,
    "raise KeyboardInterrupt\n": -signal.SIGINT,
    "import atexit\natexit.register(print, 'bye')\n": 0,
}


@pytest.mark.slow
def test_names_and_ends_are_those_of_python(tmp_path: Path, python: Python, raylight_runs: Runs) -> None:
    """Names and paths; traceback, exit status and signal."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(TELLING + "from . import helper\nprint(helper.name)")
    (package / "helper.py").write_text("name = __name__")
    (tmp_path / "telling.py").write_text(TELLING)
    calls = [["telling.py", "a", "-b"], ["-m", "telling", "a", "-b"], ["-m", "package", "a", "-b"]]
    for number, source in enumerate(ENDS):
        (tmp_path / f"end{number}.py").write_text(source)
        calls.append([f"end{number}.py"])
    ours = raylight_runs(calls)
    for call, end in zip(calls, ours, strict=True):
        theirs = python(*call)
        assert end == [theirs.returncode, theirs.stdout, theirs.stderr]
    assert [status for status, _, _ in ours] == [0, 0, 0, *ENDS.values()]


@pytest.mark.slow
def test_no_script(tmp_path: Path, raylight_runs: Runs) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    calls = {
        ("missing.py",): (2, "can't open file 'missing.py': No such file or directory"),
        ("-m", "package"): (1, "No module named package, or it is a package without __main__"),
        (): (2, "required: script"),
        ("--launcher", "missing.py"): (2, "unrecognized arguments: --launcher"),
    }
    ended = raylight_runs([list(arguments) for arguments in calls])
    for (status, _, said), (expected, pattern) in zip(ended, calls.values(), strict=True):
        assert (status, pattern in said) == (expected, True), said
