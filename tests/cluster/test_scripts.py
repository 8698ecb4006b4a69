"""The shell scripts: what shellcheck says of them, and what they refuse."""

from __future__ import annotations

import socket
import sys
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


def test_a_port_that_is_taken_is_named(files, run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        result = run(files / "local.sh", "start", "2", RAYLIGHT_PORT=port, RAYLIGHT_CLUSTER_DIR=str(tmp_path))
    assert result.returncode == 1
    assert f"port {port} is taken" in result.stderr
    assert "RAYLIGHT_PORT=" in result.stderr


def test_stop_without_a_cluster_says_so_and_touches_nothing(files, run, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("")
    result = run(files / "local.sh", "stop", RAYLIGHT_CLUSTER_DIR=str(tmp_path))
    assert result.returncode == 0
    assert "No cluster runs" in result.stdout
    assert mine.exists()
