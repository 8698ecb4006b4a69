"""What Ctrl-C and a killed driver leave of a sweep, and how it goes on."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raylight.engine import pool

PROGRAM = Path(__file__).parent / "programs" / "long_sweep.py"
Start = Callable[[str], "subprocess.Popen[bytes]"]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]


@pytest.fixture
def start(ray_cluster: str, nothing_held: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """``start("run" | "resume")``: the program in another process on the session's cluster."""
    pool.shutdown()
    nothing_held()
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    with contextlib.ExitStack() as stack:

        def begin(what: str) -> subprocess.Popen[bytes]:
            program = subprocess.Popen([sys.executable, str(PROGRAM), what])
            stack.enter_context(program)
            stack.callback(program.kill)
            return program

        yield begin


def until_blocked(program: subprocess.Popen[bytes], wait_until: Any) -> None:
    """Two trials are over, and two in the middle."""
    wait_until(lambda: len(list(Path.cwd().glob("blocked-*"))) == 2 or program.poll() is not None, 60)
    assert program.poll() is None


def told() -> dict[str, Any]:
    return dict(json.loads(Path("result.json").read_text()))


def epochs(number: int) -> list[int]:
    """The epochs that a trial has begun, in their order, in all processes."""
    return [int(line) for line in Path(f"epochs-{number}").read_text().split()]


@pytest.mark.slow
def test_a_killed_driver_is_resumed(start: Start, nothing_held: Any, wait_until: Any) -> None:
    program = start("run")
    until_blocked(program, wait_until)
    program.kill()
    program.wait()
    nothing_held()
    Path("go").touch()
    assert start("resume").wait(60) == 0
    assert told() == {
        "interrupted": False,
        "states": ["finished"] * 4,
        "reports": [[0, 1, 2, 3]] * 4,
        "best": {"number": 0},
        "best_epochs": [1, 1, 1, 1],
    }
    assert [epochs(number) for number in (0, 1)] == [[0, 1, 2, 3]] * 2  # over is over
    assert [epochs(number) for number in (2, 3)] == [[0, 1, 2, 2, 3]] * 2  # from their last checkpoint on
    nothing_held()


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(start: Start, nothing_held: Any, wait_until: Any) -> None:
    program = start("run")
    until_blocked(program, wait_until)
    program.send_signal(signal.SIGINT)
    assert program.wait(60) == 0
    assert told() == {
        "interrupted": True,
        "states": ["finished", "finished", "interrupted", "interrupted"],
        "reports": [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1], [0, 1]],
        "best": {"number": 0},
        "best_epochs": [1, 1, 1, 1],
    }
    nothing_held()


@pytest.mark.slow
def test_the_second_ctrl_c_ends_at_once(start: Start, nothing_held: Any, wait_until: Any) -> None:
    program = start("run")
    until_blocked(program, wait_until)
    program.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(1)
    program.send_signal(signal.SIGINT)
    assert program.wait(20) != 0
    assert not Path("result.json").exists()
    nothing_held()
