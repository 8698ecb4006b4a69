"""Sweeps of tiny models on the session's cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

import raylight as pl

sys.path.insert(0, str(Path(__file__).parent))

import tiny  # noqa: E402


@pytest.fixture(autouse=True)
def _by_value(request: pytest.FixtureRequest) -> Iterator[None]:
    """Send the tests' classes to the trials as those of a script: they cannot import them."""
    modules = (request.module, tiny)
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    yield
    for module in modules:
        cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture(autouse=True)
def _files_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tiny_sweep(ray_cluster: str) -> Callable[..., pl.SweepResult]:
    """``tiny_sweep(space, **arguments)``: a quiet sweep of the tiny model on the session's cluster."""

    def run(space: dict[str, Any], **arguments: Any) -> pl.SweepResult:
        defaults: dict[str, Any] = {
            "model": tiny.Line, "datamodule": tiny.Points, "trainer": {"max_epochs": 2, **tiny.FLAGS}, "verbose": False,
            "scheduler": None, "seed": 0,
        }  # fmt: skip
        return pl.sweep(**{**defaults, "space": space, **arguments})

    return run
