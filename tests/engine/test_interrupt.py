"""Ctrl-C stops training at the next batch and keeps what was reached; a second one, or the driver's end, ends all."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raylight.engine import pool

PROGRAM = Path(__file__).parent / "programs" / "endless_fit.py"
Start = Callable[..., "subprocess.Popen[bytes]"]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(60)]


@pytest.fixture
def start(ray_cluster: str, nothing_held: Any, monkeypatch: pytest.MonkeyPatch, wait_until: Any) -> Iterator[Start]:
    """``start(*arguments)``: the program in another process on the session's cluster, when it has begun to train."""
    pool.shutdown()
    nothing_held()
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    with contextlib.ExitStack() as stack:

        def begin(*arguments: str) -> subprocess.Popen[bytes]:
            program = subprocess.Popen([sys.executable, str(PROGRAM), *arguments])
            stack.enter_context(program)
            stack.callback(program.kill)
            wait_until(lambda: Path("ready").exists() or program.poll() is not None, 40)
            assert program.poll() is None
            return program

        yield begin


def report() -> dict[str, Any]:
    return dict(json.loads(Path("report.json").read_text()))


def test_the_first_stops_gracefully(start: Start, nothing_held: Any) -> None:
    program = start("ray", "2")
    program.send_signal(signal.SIGINT)
    assert program.wait(20) == 0
    told = report()
    assert told["message"] == "Training was stopped by the user; what it has reached is in the model."
    assert told["weights_changed"]
    assert told["interrupted"]
    assert told["heard"] == "KeyboardInterrupt"
    assert told["global_step"] >= 10
    assert told["steps_by_rank"] == [told["global_step"]] * 2
    nothing_held()


@pytest.mark.slow
def test_the_second_ends_at_once(start: Start, nothing_held: Any, wait_until: Any) -> None:
    program = start("ray", "2", "stubborn")
    program.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        program.wait(1)  # it waits for the batch
    program.send_signal(signal.SIGINT)
    second = time.monotonic()
    assert program.wait(20) == 0
    assert time.monotonic() - second < 10
    assert not report()["weights_changed"]
    nothing_held()


def test_a_killed_driver_takes_the_workers_with_it(start: Start, nothing_held: Any) -> None:
    program = start("ray", "2")
    program.kill()
    program.wait()
    nothing_held()
