"""Sweeps of tiny models on the session's cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import raylight as pl

sys.path.insert(0, str(Path(__file__).parent))

import tiny  # noqa: E402


@pytest.fixture(autouse=True)
def _by_value(request: pytest.FixtureRequest, send_by_value: Callable[..., None]) -> None:
    send_by_value(request.module, tiny)


@pytest.fixture(autouse=True)
def _files_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tiny_sweep(ray_cluster: str) -> Callable[..., pl.SweepResult]:
    """``tiny_sweep(space, **arguments)``: a quiet sweep of the tiny model on the session's cluster."""

    def run(space: dict[str, Any], **arguments: Any) -> pl.SweepResult:
        defaults: dict[str, Any] = {
            "model": tiny.Line, "datamodule": tiny.Points, "trainer": {"max_epochs": 2, **tiny.FLAGS}, "verbose": False,
            "scheduler": None, "seed": 0, "max_concurrent": 1,
        }  # fmt: skip
        return pl.sweep(**{**defaults, "space": space, **arguments})

    return run
