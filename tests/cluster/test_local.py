"""``local.sh start``, a script on that cluster, one without the token, and ``stop``."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


@pytest.fixture
def settings() -> Iterator[dict[str, str]]:
    folder = tempfile.mkdtemp(prefix="rl-", dir="/tmp")  # paths of Unix sockets must be short
    yield {
        "RAYLIGHT_PORT": free_port(),
        "RAYLIGHT_DASHBOARD_PORT": free_port(),
        "RAYLIGHT_AGENT_PORT": free_port(),
        "RAYLIGHT_CLUSTER_DIR": folder,
    }
    shutil.rmtree(folder)


def processes_of(folder: str) -> list[dict[str, object]]:
    """What was started for the cluster whose files are there: those have inherited the variable that says so."""
    known = psutil.process_iter(["environ", "pid", "ppid", "status", "cmdline"])
    found = [process.info for process in known if folder in (process.info.pop("environ") or {}).values()]
    return [process for process in found if process["status"] != psutil.STATUS_ZOMBIE]


def test_a_script_trains_on_the_cluster_and_nothing_is_left_of_it(files, run, environment, settings, tmp_path):
    local, home, folder = files / "local.sh", Path(environment["HOME"]), settings["RAYLIGHT_CLUSTER_DIR"]
    try:
        started = run(local, "start", "2", seconds=180, **settings)
        assert started.returncode == 0, started.stderr
        (line,) = [line.strip() for line in started.stdout.splitlines() if line.strip().startswith("export ")]
        variables = dict(word.split("=") for word in line.removeprefix("export ").split())
        assert variables == {"RAY_ADDRESS": f"127.0.0.1:{settings['RAYLIGHT_PORT']}", "RAY_AUTH_MODE": "token"}
        assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600

        # The dashboard is for this machine only; the head's port is for all who have the token.
        dashboard = int(settings["RAYLIGHT_DASHBOARD_PORT"])
        listening = [c.laddr for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert {address.ip for address in listening if address.port == dashboard} == {"127.0.0.1"}

        again = run(local, "start", "2", **settings)
        assert again.returncode == 1
        assert "a cluster runs already" in again.stderr

        status = run(local, "status", seconds=90, **settings)
        assert status.returncode == 0, status.stderr
        assert "/2.0 CPU" in status.stdout

        stranger = tmp_path / "stranger"
        stranger.mkdir()
        for mode in ("disabled", "token"):
            refused = run("ray", "status", **{**variables, "HOME": str(stranger), "RAY_AUTH_MODE": mode}, seconds=90)
            assert refused.returncode != 0
            assert "authentication token" in refused.stderr.lower()
        wrong = run("ray", "status", **variables, RAY_AUTH_TOKEN="0" * 64, seconds=90)
        assert wrong.returncode != 0
        assert "AuthenticationError" in wrong.stderr

        trained = run("python", ROOT / "examples" / "digits.py", "--epochs", "2", seconds=300, **variables)
        assert trained.returncode == 0, trained.stdout + trained.stderr
        accuracy = float(trained.stdout.split("test accuracy")[1].split()[0])
        assert accuracy > 0.5
    finally:
        stopped = run(local, "stop", seconds=90, **settings)
    assert stopped.returncode == 0, stopped.stderr
    assert "The cluster has ended." in stopped.stdout
    assert processes_of(folder) == []
    assert list(Path(folder).iterdir()) == []


def test_a_cluster_whose_leader_was_killed_is_ended_as_well(files, run, settings, wait_until):
    local, folder = files / "local.sh", settings["RAYLIGHT_CLUSTER_DIR"]
    try:
        started = run(local, "start", "1", seconds=180, **settings)
        assert started.returncode == 0, started.stderr
        leader = psutil.Process(int((next(Path(folder).iterdir()) / "pgid").read_text()))
        leader.kill()
        wait_until(lambda: not leader.is_running())  # the others end by and by, by themselves
    finally:
        run(local, "stop", seconds=90, **settings)
    assert processes_of(folder) == []
    assert list(Path(folder).iterdir()) == []
