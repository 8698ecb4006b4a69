"""On clusters of their own: nodes come and go, memory runs out, and the result is the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).with_name("programs")

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture
def run(tmp_path: Path) -> Callable[[str, str], Any]:
    """``run(program, kind)``: what a program printed, which ran on a cluster of its own beside the session's."""

    def run_program(program: str, kind: str) -> Any:
        folder = tmp_path / kind
        folder.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, str(PROGRAMS / program), kind]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=140)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run_program


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_files_of_workers_elsewhere(run: Any) -> None:
    """They do not see the driver's disk, or not all; what they write is there all the same, and is read from there."""
    done = run("elsewhere.py", "elsewhere")
    assert done["seen"] == []
    assert done["best"] == 1
    assert done["steps"] == 48
    assert done["files"] == ["files/epoch=1-step=32.ckpt", "files/epoch=2-step=48.ckpt", "files/last.ckpt"]
    assert done["logs"] == [1, 1]


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="only root makes networks, with iproute2")
def test_two_hosts(run: Any) -> None:
    """Without a common disk, memory or home, in networks of their own; nobody joins without the token."""
    done = run("two_hosts.py", "on_two_hosts.py")
    assert done["refused"] == ["none", "wrong"]
    first, second = done["apart"]["places"]
    assert first == [0, 0, 0, ["apart"]]
    assert second[:3] == [1, 0, 1]
    assert "apart" not in second[3]
    assert [place[:3] for place in done["together"]["places"]] == [[0, 0, 0], [1, 1, 0]]
    for outcome in ("steps", "weights", "files"):
        assert done["apart"][outcome] == done["together"][outcome]
    assert done["apart"]["files"] == ["lightning_logs/version_0/checkpoints/epoch=1-step=32.ckpt"]


def test_modules_beside_the_script(run: Any) -> None:
    """Their files are gone from where other nodes look, or edited; what cannot be sent is named, and what to do."""
    done = run("beside.py", "beside")
    assert done["by_name"] == done["edited"] == done["gone"] == "first"
    assert done["same_class"]
    assert "locked.LOCK (a _thread.lock) cannot be pickled." in done["locked"]
    assert "the module 'models' cannot be imported there." in done["not_there"]
    for error in (done["locked"], done["not_there"]):
        assert 'ray.init(runtime_env={"working_dir": "."})' in error
        assert "raylight submit --working-dir . script.py" in error


def test_the_memory_monitor(run: Any) -> None:
    done = run("memory_monitor.py", "greedy")
    assert done["steps"] == 64
    (what,) = done["incidents"]
    assert "rank 1" in what
    assert "killed due to the node running low on memory" in what


def test_a_lost_node(run: Any) -> None:
    """Its worker starts anew on another one."""
    whole, disturbed = run("lost_node.py", "undisturbed"), run("lost_node.py", "killed")
    assert disturbed["weights"] == whole["weights"]
    assert disturbed["steps"] == whole["steps"] == 64
    assert whole["incidents"] == []
    ((step, _, what),) = disturbed["incidents"]
    assert 0 < step < 64
    assert "rank 1" in what


def test_a_node_that_is_drained(run: Any) -> None:
    """Its worker leaves it before it ends: for another node, or the others go on until there is one."""
    whole, moved, fewer = [run("drained_node.py", kind) for kind in ("undisturbed", "fixed", "elastic")]
    assert whole["incidents"] == []
    (left,) = moved["incidents"]
    assert "is about to end: its workers have left it." in left
    assert moved["weights"] == whole["weights"]
    assert [text[-41:] for text in fewer["incidents"]] == [
        " The run goes on with 1 worker; it had 2.",
        "The run goes on with 2 workers; it had 1.",
    ]
    assert fewer["steps"] == moved["steps"] == whole["steps"]
    for left, right in zip(fewer["weights"], whole["weights"], strict=True):
        assert left == pytest.approx(right, abs=1e-5)
