"""``raylight run`` with two workers: there, too, Lightning's name means raylight."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raylight.checkpoint.format import LIGHTNING_VERSION

from .conftest import PROGRAMS, Python


@pytest.mark.slow
@pytest.mark.ray
def test_classes_of_a_script_for_lightning_reach_the_workers(
    ray_cluster: str, raylight_run: Python, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    ended = raylight_run(str(PROGRAMS / "ray_script.py"))
    assert ended.returncode == 0, ended.stderr
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "steps": 4,
        "global_step": 4,
        "seen": [2, "raylight.core.module", LIGHTNING_VERSION],
    }
