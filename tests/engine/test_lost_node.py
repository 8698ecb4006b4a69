"""A node of the cluster is lost: its worker starts anew on another one, and the result is the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("programs") / "lost_node.py"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_lost_node(tmp_path: Path) -> None:
    """Beside the session's cluster, as nodes are started and ended."""

    def run(kind: str) -> Any:
        folder = tmp_path / kind
        folder.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, str(PROGRAM), kind]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=140)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    whole, disturbed = run("undisturbed"), run("killed")
    assert disturbed["weights"] == whole["weights"]
    assert disturbed["steps"] == whole["steps"] == 64
    assert whole["incidents"] == []
    ((step, _, what),) = disturbed["incidents"]
    assert 0 < step < 64
    assert "rank 1" in what
