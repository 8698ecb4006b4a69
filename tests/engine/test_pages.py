"""What one sees of a run in a browser and in Prometheus: Ray's dashboard, Ray's metrics, TensorBoard."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import raylight as pl

pytest.importorskip("prometheus_client", reason="Ray's metrics and dashboard need pip install 'ray[default]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PROGRAM = Path(__file__).parent / "programs" / "seen_fit.py"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1600,1000",
    "--virtual-time-budget=20000",
]
METRICS = ["step_seconds", "samples_total", "data_wait_seconds", "loss", "memory_bytes"]
SECONDS_TO_REACH_PROMETHEUS = 120.0
"""Workers hand their metrics to the node's agent every ten seconds."""


@dataclass
class Seen:
    """A run at work on a cluster of its own."""

    folder: Path
    """Where it runs."""
    dashboard: str
    metrics: str


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, wait_until: Any) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("run")
    temporary = tempfile.mkdtemp(prefix="raylight-", dir="/tmp")  # paths of Unix sockets must be short
    dashboard, metrics = free_port(), free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PL_"))}
    settings = {
        "HOME": str(folder),
        "RAY_TMPDIR": temporary,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment = {**inherited, **settings, "PYTHONPATH": str(Path(pl.__file__).parents[1])}
    ray = str(Path(sys.executable).with_name("ray"))
    command = [ray, "start", "--head", "--block", "--port=0", "--num-cpus=2", "--include-dashboard=true"]
    command += [f"--dashboard-port={dashboard}", f"--metrics-export-port={metrics}"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as head:
        try:
            address = Path(temporary, "ray", "ray_current_cluster")
            wait_until(lambda: address.exists() or head.poll() is not None, 60)
            environment["RAY_ADDRESS"] = address.read_text().strip()  # there may be other clusters on this machine
            with subprocess.Popen([sys.executable, str(PROGRAM)], env=environment, cwd=folder) as run:
                try:
                    wait_until(lambda: list(folder.rglob("events.out.tfevents.*")) or run.poll() is not None, 60)
                    assert run.poll() is None
                    yield Seen(folder, f"http://127.0.0.1:{dashboard}", f"http://127.0.0.1:{metrics}/metrics")
                    (folder / "over").touch()
                    assert run.wait(60) == 0
                finally:
                    run.kill()
        finally:
            head.terminate()
            head.wait(30)
            shutil.rmtree(temporary, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def page(url: str) -> str:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())
    return ""


def browse(url: str, folder: Path, name: str) -> str:
    """The page as a browser has built it up; a screenshot of it is left in ``folder``."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}"]
    picture = f"--screenshot={folder / name}.png"
    subprocess.run([*command, picture, url], check=True, capture_output=True, timeout=120)
    built = subprocess.run([*command, "--dump-dom", url], check=True, capture_output=True, text=True, timeout=120)
    return built.stdout


def samples_of(text: str, metric: str) -> dict[str, tuple[dict[str, str], float]]:
    """By rank: the labels and the value of a metric on a page of Prometheus's."""
    found = {}
    for labels, value in re.findall(rf"^ray_raylight_{metric}{{(.*)}} (\S+)$", text, re.MULTILINE):
        named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        found[named["rank"]] = named, float(value)
    return found


def test_prometheus_is_served_gauges_of_each_rank(seen: Seen, wait_until: Any) -> None:
    def both_ranks() -> str:
        text = page(seen.metrics)
        return text if all(sorted(samples_of(text, metric)) == ["0", "1"] for metric in METRICS) else ""

    text = wait_until(both_ranks, SECONDS_TO_REACH_PROMETHEUS)
    runs = set()
    for metric in METRICS:
        values = samples_of(text, metric)
        runs |= {(labels["run"], labels["node"]) for labels, _ in values.values()}
        assert all(value > 0 for _, value in values.values()), metric
    ((run, node),) = runs
    assert run.startswith("seen_fit-")
    assert re.fullmatch(r"[\d.]+", node)
    waits, steps = samples_of(text, "data_wait_seconds"), samples_of(text, "step_seconds")
    assert 0.05 <= waits["1"][1] <= steps["1"][1]
    assert waits["0"][1] < waits["1"][1]
    before = samples_of(text, "samples_total")["0"][1]
    wait_until(lambda: samples_of(page(seen.metrics), "samples_total")["0"][1] > before, 30)


@needs_chromium
def test_the_dashboard_names_the_runs_processes(seen: Seen, tmp_path: Path) -> None:
    shown = browse(f"{seen.dashboard}/#/actors", tmp_path, "actors")
    assert re.search(r"raylight:seen_fit-[0-9a-f]{4}:worker0", shown)
    assert re.search(r"raylight:seen_fit-[0-9a-f]{4}:worker1", shown)
    assert (tmp_path / "actors.png").stat().st_size > 10_000


@needs_chromium
def test_tensorboard_shows_the_runs_scalars(seen: Seen, tmp_path: Path, wait_until: Any) -> None:
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={seen.folder / 'lightning_logs'}", f"--port={port}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as tensorboard:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: "train_loss" in page(f"{url}/data/plugin/timeseries/tags"), 60)
            shown = browse(f"{url}/#timeseries", tmp_path, "tensorboard")
        finally:
            tensorboard.terminate()
            tensorboard.wait(30)
    assert "version_0" in shown
    assert "train_loss" in shown
    assert (tmp_path / "tensorboard.png").stat().st_size > 10_000
