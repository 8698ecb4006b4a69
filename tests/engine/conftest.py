"""Trainers of two workers on the session's cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import raylight as pl

sys.path.insert(0, str(Path(__file__).parent))

import small_models  # noqa: E402


@pytest.fixture(autouse=True)
def _by_value(request: pytest.FixtureRequest, send_by_value: Callable[..., None]) -> None:
    send_by_value(request.module, small_models)


@pytest.fixture(autouse=True)
def _files_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def two_workers(ray_cluster: str) -> Callable[..., pl.Trainer]:
    """``two_workers(**flags)``: a quiet Trainer of one epoch on two workers; those of other tests where they live."""

    def make(**flags: Any) -> pl.Trainer:
        return pl.Trainer(**{**small_models.QUIET, "num_workers": 2, "max_epochs": 1, **flags})

    return make


@pytest.fixture
def one_worker() -> Callable[..., pl.Trainer]:
    """``one_worker(**flags)``: as ``two_workers``, in this process."""

    def make(**flags: Any) -> pl.Trainer:
        return pl.Trainer(**{**small_models.QUIET, "launcher": "local", "max_epochs": 1, **flags})

    return make
