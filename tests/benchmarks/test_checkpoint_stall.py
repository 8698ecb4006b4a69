"""Training stands still for a checkpoint hardly longer than for a copy of its tensors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LARGEST_RATIO = 1.3


@pytest.mark.slow
def test_stall_is_that_of_a_copy(tmp_path: Path) -> None:
    attempts = []
    for attempt in range(3):  # a busy machine may disturb one of them
        report = tmp_path / f"{attempt}.json"
        program = Path(__file__).with_name("checkpoint_stall.py")
        done = subprocess.run([sys.executable, str(program), "--json", str(report)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        attempts.append(json.loads(report.read_text())["ratios"]["background"])
        if attempts[-1] <= LARGEST_RATIO:
            return
    pytest.fail(f"largest ratio allowed: {LARGEST_RATIO}; measured: {attempts}")
