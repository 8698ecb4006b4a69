"""Checkpoints on S3: moto's server plays it, and a proxy in front of it the network's part."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import random
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import raylight as pl
from raylight.callbacks import ModelCheckpoint
from raylight.checkpoint import format as checkpoint_format
from raylight.checkpoint import storage
from raylight.demos.boring_classes import BoringModel, RandomDataset
from raylight.utilities.exceptions import CheckpointNotWrittenError

HOP_BY_HOP = {"connection", "content-length", "date", "server", "transfer-encoding"}
BUSY = ("500", "503", "reset")
both_ways = pytest.mark.parametrize("async_save", [pytest.param(False, marks=pytest.mark.slow), True])


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def moto(wait_until: Any) -> Iterator[int]:
    """The port of an S3 without any bucket."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def listening() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    try:
        wait_until(listening, 60)
        yield port
    finally:
        server.kill()
        server.wait()


class Proxy(http.server.ThreadingHTTPServer):
    """Hands requests on to the server at ``port``, but for those that its next ``choose_failure`` is for."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.port = port
        self.num_requests = self.num_failures = 0
        self.share_failing = 0.0
        self.fails_after: float = float("inf")
        """Requests."""
        self.kinds = BUSY
        self.seconds_late = 0.0
        self._random = random.Random(1)
        self._lock = threading.Lock()

    def choose_failure(self) -> str | None:
        with self._lock:
            self.num_requests += 1
            if self.num_requests > self.fails_after or self._random.random() < self.share_failing:
                self.num_failures += 1
                return self._random.choice(self.kinds)
        return None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def handle_any(self) -> None:
        body = self._body()
        failure = self.server.choose_failure()
        if failure == "reset":
            self.close_connection = True
        elif failure is not None:
            self._answer(int(failure), [], b"")
        else:
            time.sleep(self.server.seconds_late)  # what a slow network is
            self._hand_on(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while True:
            line = self.rfile.readline()
            body += line
            if int(line.split(b";")[0], 16) == 0:
                break
            body += self.rfile.read(int(line.split(b";")[0], 16) + 2)
        while line != b"\r\n":
            line = self.rfile.readline()
            body += line
        return body

    def _hand_on(self, body: bytes) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server.port)) as connection:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            headers = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP]
            length = response.getheader("Content-Length") if self.command == "HEAD" else None
            self._answer(response.status, headers, response.read(), length)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, length: str | None = None) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def proxy(moto: int) -> Iterator[Proxy]:
    with Proxy(moto) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def root(proxy: Proxy, request: pytest.FixtureRequest) -> str:
    """A folder in a bucket, seen through the proxy."""
    bucket = f"bucket-{abs(hash(request.node.name))}"
    options = f"endpoint_override=127.0.0.1:{proxy.server_port}&scheme=http&region=us-east-1"
    storage.make_dirs(f"s3://{bucket}?{options}&allow_bucket_creation=true")
    return f"s3://{bucket}/run?{options}"


def fit(
    root: str, dirpath: str | None = None, max_epochs: int = 3, async_save: bool = False, ckpt_path: Any = None
) -> Any:
    checkpoint = ModelCheckpoint(dirpath, save_last=True, async_save=async_save)
    trainer = pl.Trainer(
        launcher="local", accelerator="cpu", default_root_dir=root, max_epochs=max_epochs, logger=False,
        callbacks=[checkpoint], enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    model = BoringModel()
    trainer.fit(model, DataLoader(RandomDataset(32, 2)), ckpt_path=ckpt_path)
    assert torch.equal(
        checkpoint_format.load(checkpoint.best_model_path)["state_dict"]["layer.weight"], model.layer.weight
    )
    return checkpoint


def steps(folder: str) -> dict[str, int]:
    """What is in ``folder``, all of it complete checkpoints; and the step of each."""
    names = storage.list_dir(folder)
    return {name: checkpoint_format.load(storage.join(folder, name))["global_step"] for name in names}


@both_ways
def test_root_and_dirpath(root: str, async_save: bool) -> None:
    fit(root, async_save=async_save)
    assert steps(storage.join(root, "checkpoints")) == {"epoch=2-step=6.ckpt": 6, "last.ckpt": 6}
    elsewhere = storage.join(root, "elsewhere")
    checkpoint = fit(root, elsewhere, max_epochs=1, async_save=async_save)
    assert steps(elsewhere) == {"epoch=0-step=2.ckpt": 2, "last.ckpt": 2}
    with pytest.warns(UserWarning, match="is not empty"):
        fit(root, elsewhere, async_save=async_save, ckpt_path=checkpoint.last_model_path)
    assert set(steps(elsewhere).values()) == {6}


@both_ways
def test_every_fifth_request_fails(root: str, proxy: Proxy, async_save: bool) -> None:
    proxy.share_failing = 0.2
    fit(root, async_save=async_save)
    assert proxy.num_failures > 5
    proxy.share_failing = 0.0
    assert steps(storage.join(root, "checkpoints")) == {"epoch=2-step=6.ckpt": 6, "last.ckpt": 6}


@both_ways
@pytest.mark.parametrize(
    ("kind", "said"),
    [("403", "ACCESS_DENIED"), pytest.param("503", "HTTP status 503", marks=pytest.mark.slow)],
)
def test_it_is_gone_for_good(
    root: str, proxy: Proxy, kind: str, said: str, async_save: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "SECONDS_BEFORE_RETRIES", (0.1,))
    folder = storage.join(root, "checkpoints")
    fit(root, max_epochs=1)
    proxy.kinds, proxy.fails_after = (kind,), proxy.num_requests + 20
    monkeypatch.setattr(warnings, "warn", lambda *_, **__: None)  # of a folder with files, of further files that fail
    with pytest.raises(CheckpointNotWrittenError, match=rf"{root[:20]}.*ckpt.* was not written .*{said}"):
        fit(root, folder, max_epochs=30, async_save=async_save)
    proxy.fails_after = float("inf")
    found = steps(folder)
    assert found["epoch=0-step=2.ckpt"] == 2
    assert "last.ckpt" in found


@pytest.mark.slow
def test_an_outage_is_survived(root: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than pyarrow's client tries."""
    monkeypatch.setattr(storage, "SECONDS_BEFORE_RETRIES", (0.1, 0.1))
    path = storage.join(root, "a.ckpt")
    proxy.kinds, proxy.fails_after = ("503",), proxy.num_requests
    calls = []

    def write(stream: Any) -> None:
        calls.append(stream)
        stream.write(b"content")

    def restore() -> None:
        proxy.fails_after = float("inf")

    resume = threading.Timer(6.5, restore)  # pyarrow's client tries for 6 s
    resume.start()
    storage.write_atomic(path, write)
    resume.join()
    assert storage.list_dir(root) == ["a.ckpt"]


@pytest.mark.slow
def test_slow_network(root: str, proxy: Proxy) -> None:
    proxy.seconds_late = 0.3
    fit(root, async_save=True)
    assert steps(storage.join(root, "checkpoints")) == {"epoch=2-step=6.ckpt": 6, "last.ckpt": 6}


def test_error_that_will_not_pass_is_raised_at_once(root: str, proxy: Proxy) -> None:
    proxy.kinds, proxy.fails_after = ("403",), proxy.num_requests
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        storage.write_atomic(storage.join(root, "a.ckpt"), lambda stream: None)
    assert proxy.num_failures <= 3


def test_leftovers(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f".{'0123456789abcdef' * 2}.tmp"
    for each in (name, "a.ckpt", ".own.tmp"):
        storage.write_atomic(storage.join(root, each), lambda stream: None)
    storage.delete_leftovers(root)
    assert storage.list_dir(root) == sorted([name, "a.ckpt", ".own.tmp"])
    monkeypatch.setattr(storage, "SECONDS_UNTIL_STALE", -60.0)
    storage.delete_leftovers(root)
    assert storage.list_dir(root) == [".own.tmp", "a.ckpt"]
