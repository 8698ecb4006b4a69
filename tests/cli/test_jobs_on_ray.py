"""Jobs on a cluster with a dashboard: submitted, followed, stopped in mid-epoch, and submitted again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import raylight

from .conftest import PROGRAMS, RAYLIGHT

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(280)]
ROOT = str(Path(raylight.__file__).parents[1])
Command = Callable[..., "subprocess.CompletedProcess[str]"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(wait_until: Any) -> Iterator[tuple[str, Path]]:
    """A cluster of two CPUs that wants the token "right-token": its dashboard's address, and its folder."""
    folder = tempfile.mkdtemp(prefix="raylight-", dir="/tmp")  # paths of Unix sockets must be short
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PL_"))},
        "HOME": folder,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": ROOT,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "right-token",
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_JOB_STOP_WAIT_TIME_S": "20",  # a machine of two cores, shared with others
    }
    command = ["ray", "start", "--head", "--block", "--port=0", "--num-cpus=2", f"--dashboard-port={port}"]
    command.append(f"--dashboard-agent-listen-port={free_port()}")
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as head:
        try:

            def answers() -> bool:
                assert head.poll() is None
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api/version", timeout=5)
                except urllib.error.HTTPError as error:  # it wants a token
                    return error.code == 401
                except OSError:
                    return False
                return True

            wait_until(answers, 60)
            yield f"http://127.0.0.1:{port}", Path(folder)
        finally:
            head.terminate()
            head.wait(30)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def address(cluster: tuple[str, Path]) -> str:
    return cluster[0]


@pytest.fixture
def environment(address: str, tmp_path: Path) -> dict[str, str]:
    """Of a user who has the token."""
    shutil.copy(PROGRAMS / "submitted.py", tmp_path / "train.py")
    others = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PL_"))}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "right-token"}
    return {**others, **token, "HOME": str(tmp_path), "PYTHONPATH": ROOT, "RAY_API_SERVER_ADDRESS": address}


@pytest.fixture
def command(environment: dict[str, str], tmp_path: Path) -> Command:
    """``command(*arguments, **variables)``: the command ``raylight`` in ``tmp_path``."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "-c", RAYLIGHT, *arguments]
        return subprocess.run(
            call, cwd=tmp_path, env={**environment, **variables}, capture_output=True, text=True, timeout=120
        )

    return run


def steps(report: Path) -> list[int]:
    file = report.with_suffix(".steps")
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def test_a_stopped_run_goes_on_where_it_was(command: Command, tmp_path: Path, wait_until: Any) -> None:
    def submit(run_id: str, *more: str, pace: float = 0.0) -> subprocess.CompletedProcess[str]:
        file = tmp_path / f"{run_id}.env"
        values = f"REPORT={tmp_path / run_id}.json\nMY_TOKEN='hidden-treasure'\nSECONDS_PER_STEP={pace}\n"
        file.write_text(f"# where to\n{values}")
        options = ["--workers", "2", "--storage", str(tmp_path / "runs"), "--env-file", str(file), "--run-id", run_id]
        return command("submit", "train.py", *options, *more)

    whole = submit("whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "Epoch 3/3" in whole.stdout
    assert "run whole: succeeded" in whole.stdout
    assert "hidden-treasure" not in whole.stdout + whole.stderr
    expected = json.loads((tmp_path / "whole.json").read_text())
    assert (expected["steps"], expected["workers"], expected["secret"]) == (240, 2, "hidden-treasure")
    assert expected["log_dir"] == str(tmp_path / "runs/whole/lightning_logs/version_0")

    part = tmp_path / "part.json"
    begun = submit("part", "--no-follow", pace=0.2)
    assert begun.returncode == 0, begun.stderr
    assert "raylight stop part" in begun.stdout
    wait_until(lambda: len(steps(part)) > 70, 90)
    again = submit("part")
    assert again.returncode == 2
    assert "Run part is under way, as part-1 (running)" in again.stderr
    stopped = command("stop", "part")
    assert (stopped.returncode, stopped.stdout) == (0, "part-1: stopped\n")
    done = len(steps(part))
    assert 70 < done < 240

    rest = submit("part")
    assert rest.returncode == 0, rest.stdout + rest.stderr
    assert "submission 2 goes on" in rest.stdout
    assert steps(part) == list(range(240))
    assert json.loads(part.read_text())["weights"] == expected["weights"]
    assert os.listdir(tmp_path / "runs/part/lightning_logs") == ["version_0"]

    third = submit("part")
    assert third.returncode == 0
    assert "this fit has been trained, and is loaded" in third.stdout
    assert steps(part) == list(range(240))
    assert json.loads(part.read_text())["weights"] == expected["weights"]

    table = command("status").stdout
    assert [line.split()[:3] for line in table.splitlines()[1:]] == [
        ["whole", "whole-1", "SUCCEEDED"],
        ["part", "part-1", "STOPPED"],
        ["part", "part-2", "SUCCEEDED"],
        ["part", "part-3", "SUCCEEDED"],
    ]
    assert "SIGTERM: stopping after this batch" in command("logs", "part-1").stdout
    assert command("logs", "part-1", "--follow").returncode == 143


def test_exit_statuses_and_ctrl_c(
    command: Command, environment: dict[str, str], tmp_path: Path, wait_until: Any
) -> None:
    (tmp_path / "e.env").write_text(f"REPORT={tmp_path / 'ctrl.json'}\nSECONDS_PER_STEP=0.3\n")
    failed = command("submit", "train.py", "fails", "--env-file", "e.env", "--run-id", "failing")
    assert failed.returncode == 7
    assert "run failing: failed: Job entrypoint command failed with exit code 7" in failed.stderr
    assert "exit status: 7" in command("status", "failing").stdout

    options = ["--workers", "1", "--env-file", "e.env", "--run-id", "ctrl"]
    call = [sys.executable, "-c", RAYLIGHT, "submit", "train.py", *options]
    with subprocess.Popen(call, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as following:
        try:
            wait_until(lambda: len(steps(tmp_path / "ctrl.json")) > 5, 60)
            following.send_signal(signal.SIGINT)
            _, told = following.communicate(timeout=20)
        finally:
            following.kill()
    assert following.returncode == 130
    assert "raylight stop ctrl" in told
    assert "status:      RUNNING" in command("status", "ctrl").stdout
    assert command("stop", "ctrl").returncode == 0


def test_who_is_not_let_in(command: Command, address: str) -> None:
    for token in ("", "wrong-token"):
        told = command("status", RAY_AUTH_TOKEN=token, RAY_AUTH_MODE="token" if token else "disabled")
        assert told.returncode == 2
        assert f"{address} wants a token" in told.stderr
        assert "export RAY_AUTH_MODE=token" in told.stderr
    assert "There is no run or job 'nix'" in command("logs", "nix").stderr


def test_a_trainer_is_not_let_in(
    cluster: tuple[str, Path], environment: dict[str, str], tmp_path: Path, wait_until: Any
) -> None:
    address_file = cluster[1] / "ray/ray_current_cluster"
    wait_until(address_file.exists, 30)  # the dashboard answers before
    gcs = address_file.read_text().strip()
    script = "import raylight as pl; from raylight.demos.boring_classes import BoringModel;"
    script += "pl.Trainer(num_workers=1, logger=False).fit(BoringModel())"
    other = f"The cluster at {gcs} asks for its token, and the token that was sent is not its own"
    for token, reason in (("", "RAY_AUTH_MODE is token, but there is no token"), ("wrong-token", other)):
        told = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=100,
            env={**environment, "RAY_ADDRESS": gcs, "RAY_AUTH_TOKEN": token},
        )  # fmt: skip
        assert told.returncode == 1
        assert f"ClusterError: {reason}" in told.stderr
        assert "export RAY_AUTH_TOKEN=" in told.stderr
