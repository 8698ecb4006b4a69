"""Both examples as a user starts them: a command, an epoch, two workers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from raylight.engine import pool

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.ray
@pytest.mark.parametrize(
    ("name", "measured", "limit"),
    [
        pytest.param("gan", r"energy distance of the two +(\S+)\n", 3.0, marks=pytest.mark.slow),  # untrained 3.6
        pytest.param(  # from frequencies alone 3.6
            "language_model", r"bits per character.* (\S+) after training\n", 2.5, marks=pytest.mark.slow
        ),
    ],
)
def test_one_epoch_on_two_workers(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, measured: str, limit: float
) -> None:
    pool.shutdown()  # workers that other tests have left warm hold the cluster's CPUs
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-W", "error::UserWarning", str(ROOT / "examples" / f"{name}.py"), "--epochs", "1"]
    ended = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    (value,) = re.findall(measured, ended.stdout)
    assert 0 < float(value) < limit
    (checkpoint,) = re.findall(r"best checkpoint +(\S+)\n", ended.stdout)
    assert (tmp_path / checkpoint).is_file()


@pytest.mark.slow
@pytest.mark.ray
def test_sweep(ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, str(ROOT / "examples" / "sweep_digits.py"), "--trials", "4", "--epochs", "3"]
    ended = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "4 of 4 trials over" in ended.stdout
    (accuracy,) = re.findall(r"test accuracy +(\S+)\n", ended.stdout)
    assert 0.8 < float(accuracy) <= 1.0
    (checkpoint,) = re.findall(r"best checkpoint +(\S+)\n", ended.stdout)
    assert (tmp_path / checkpoint).is_file()
    assert (tmp_path / "sweep.png").stat().st_size > 10_000
