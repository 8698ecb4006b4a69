"""Programs in processes of their own, as raylight's finders stay in a process that has them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import raylight

PROGRAMS = Path(__file__).parent / "programs"
RAYLIGHT = "import sys; from raylight.cli.main import main; sys.exit(main())"
"""What the installed command does."""

Python = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def python(tmp_path: Path) -> Python:
    """``python(*arguments, stdin="")``: run Python in ``tmp_path``, warnings being errors."""

    def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(Path(raylight.__file__).parents[1])}
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, input=stdin, capture_output=True, text=True, timeout=120
        )

    return run


@pytest.fixture
def raylight_run(python: Python) -> Python:
    """``raylight_run(*arguments)``: the command ``raylight run ARGUMENTS`` in ``tmp_path``."""
    return lambda *arguments: python("-c", RAYLIGHT, "run", *arguments)
