"""Notebooks, and kernels of this interpreter to run them in."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

sys.path.insert(0, str(Path(__file__).parent))

from kernels import ROOT, Kernel  # noqa: E402

Begin = Callable[..., AbstractAsyncContextManager[Kernel]]


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begin:
    """``async with kernel(**environment) as k``: a kernel of its own, in ``tmp_path``."""
    spec = tmp_path / "jupyter" / "kernels" / "this"
    spec.mkdir(parents=True)
    start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": start, "display_name": "this", "language": "python"}))
    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)

    @contextlib.asynccontextmanager
    async def begin(**environment: str) -> AsyncIterator[Kernel]:
        client = NotebookClient(
            nbformat.v4.new_notebook(), kernel_name="this", timeout=None, allow_errors=True,
            resources={"metadata": {"path": str(folder)}},
        )  # fmt: skip
        own = {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        others = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        async with client.async_setup_kernel(env={**others, **own, **environment}):
            yield Kernel(client)

    return begin
