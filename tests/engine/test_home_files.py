"""Files of workers that do not see the driver's disk."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from pyarrow.fs import PyFileSystem

from raylight.checkpoint import format as checkpoint_format
from raylight.checkpoint import storage
from raylight.engine import home_files, home_handler
from raylight.engine.home_handler import HomeHandler

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def server(ray_cluster: str) -> Iterator[Any]:
    actor = home_files.start_server()
    yield actor
    ray.kill(actor)


@pytest.fixture
def home(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As in a worker elsewhere: local paths are the server's, whose process has another working directory."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(home_handler, "CHUNK_BYTES", 1000)
    storage.use_home(PyFileSystem(HomeHandler(server, str(folder))))
    yield folder
    storage.use_home(None)


def write(path: str, content: bytes) -> None:
    storage.write_atomic(path, lambda stream: stream.write(content))  # type: ignore[arg-type, return-value]


def test_all_that_is_done_with_files(home: Path) -> None:
    content = bytes(range(256)) * 10  # in several parts
    write("runs/one.bin", content)
    assert (home / "runs" / "one.bin").read_bytes() == content
    assert storage.exists("runs")
    assert storage.exists(home / "runs" / "one.bin")
    assert not storage.exists("runs/two.bin")
    storage.link("runs/one.bin", "runs/last.bin")
    assert storage.list_dir("runs") == ["last.bin", "one.bin"]
    assert storage.list_dir("nowhere") == []
    assert abs(storage.modified("runs/one.bin") - time.time()) < 60
    with storage.open_read("runs/last.bin") as stream:
        assert stream.read() == content
    write("runs/one.bin", b"")
    assert (home / "runs" / "one.bin").read_bytes() == b""
    storage.delete("runs/one.bin")
    storage.delete("runs/one.bin")
    assert storage.list_dir("runs") == ["last.bin"]
    storage.delete("runs")
    storage.make_dirs("a/b")
    assert list(home.rglob("*")) == [home / "a", home / "a" / "b"]
    with pytest.raises(FileNotFoundError, match=r"nowhere\.bin does not exist"):
        storage.open_read("nowhere.bin")


def test_checkpoints(home: Path) -> None:
    checkpoint = {"state_dict": {"weight": torch.arange(1000.0)}, "epoch": 3}
    checkpoint_format.save(checkpoint, "some.ckpt")
    assert not storage.outlives_process("some.ckpt")  # no process of its own could write it
    loaded = checkpoint_format.load("some.ckpt")
    assert torch.equal(loaded["state_dict"]["weight"], torch.arange(1000.0))
    storage.use_home(None)
    assert torch.load(home / "some.ckpt", weights_only=True)["epoch"] == 3


def test_what_a_worker_elsewhere_sees(server: Any, tmp_path: Path) -> None:
    home = home_files.Home(server, str(tmp_path))
    assert home.files() == (None, None)  # the driver's own node
    home._node_id = "another"
    assert home.files() == (PyFileSystem(HomeHandler(server, os.getcwd())), os.path.realpath(tmp_path))
    home.remove_marker()
    assert home.files()[1] is None


def test_errors_are_those_of_the_file_system(home: Path) -> None:
    (home / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write("file/below.bin", b"x")
    assert [path.name for path in home.rglob("*")] == ["file"]
