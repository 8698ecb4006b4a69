"""Where the files of ``cluster/`` are, and how their commands are run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "cluster"
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def files() -> Path:
    """The folder ``cluster/``."""
    return FILES


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of a user who has the virtual environment active, no token, and nothing that concerns Ray."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY", "SLURM"))}
    home = tmp_path / "home"
    home.mkdir()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**kept, "HOME": str(home), "PATH": path, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    """``run(*command, seconds=60, **variables)``: its exit code and what it printed, run as that user."""

    def call(*command: str | Path, seconds: float = 60, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in command],
            cwd=tmp_path,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )

    return call
