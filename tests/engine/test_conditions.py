"""What is told of reports: real ones of this machine, and what they would be on others."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from raylight.engine import conditions, probe
from raylight.engine.conditions import HERE
from raylight.utilities.findings import Finding


@pytest.fixture(scope="module")
def here() -> dict[str, Any]:
    report = probe.report()
    report.update(open_files=(1 << 20, 1 << 20), processes=(1 << 20, 1 << 20), shm=(1 << 36, 1 << 36))
    report["cuda"] = {"built": "13.0", "count": 2, "has_device": True}
    return report


def there(here: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A node's report like this one, but for changes."""
    report = copy.deepcopy(here)
    for name, value in changes.items():
        report[name] = {**report[name], **value} if isinstance(value, dict) else value
    return report


def bad(reports: dict[str, Any], **stores: float) -> list[Finding]:
    return [each for each in conditions.examine_machines(reports, stores) if each.level != "ok"]


def test_equal_machines(here: dict[str, Any]) -> None:
    assert not bad({HERE: here, "a": there(here), "b": there(here)})
    told = conditions.examine_versions({HERE: here, "a": there(here), "b": there(here)}).what
    assert told.startswith("python 3.")
    assert told.endswith("the same on this machine and all 2 nodes")


@pytest.mark.parametrize(("package", "level"), [("torch", "problem"), ("python", "problem"), ("pyarrow", "warning")])
def test_other_versions(here: dict[str, Any], package: str, level: str) -> None:
    (finding,) = bad({HERE: here, "a": there(here), "b": there(here, versions={package: "0.1"})})
    assert (finding.level, finding.subject) == (level, "versions")
    assert finding.what == f"{package} is {here['versions'][package]} on this machine, a, 0.1 on b"


def test_a_package_that_is_missing(here: dict[str, Any]) -> None:
    broken = there(here, versions={"raylight": None})
    broken["errors"] = {"raylight": "ModuleNotFoundError: No module named 'raylight'"}
    imported, versions = bad({HERE: here, "a": broken})
    assert imported.what == "It cannot be imported on a: ModuleNotFoundError: No module named 'raylight'."
    assert versions.what.endswith("on this machine, missing on a")
    assert imported.level == versions.level == "problem"


@pytest.mark.parametrize(("built", "remedy"), [(None, "without +cpu"), ("13.0", "CUDA_VISIBLE_DEVICES")])
def test_gpus_that_torch_does_not_see(here: dict[str, Any], built: str | None, remedy: str) -> None:
    (finding,) = bad({HERE: here, "a": there(here, cuda={"built": built, "count": 0})})
    assert (finding.level, finding.subject) == ("problem", "CUDA")
    assert "on a," in finding.what
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("counted", "level", "told"),
    [
        ({"a": 2.0, "b": 2.0}, "ok", "4, by Ray's count and by torch's"),
        ({"a": 3.0, "b": 2.0}, "problem", "a: 3 by Ray, 2 by torch"),
        ({"a": 2.0}, "warning", "b: 0 by Ray, 2 by torch"),
    ],
)
def test_gpus_by_rays_count(here: dict[str, Any], counted: dict[str, float], level: str, told: str) -> None:
    finding = conditions.examine_gpus({"a": here, "b": here}, counted)
    assert finding.level == level
    assert told in finding.what


def test_limits(here: dict[str, Any]) -> None:
    """A driver may have as much as it may ask for, a node's worker what it was given."""
    low = {"open_files": (1024, 1 << 20), "processes": (4096, 4096)}
    assert [each.subject for each in bad({HERE: there(here, **low)})] == ["processes"]
    files, processes = bad({HERE: here, "a": there(here, **low)})
    assert files.what == "The limit is 1,024 on a; 65,536 are recommended."
    assert "`ulimit -n 65536` before `ray start`" in files.remedy
    assert "ulimit -u 16384" in processes.remedy
    assert not bad({HERE: there(here, open_files=(-1, -1))})  # no limit


def test_shared_memory(here: dict[str, Any]) -> None:
    small = there(here, shm=(1 << 32, 1 << 32))
    (finding,) = bad({HERE: here, "a": small}, a=2.0**33)
    assert "smaller than Ray's object store on a" in finding.what
    assert not bad({HERE: here, "a": small}, a=2.0**31)
    (finding,) = bad({HERE: here, "a": there(here, shm=(1 << 26, 1 << 26))})
    assert "--shm-size" in finding.remedy
    assert not bad({HERE: there(here, shm=None)})


def test_clocks() -> None:
    assert conditions.examine_clocks({"a": (0.2, 0.01), "b": (-5.0, 4.5)}).level == "ok"  # b may be right
    finding = conditions.examine_clocks({"a": (0.2, 0.01), "b": (-5.0, 0.1)})
    assert finding.level == "warning"
    assert "-5.0 s on b." in finding.what


def test_storage() -> None:
    assert conditions.examine_storage("/x", {"a": True, "b": True}, True).what == "/x is the same on all 2 nodes"
    apart = conditions.examine_storage("/x", {"a": True, "b": False}, True)
    assert apart.level == "ok"
    assert "not shared with b" in apart.what
    assert conditions.examine_storage("s3://x", {"a": True, "b": False}, False).level == "problem"


def test_network() -> None:
    assert conditions.examine_network("gloo", "2 nodes", 0.0002, 1.5e9).what == (
        "gloo over 2 nodes: round trip 0.20 ms, 1.50 GB/s"
    )
    slow = conditions.examine_network("nccl", "2 nodes", 0.0002, 50e6)
    assert slow.level == "warning"
    assert "NCCL_SOCKET_IFNAME" in slow.remedy
    assert "take 4.0 s" in slow.what
