"""The shell scripts: what shellcheck says of them, and what they refuse."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SHELLCHECK = Path(sys.executable).with_name("shellcheck")


def scripts(files: Path) -> list[Path]:
    return [*files.rglob("*.sh"), *files.rglob("*.sbatch")]


def test_shellcheck_finds_nothing(files, run):
    found = scripts(files)
    assert {path.name for path in found} == {"local.sh", "train.sbatch"}
    result = run(SHELLCHECK, *found)
    assert result.stdout == ""
    assert result.returncode == 0


def test_scripts_stop_at_the_first_failure(files):
    for path in scripts(files):
        assert "\nset -euo pipefail\n" in path.read_text(), path


def test_help_names_every_command(files, run):
    result = run(files / "local.sh", "help")
    assert result.returncode == 0
    for command in ("start", "status", "stop", "head", "worker"):
        assert f"  local.sh {command}" in result.stdout


def test_an_unknown_command_shows_the_help(files, run):
    result = run(files / "local.sh", "begin")
    assert result.returncode == 2
    assert "local.sh start [CPUS]" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["start", "two"], "the number of CPUs is 'two'"),
        (["start", "0"], "the number of CPUs is '0'"),
        (["head", "-1"], "the number of CPUs is '-1'"),
        (["worker"], "where is the head?"),
        (["worker", "10.0.0.1:6379"], "no token. On the head, type 'ray get-auth-token'"),
        (["status"], "no cluster runs"),
    ],
)
def test_a_mistake_is_named(files, run, tmp_path, arguments, message):
    result = run(files / "local.sh", *arguments, RAYLIGHT_CLUSTER_DIR=str(tmp_path))
    assert result.returncode == 1
    assert message in result.stderr


def test_ports_that_are_taken_are_named(files, run, tmp_path):
    variables = ("RAYLIGHT_PORT", "RAYLIGHT_DASHBOARD_PORT", "RAYLIGHT_AGENT_PORT")
    with contextlib.ExitStack() as servers:
        taken = [servers.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in variables]
        ports = dict(zip(variables, map(str, taken), strict=True))
        result = run(files / "local.sh", "start", "2", RAYLIGHT_CLUSTER_DIR=str(tmp_path), **ports)
    assert result.returncode == 1
    for port in taken:
        assert f"port {port} is taken" in result.stderr
    others = " ".join(f"{variable}={port + 1}" for variable, port in zip(variables, taken, strict=True))
    assert f"choose another: {others} {files / 'local.sh'} start" in result.stderr


def test_stop_without_a_cluster_says_so_and_touches_nothing(files, run, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("")
    result = run(files / "local.sh", "stop", RAYLIGHT_CLUSTER_DIR=str(tmp_path))
    assert result.returncode == 0
    assert "No cluster runs" in result.stdout
    assert mine.exists()


@pytest.fixture
def other_ray(tmp_path: Path, environment: dict[str, str]) -> Callable[[str], dict[str, str]]:
    """``other_ray(script)``: the variables with which this script of bash is the command ``ray``."""

    def make(script: str) -> dict[str, str]:
        command = tmp_path / "bin" / "ray"
        command.parent.mkdir()
        command.write_text(f"#!/bin/bash\n{script}\n")
        command.chmod(0o755)
        return {"PATH": f"{command.parent}{os.pathsep}{environment['PATH']}", "RAYLIGHT_CLUSTER_DIR": str(tmp_path)}

    return make


@pytest.fixture
def started(tmp_path: Path) -> Iterator[None]:
    """What ``local.sh`` takes for a cluster that it has started."""
    folder = tmp_path / f"raylight-{os.getuid()}"
    folder.mkdir()
    command = ["bash", "-c", "sleep 60; exit", f"{folder}/"]
    with subprocess.Popen(command, start_new_session=True) as cluster:
        (folder / "pgid").write_text(f"{cluster.pid}\n")
        yield
        os.killpg(cluster.pid, signal.SIGKILL)


def test_status_says_what_ray_says(files, run, other_ray, started):
    result = run(files / "local.sh", "status", **other_ray("echo 2.0 CPU"))
    assert (result.returncode, result.stdout) == (0, "2.0 CPU\n")


def test_status_fails_where_ray_does(files, run, other_ray, started):
    result = run(files / "local.sh", "status", RAYLIGHT_PORT="1234", **other_ray("echo refused >&2; exit 3"))
    assert (result.returncode, result.stdout) == (1, "")
    assert "refused" in result.stderr
    assert "no answer from the cluster at 127.0.0.1:1234" in result.stderr


@pytest.mark.parametrize(("given", "granted"), [({}, "60"), ({"RAY_JOB_STOP_WAIT_TIME_S": "5"}, "5")])
def test_a_job_that_is_stopped_has_time_to_save(files, run, other_ray, given, granted):
    result = run(files / "local.sh", "head", "2", **other_ray('echo "$RAY_JOB_STOP_WAIT_TIME_S"'), **given)
    assert result.stdout.splitlines() == [granted]


@pytest.mark.parametrize(("given", "port"), [({}, "52365"), ({"RAYLIGHT_AGENT_PORT": "1234"}, "1234")])
def test_the_port_of_the_agent(files, run, other_ray, given, port):
    variables = other_ray('echo "$@"')
    wget = Path(variables["PATH"].split(os.pathsep)[0]) / "wget"
    wget.write_text(f'#!/bin/bash\n[[ "$*" == *http://127.0.0.1:{port}/* ]] && echo success\n')
    wget.chmod(0o755)
    for node in (["head", "2"], ["worker", "10.0.0.1:6379", "2"]):
        told = run(files / "local.sh", *node, RAY_AUTH_TOKEN="a", **variables, **given)
        assert f" --dashboard-agent-listen-port={port} " in told.stdout
    assert run(files / "local.sh", "health", **variables, **given).returncode == 0


@pytest.mark.parametrize(("given", "launcher"), [({}, "ray"), ({"RAYLIGHT_LAUNCHER": "local"}, "local")])
def test_slurm_sends_a_trainer_of_one_device_to_ray(files, run, other_ray, given, launcher):
    job = {"SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": str(os.getpid()), "SLURM_CPUS_ON_NODE": "2"}
    variables = other_ray('echo "ray ${RAYLIGHT_LAUNCHER:-unset}"; until [[ $1 == -- ]]; do shift; done; "${@:2}"')
    srun = Path(variables["PATH"].split(os.pathsep)[0]) / "srun"
    srun.write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\n"$@"\n')
    srun.chmod(0o755)
    script = ["bash", "-c", 'echo "script $RAYLIGHT_LAUNCHER"']
    told = run("bash", files / "slurm" / "train.sbatch", *script, RAYLIGHT_VENV="none", **job, **variables, **given)
    assert (told.returncode, told.stdout) == (0, f"ray unset\nscript {launcher}\n"), told.stderr
