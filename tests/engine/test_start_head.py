"""Scripts where a cluster was started from the command line, and where there is none.

Each has its own temporary directory and home, so that it sees nothing of the session's cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import raylight as pl

PROGRAM = Path(__file__).parent / "programs" / "short_fit.py"
pytestmark = pytest.mark.ray


@pytest.fixture
def environment(tmp_path: Path, wait_until: Any) -> Iterator[dict[str, str]]:
    """Of a user who has nothing of Ray's; nothing may be left running in it."""
    folder = tempfile.mkdtemp(prefix="raylight-", dir="/tmp")  # paths of Unix sockets must be short
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PL_"))}
    yield {
        **inherited,
        "HOME": str(tmp_path),
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(Path(pl.__file__).parents[1]),
    }
    wait_until(lambda: not processes_of(folder))
    shutil.rmtree(folder)


def processes_of(folder: str) -> list[psutil.Process]:
    """Ray's own processes that work in ``folder``."""
    return [process for process in psutil.process_iter(["cmdline"]) if folder in str(process.info["cmdline"])]


def run_script(environment: dict[str, str], wait_until: Any) -> tuple[dict[str, Any], set[psutil.Process]]:
    """What the script tells, and the processes that it started."""
    started: set[psutil.Process] = set()
    with subprocess.Popen([sys.executable, str(PROGRAM)], env=environment) as script:

        def over() -> bool:
            with contextlib.suppress(psutil.NoSuchProcess):
                started.update(psutil.Process(script.pid).children(recursive=True))
            return script.poll() is not None

        try:
            wait_until(over, 60)
        finally:
            script.kill()
    assert script.returncode == 0
    return dict(json.loads(Path("report.json").read_text())), started


def workers_below(process: subprocess.Popen[Any]) -> list[str]:
    titles = [" ".join(each.cmdline()) for each in psutil.Process(process.pid).children(recursive=True)]
    return [title for title in titles if title.startswith("ray::WorkerActor")]


@contextlib.contextmanager
def started_head(environment: dict[str, str], wait_until: Any) -> Iterator[tuple[subprocess.Popen[Any], str]]:
    """``ray start --head``: its process, and its address."""
    ray = Path(sys.executable).with_name("ray")
    command = [ray, "start", "--head", "--block", "--port=0", "--num-cpus=2", "--include-dashboard=false"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as head:
        try:
            address_file = Path(environment["RAY_TMPDIR"], "ray", "ray_current_cluster")
            wait_until(lambda: address_file.exists() or head.poll() is not None, 40)
            assert head.poll() is None
            yield head, address_file.read_text().strip()
        finally:
            head.terminate()
            head.wait(30)


def refused(environment: dict[str, str], first: str = "") -> str:
    """What a Trainer's error says where it cannot join a cluster, after this line of Python."""
    command = f"{first}\nfrom raylight.engine.cluster import connect\nconnect()"
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    return done.stderr.partition("raylight.utilities.exceptions.ClusterError: ")[2]


@pytest.mark.slow
def test_a_script_joins_the_cluster_of_ray_start(environment: dict[str, str], wait_until: Any) -> None:
    with started_head(environment, wait_until) as (head, address):
        told, _ = run_script(environment, wait_until)
        assert told == {"global_step": 4, "address": address}
        wait_until(lambda: not workers_below(head))
        assert processes_of(environment["RAY_TMPDIR"])  # the cluster lives on


@pytest.mark.slow
def test_who_may_not_join(environment: dict[str, str], wait_until: Any) -> None:
    """Without the token, with another one, with another version of Ray: at once, and with what to do."""
    own = {**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-of-the-cluster"}
    with started_head(own, wait_until) as (_, address):
        joins = {**environment, "RAY_ADDRESS": address}
        without = refused(joins)
        assert without.startswith(f"The cluster at {address} asks for its token, and RAY_AUTH_MODE is not set here.")
        assert "\n    export RAY_AUTH_MODE=token\n    export RAY_AUTH_TOKEN=" in without
        other = refused({**joins, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another-token-of-nobody"})
        assert "the token that was sent is not its own" in other
        assert "RAY_AUTH_MODE is token, but there is no token" in refused({**joins, "RAY_AUTH_MODE": "token"})
        version = refused({**joins, **own}, "import ray; ray.__version__ = '1.0'")
        assert "This process on" in version
        assert "Ray: 1.0\n" in version
        assert "install here what the cluster has" in version


@pytest.mark.slow
def test_the_cluster_is_killed_while_training(environment: dict[str, str], wait_until: Any, tmp_path: Path) -> None:
    """An error that a script can catch; Ray would end its process after a minute."""
    with started_head(environment, wait_until) as (head, address):
        command = [sys.executable, str(PROGRAM.with_name("endless_fit.py")), "ray", "2"]
        own = {**environment, "RAY_ADDRESS": address}
        with subprocess.Popen(command, env=own, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as script:
            try:
                wait_until((tmp_path / "ready").exists, 60)
                processes = psutil.Process(head.pid).children(recursive=True)
                for process in sorted(processes, key=lambda each: "gcs_server" not in each.name()):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                _, complaints = script.communicate(timeout=58)
            finally:
                script.kill()
    assert script.returncode == 1
    assert "ClusterError: The Ray cluster is gone: " in complaints, complaints[-3000:]


NOWHERE = """
import os
from pathlib import Path
from raylight.engine.cluster import connect
from raylight.utilities.exceptions import ClusterError
def told(address):
    os.environ.pop("RAY_ADDRESS", None)
    if address:
        os.environ["RAY_ADDRESS"] = address
    try:
        connect()
    except ClusterError as error:
        print(error)
nowhere, left_over = os.environ["NOWHERE"], Path(os.environ["RAY_TMPDIR"], "ray", "ray_current_cluster")
told(nowhere)
told("ray://head:10001")
left_over.parent.mkdir()
left_over.write_text(nowhere)
told(None)
"""


def test_where_no_cluster_is(environment: dict[str, str]) -> None:
    """An address where nothing listens, one of Ray Client, and one that a killed cluster has left: at once."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{taken.getsockname()[1]}"
    command, own = [sys.executable, "-c", NOWHERE], {**environment, "NOWHERE": nowhere}
    named, client, found = subprocess.check_output(command, env=own, text=True, timeout=30).splitlines()
    assert named.startswith(f"Nothing answers at {nowhere} (from RAY_ADDRESS)")
    assert "`raylight submit script.py --address http://head:8265`" in client
    assert f"ray_current_cluster names {nowhere}, where nothing answers" in found


def test_a_script_starts_its_own_cluster_and_leaves_nothing(
    environment: dict[str, str], ray_cluster: str, wait_until: Any
) -> None:
    told, started = run_script(environment, wait_until)
    assert told["global_step"] == 4
    assert told["address"] != ray_cluster  # a cluster that another process has for itself
    assert len(started) > 4
    wait_until(lambda: not any(process.is_running() for process in started))


@pytest.mark.slow
def test_absurd_number_of_workers_is_an_error_at_once(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM.with_name("endless_fit.py")), "ray", "3000"]
    told = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert told.returncode == 1
    assert "ResourceError: 3000 workers with 1 CPU each are asked for" in told.stderr


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_one_ray_after_the_other(environment: dict[str, str], tmp_path: Path) -> None:
    """Workers of a Ray that is over are no longer used, and one that the user has started is not ended."""
    command = [sys.executable, str(PROGRAM.with_name("restarted.py"))]
    told = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=220)
    assert told.returncode == 0, told.stderr[-3000:]
    done = json.loads(told.stdout.splitlines()[-1])
    assert done.pop("refused").startswith("2 workers with 2 CPU each are asked for, but the cluster has")
    assert done == {"steps": [2] * 4, "sessions": 4, "jobs": 1, "alive": "alive", "is_users": True}
