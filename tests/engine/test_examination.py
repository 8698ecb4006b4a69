"""The examination of the session's cluster, and of one that does not answer."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from raylight.engine import examination, examiner


def living() -> set[str]:
    """Ids of the cluster's actors."""
    from ray._private.state import actors

    return {name for name, entry in actors().items() if entry["State"] != "DEAD"}


@pytest.mark.ray
def test_the_sessions_cluster(ray_cluster: str, tmp_path: Path, wait_until: Callable[..., None]) -> None:

    before = living()
    findings = {each.subject: each for each in examination.examine(str(tmp_path), 60)}
    assert list(findings) == [
        "nodes", "versions", "CUDA", "open files", "processes", "shared memory", "GPUs", "clocks", "storage", "network",
        "resources",
    ]  # fmt: skip
    assert findings["nodes"].what.startswith("1 alive: ")
    assert findings["versions"].what.endswith("the same on this machine and the one node")
    assert findings["GPUs"].what == "none in the cluster"
    assert findings["storage"].what == f"{tmp_path} is the same on the one node"
    assert "gloo over 2 processes of" in findings["network"].what
    assert {each.level for each in findings.values()} <= {"ok", "warning"}
    assert os.listdir(tmp_path) == []
    wait_until(lambda: living() <= before)


def test_a_folder_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert list(examination._examine_storage("~/runs", [], 1)) == []
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["home", "home/runs"]


def test_what_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens, and says nothing."""
    monkeypatch.setattr(examiner, "GRACE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        (finding,) = examiner.examine_cluster(address, str(tmp_path), 0.5, {})
    assert finding.level == "problem"
    assert "Ray gave no answer within 1 s, while" in finding.what
    assert "ray status" in finding.remedy
