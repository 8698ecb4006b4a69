"""``raylight doctor`` on clusters of their own, with nodes that have something wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).parent / "programs" / "examined_nodes.py"

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]
Run = Callable[[str], "tuple[dict[str, Any], dict[str, dict[str, str]]]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``run(kind)``: what the program printed, and the findings by their subjects; nothing stays on the cluster."""

    def run_program(kind: str) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, str(PROGRAM), kind]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-3000:]
        told = json.loads(done.stdout.splitlines()[-1])
        assert told["left"] == 0
        return told, {finding["subject"]: finding for finding in told["findings"]}

    return run_program


def test_two_nodes(run: Run) -> None:
    told, findings = run("well")
    assert (told["status"], told["problems"]) == (0, 0)
    assert findings["nodes"]["what"].startswith("2 alive: ")
    assert findings["versions"]["what"].endswith("the same on this machine and all 2 nodes")
    assert findings["storage"]["what"].endswith("is the same on all 2 nodes")
    assert findings["network"]["what"].startswith("gloo over 2 nodes: round trip ")
    assert findings["resources"]["what"] == "2 of 2 CPU free"


def test_a_node_that_hangs(run: Run) -> None:
    """It is a problem, and the other is examined all the same."""
    told, findings = run("hanging")
    assert (told["status"], told["problems"]) == (1, 1)
    assert findings["node"]["what"].endswith("gave no answer: it did not answer within 15 s.")
    assert "gloo over 2 processes of" in findings["network"]["what"]
    assert told["seconds"] < 60


def test_a_node_that_is_lost(run: Run) -> None:
    told, findings = run("leaving")
    assert told["status"] == 1
    assert findings["node"]["level"] == "problem"
    assert "gloo over 2 processes of" in findings["network"]["what"]
    assert told["seconds"] < 90


def test_a_cluster_that_is_full(run: Run) -> None:
    told, findings = run("full")
    assert told["status"] == 1
    assert findings["nodes"]["level"] == "warning"
    assert "About to end: " in findings["nodes"]["what"]
    assert findings["GPUs"]["level"] == "problem"
    assert "1 by Ray, 0 by torch" in findings["GPUs"]["what"]
    assert findings["resources"]["level"] == "warning"
    assert findings["resources"]["what"].startswith("0 of 2 CPU, 1 of 1 GPU free")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_node_that_does_not_see_the_drivers_files(run: Run) -> None:
    told, findings = run("apart")
    assert told["status"] == 0
    assert "is not shared with " in findings["storage"]["what"]
    assert "come home through raylight" in findings["storage"]["what"]
