"""A process that hangs is ended, on whichever node it is."""

from __future__ import annotations

import signal
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from raylight.engine import hangs
from raylight.engine.actor import WorkerInfo

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("driver_is_elsewhere", [False, True])
def test_a_process_is_killed(ray_cluster: str, monkeypatch: pytest.MonkeyPatch, driver_is_elsewhere: bool) -> None:
    process = subprocess.Popen(["sleep", "100"])
    info = WorkerInfo(ray.get_runtime_context().get_node_id(), "127.0.0.1", process.pid, (), 1)
    if driver_is_elsewhere:
        context: Any = SimpleNamespace(get_node_id=lambda: "another")
        monkeypatch.setattr(hangs.ray, "get_runtime_context", lambda: context)
    try:
        hangs.kill_process(info)
        assert process.wait(timeout=40) == -signal.SIGKILL
    finally:
        process.kill()
