"""A run that is gone in the middle of an operation on files leaves complete checkpoints only, and never older ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "programs" / "crash_everywhere.py"


def crash_everywhere(folder: Path, *arguments: str) -> int:
    """The number of the operation at which the last attempt would have crashed, had it not been done."""
    command = [sys.executable, str(PROGRAM), str(folder), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def test_at_some_operations(tmp_path: Path) -> None:
    assert crash_everywhere(tmp_path, "local", "8") > 20


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("local", "--all"), ("background", "--all"), ("pyarrow",)])
def test_at_every_operation(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert crash_everywhere(tmp_path, *arguments) > 20
