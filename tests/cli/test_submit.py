"""``raylight submit``, up to the cluster: what is sent, and what is refused before."""

from __future__ import annotations

import argparse
import json
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import requests
from ray._private import ray_constants
from ray._private.runtime_env import packaging

from raylight.cli import job_client, job_files, jobs, submit
from raylight.cli.main import main
from raylight.utilities.exceptions import ClusterError, MisconfigurationException


@pytest.fixture(autouse=True)
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in job_client.ADDRESS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("print('hello')\n")


@pytest.fixture
def dashboard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that answers every question with the status and JSON of the test's ``answer`` mark; its address."""
    status, content = request.param

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *args: object) -> None:
            """Nothing is printed."""

    server = HTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def job(*arguments: str) -> dict[str, Any]:
    options, scripts = submit._parse(submit._parser(), arguments)
    return submit._job(options, scripts)


def refusal(*arguments: str) -> str:
    with pytest.raises(MisconfigurationException) as refused:
        job(*arguments)
    return str(refused.value)


def test_what_is_sent(tmp_path: Path) -> None:
    Path("e.env").write_text("A=1\n")
    sent = job(
        "--gpus", "4", "train.py", "--epochs", "5", "--run-id", "x", "a b", "--env-file", "e.env", "--", "--gpus", "9"
    )
    assert sent["runtime_env"] == {"working_dir": str(tmp_path), "env_vars": {"A": "1"}}
    assert sent["metadata"] == {"raylight_run_id": "x"}
    assert shlex.split(str(sent["entrypoint"])) == [
        "exec", "env", "RAYLIGHT_RUN_ID=x", "RAYLIGHT_LAUNCHER=ray", "PL_TRAINER_DEVICES=4",
        "PL_TRAINER_ACCELERATOR=gpu", "python", "-m", "raylight", "run", "train.py",
        "--epochs", "5", "a b", "--gpus", "9",
    ]  # fmt: skip


def test_on_cpus_with_storage() -> None:
    words = shlex.split(
        str(job("train.py", "--workers", "2", "--storage", "s3://b/runs", "--run-id", "x")["entrypoint"])
    )
    assert {"PL_TRAINER_DEVICES=2", "PL_TRAINER_ACCELERATOR=cpu", "RAYLIGHT_STORAGE=s3://b/runs"} <= set(words)


def test_a_new_run_is_named_after_its_script() -> None:
    options, _ = submit._parse(submit._parser(), ["folder/my model.py"])
    assert options.run_id.startswith("my-model-20")
    assert options.follow


def test_the_launcher_of_an_env_file_counts() -> None:
    Path("e.env").write_text("RAYLIGHT_LAUNCHER=local\n")
    assert "RAYLIGHT_LAUNCHER" not in str(job("train.py", "--env-file", "e.env")["entrypoint"])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere.py"], "There is no script 'nowhere.py'"),
        (["train.py", "--working-dir", "nowhere"], "--working-dir nowhere is not a folder"),
        (["train.py", "--run-id", "../x"], "The run id '../x' must be of letters"),
        (["train.py", "--storage", "runs"], "--storage runs is relative"),
        (["train.py", "--env-file", "nowhere"], "--env-file nowhere cannot be read: No such file"),
    ],
)
def test_bad_input(arguments: list[str], reason: str) -> None:
    assert reason in refusal(*arguments)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "give a script"),
        (["--adress", "x", "train.py"], "unknown option --adress"),
        (["train.py", "--gpus", "0"], "0 is less than 1"),
        (["train.py", "--gpus", "1", "--workers", "1"], "not allowed with"),
    ],
)
def test_bad_options(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["submit", *arguments])
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


def test_a_script_elsewhere(tmp_path: Path) -> None:
    Path("sub").mkdir()
    assert f"give --working-dir {tmp_path}," in refusal("train.py", "--working-dir", "sub")
    Path("sub/inner.py").touch()
    assert "raylight run sub/inner.py" in str(job("sub/inner.py")["entrypoint"])
    there = refusal("inner.py", "--working-dir", "sub")
    assert there == "There is no script 'inner.py'. It is in --working-dir: give sub/inner.py."
    assert refusal("nowhere.py", "--working-dir", "sub") == "There is no script 'nowhere.py'."


def test_an_ignored_script() -> None:
    Path(".gitignore").write_text("*.py\n")
    assert "leaves it out" in refusal("train.py")


def test_a_folder_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"data": 3, "ignored": 5, "more": 1, ".venv": 9}.items():
        Path(name).mkdir()
        with Path(name, "file").open("wb") as file:
            file.truncate(size * 30 * 2**20)  # without content on the disk
    Path(".rayignore").write_text("ignored\n")
    told = "has 120 MiB, and Ray takes less than 100 MiB with a job. The largest in it: data (90 MiB), more (30 MiB)"
    assert told in refusal("train.py")
    Path(".gitignore").write_text("data\n")
    assert job("train.py")


def test_the_size_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of Ray's zip archive, but for its end; names count, as there may be many of them."""
    for number in range(50):
        Path(f"part-{number}").mkdir()
        Path(f"part-{number % 25}/{number}.txt").write_text("ü")
    Path("nowhere").symlink_to("gone")  # which Ray leaves out
    package = tmp_path.parent / "package.zip"
    packaging.create_package(str(tmp_path), package, include_gitignore=True)
    size = package.stat().st_size
    monkeypatch.setattr(ray_constants, "DASHBOARD_CLIENT_MAX_SIZE", size + 100)
    assert job("train.py")
    monkeypatch.setattr(ray_constants, "DASHBOARD_CLIENT_MAX_SIZE", size - 100)
    assert "and Ray takes less than" in refusal("train.py")


def test_env_files(tmp_path: Path) -> None:
    file = tmp_path / "e.env"
    file.write_text("\n# a comment\nA = 1\nexport B='two words'\nC=a=b#c\nD=\n")
    assert job_files.read_env_file(str(file)) == {"A": "1", "B": "two words", "C": "a=b#c", "D": ""}
    for line in ("my hidden-treasure", "1A=hidden-treasure", "=hidden-treasure"):
        file.write_text(f"A=1\n{line}\n")
        with pytest.raises(MisconfigurationException, match="line 2: expected KEY=VALUE") as refused:
            job_files.read_env_file(str(file))
        assert "hidden-treasure" not in str(refused.value)


def test_a_run_id_in_an_env_file() -> None:
    Path("e.env").write_text("RAYLIGHT_RUN_ID=x\nA=1\n")
    sent = job("train.py", "--env-file", "e.env")
    assert "RAYLIGHT_RUN_ID=x" in shlex.split(str(sent["entrypoint"]))
    assert sent["metadata"] == {"raylight_run_id": "x"}
    assert sent["runtime_env"]["env_vars"] == {"A": "1"}
    assert "sets RAYLIGHT_RUN_ID, and so does an option" in refusal("train.py", "--env-file", "e.env", "--run-id", "x")
    Path("e.env").write_text("RAYLIGHT_RUN_ID=../x\n")
    assert "The run id '../x' must be of letters" in refusal("train.py", "--env-file", "e.env")
    Path("e.env").write_text("RAYLIGHT_RUN_ID=\n")
    assert str(job("train.py", "--env-file", "e.env")["metadata"]).startswith("{'raylight_run_id': 'train-20")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("ray://head:10001", "is a Ray Client address; .* --address http://head:8265"),
        ("head:6379", "address of the cluster's GCS, .* --address http://head:8265"),
        ("ftp://head", "is no HTTP address"),
    ],
)
def test_addresses_of_another_kind(address: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterError, match=f"--address {address} {reason}" if "GCS" not in reason else reason):
        job_client.choose_address(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match="RAY_ADDRESS"):
        job_client.choose_address(None)


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert job_client.choose_address(None) == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://one:8265/")
    assert job_client.choose_address(None) == "http://one:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://two")
    assert job_client.choose_address(None) == "https://two"
    assert job_client.choose_address("http://three") == "http://three"


def test_nothing_listens(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert main(["submit", "train.py", "--address", "http://127.0.0.1:9"]) == 2
    assert "There is no dashboard of Ray at http://127.0.0.1:9" in capsys.readouterr().err
    assert main(["status", "--address", "http://127.0.0.1:9"]) == 2


@pytest.mark.parametrize("dashboard", [(401, "no token"), (403, "wrong token")], indirect=True)
def test_no_token(dashboard: str) -> None:
    with pytest.raises(ClusterError, match=r"wants a token(.|\n)*RAY_AUTH_MODE=token\n.*RAY_AUTH_TOKEN="):
        job_client.connect(dashboard)


@pytest.mark.parametrize("dashboard", [(404, ""), (200, "<html>")], indirect=True)
def test_another_server(dashboard: str) -> None:
    with pytest.raises(ClusterError, match="not as Ray's dashboard does|There is no dashboard"):
        job_client.connect(dashboard)


@pytest.mark.parametrize("dashboard", [(200, json.dumps({"ray_version": "2.9.0"}))], indirect=True)
def test_an_older_cluster(dashboard: str) -> None:
    with pytest.raises(ClusterError, match=rf"runs Ray 2.9.0, here is {ray.__version__}; raylight needs 2.52"):
        job_client.connect(dashboard)


@pytest.mark.parametrize("dashboard", [(200, json.dumps({"ray_version": "2.99.0"}))], indirect=True)
def test_another_version_is_told(dashboard: str, caplog: pytest.LogCaptureFixture) -> None:
    job_client.connect(dashboard)
    assert "The cluster runs Ray 2.99.0" in caplog.text


def test_a_bar_stays_in_its_place(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "start\n\x1b[KEpoch 0 1/2\n\x1b[KEpoch 0 2/2\n", "en", "d\n"
    plain = jobs.LogPrinter()
    for text in lines:
        plain.write(text)
    assert capsys.readouterr().out == "start\nEpoch 0 1/2\nEpoch 0 2/2\nend\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    terminal = jobs.LogPrinter()
    for text in lines:
        terminal.write(text)
    terminal.close()
    assert capsys.readouterr().out == "start\n\r\x1b[KEpoch 0 1/2\r\x1b[KEpoch 0 2/2\nend\n"
    assert terminal.count == len("".join(lines))


class Cluster:
    """Stands for Ray's client: a job that runs, with a log that cannot be followed."""

    def __init__(self, state: str = "RUNNING") -> None:
        self.state = state
        self.stopped: list[str] = []

    def get_address(self) -> str:
        return "http://me:hidden-treasure@head:8265"

    def list_jobs(self) -> list[Any]:
        return [self.get_job_info("x-1")]

    def get_job_info(self, submission_id: str) -> Any:
        return SimpleNamespace(
            submission_id=submission_id, job_id=None, metadata={"raylight_run_id": "x"}, start_time=1,
            status=SimpleNamespace(value=self.state),
        )  # fmt: skip

    def stop_job(self, submission_id: str) -> None:
        self.stopped.append(submission_id)

    def tail_job_logs(self, submission_id: str) -> Any:
        raise RuntimeError("closed by http://me:hidden-treasure@head:8265")


@pytest.fixture
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECONDS_BETWEEN_ATTEMPTS", "SECONDS_BETWEEN_LOOKS", "SECONDS_TO_END", "SECONDS_TO_STOP"):
        monkeypatch.setattr(jobs, name, 0.01)


@pytest.mark.usefixtures("_no_patience")
def test_a_lost_connection_is_not_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    address = jobs.address_option("http://me:hidden-treasure@head:8265")
    assert jobs.follow(Cluster(), "x-1", "x", address) == 3
    told = capsys.readouterr().err
    assert "The connection to http://me:<redacted>@head:8265 was lost: closed by" in told
    assert "raylight logs --follow x --address 'http://me:<redacted>@head:8265'" in told
    assert "hidden-treasure" not in told


@pytest.mark.usefixtures("_no_patience")
def test_a_connection_lost_after_the_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def tail(*_: Any) -> None:
        """The log has ended."""

    def get_job_info(*_: Any) -> None:
        raise requests.ConnectionError("refused")

    monkeypatch.setattr(jobs, "_tail", tail)
    monkeypatch.setattr(Cluster, "get_job_info", get_job_info)
    assert jobs.follow(Cluster(), "x-1", "x", "") == 3
    assert (
        "was lost: refused\nThis does not end x. Its log again: raylight logs --follow x\n" in capsys.readouterr().err
    )


@pytest.mark.usefixtures("_no_patience")
def test_a_job_that_takes_long_to_stop(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster()
    assert jobs.stop_job(cluster, argparse.Namespace(id="x", address="http://head")) == 1
    assert cluster.stopped == ["x-1"]
    look = "raylight status x-1 --address http://head"
    assert capsys.readouterr().out == f"x-1 is stopping. Whether it has ended: {look}\n"


def test_a_stop_waits_longer_than_the_cluster_grants() -> None:
    assert jobs.SECONDS_TO_STOP > 60


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://me:a:b@head:8265/x", "http://me:<redacted>@head:8265/x"),
        ("https://:secret@[::1]:8265", "https://:<redacted>@[::1]:8265"),
        ("http://me@head:8265", "http://me@head:8265"),
        ("http://head:8265/x@y", "http://head:8265/x@y"),
    ],
)
def test_passwords_are_not_shown(address: str, shown: str) -> None:
    assert job_client.without_passwords(f"no {address}: gone") == f"no {shown}: gone"


def test_a_refused_address_shows_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["submit", "train.py"], ["status"]):
        assert main([*command, "--address", "http://me:hidden-treasure@127.0.0.1:9"]) == 2
        told = capsys.readouterr()
        assert "There is no dashboard of Ray at http://me:<redacted>@127.0.0.1:9" in told.err
        assert "hidden-treasure" not in told.out + told.err
