"""The example of Ray Data as a user starts it: on two workers, and predictions that can be read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raylight.engine import pool

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--epochs", "3"], ["--epochs", "1", "--stream"]], ids=["in memory", "streamed"])
def test_on_two_workers(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    pool.shutdown()  # workers that other tests have left warm hold the cluster's CPUs
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-W", "error::UserWarning", str(ROOT / "examples" / "parquet_images.py"), *arguments]
    ended = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=150)
    assert ended.returncode == 0, ended.stderr
    (accuracy,) = re.findall(r"test accuracy +(\S+)\n", ended.stdout)
    assert 0.5 < float(accuracy) <= 1.0
    rows = pq.read_table(tmp_path / "parquet_images" / "predictions")
    assert rows.num_rows == 397
    correct = [label == predicted for label, predicted in zip(rows["label"], rows["predicted"], strict=True)]
    assert sum(correct) / len(correct) == pytest.approx(float(accuracy), abs=1e-3)
