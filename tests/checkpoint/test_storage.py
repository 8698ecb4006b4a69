import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import fsspec
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem

from raylight.checkpoint import storage
from raylight.utilities.exceptions import MisconfigurationException


@pytest.fixture(params=["path", "file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty place with a name that is awkward in a URI: a local path, the same as a URI, a remote file system."""
    if request.param == "memory":
        root = f"memory://{tmp_path.name}"
        yield f"{root}/my run=50%"
        storage.delete(root)
    else:
        path = tmp_path / "my run=50%"
        yield str(path) if request.param == "path" else path.as_uri()


def write(path: storage.PathOrURI, content: bytes) -> None:
    storage.write_atomic(path, lambda stream: stream.write(content) and None)


def read(path: storage.PathOrURI) -> bytes:
    with storage.open_read(path) as stream:
        return stream.read()


def test_what_is_written_is_read_and_replaced(folder: str) -> None:
    path = storage.join(folder, "new/epoch=3-loss=0.5.ckpt")

    write(path, b"old")
    write(path, b"new")

    assert read(path) == b"new"
    assert storage.list_dir(storage.join(folder, "new")) == ["epoch=3-loss=0.5.ckpt"]


def test_stream_can_be_sought(folder: str) -> None:
    write(storage.join(folder, "file"), b"0123456789")

    with storage.open_read(storage.join(folder, "file")) as stream:
        stream.seek(-3, os.SEEK_END)
        assert stream.read() == b"789"
        stream.seek(2)
        assert stream.read(2) == b"23"


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_failed_write_leaves_the_older_file_and_nothing_else(folder: str, failure: type[BaseException]) -> None:
    path = storage.join(folder, "last.ckpt")
    write(path, b"old")

    def fail(stream: BinaryIO) -> None:
        stream.write(b"half of the n")
        raise failure

    with pytest.raises(failure):
        storage.write_atomic(path, fail)

    assert read(path) == b"old"
    assert storage.list_dir(folder) == ["last.ckpt"]


def test_process_that_dies_while_writing_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write(path, b"old")
    script = (
        "import os, sys\n"
        "from raylight.checkpoint import storage\n"
        "def die(stream):\n"
        "    stream.write(b'half of the n'); stream.flush(); os._exit(9)\n"
        "storage.write_atomic(sys.argv[1], die)\n"
    )

    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == 9

    assert path.read_bytes() == b"old"


def test_folder_in_the_way_stays_and_no_temporary_file_is_left(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").mkdir()

    with pytest.raises(IsADirectoryError):
        write(tmp_path / "last.ckpt", b"new")

    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    write(tmp_path / "last.ckpt", b"")

    assert (tmp_path / "last.ckpt").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_remote_file_that_cannot_be_moved_is_copied() -> None:
    class NoMoves(MemoryFileSystem):  # like S3 above 5 GiB
        protocol = "nomoves"
        store: dict[str, object] = {}
        pseudo_dirs = [""]

        def mv(self, *args: object, **kwargs: object) -> None:
            raise OSError("EntityTooLarge")

    fsspec.register_implementation("nomoves", NoMoves, clobber=True)

    write("nomoves://bucket/last.ckpt", b"content")

    assert read("nomoves://bucket/last.ckpt") == b"content"
    assert storage.list_dir("nomoves://bucket") == ["last.ckpt"]


def test_exists(folder: str) -> None:
    assert not storage.exists(storage.join(folder, "a"))
    write(storage.join(folder, "a"), b"")
    assert storage.exists(storage.join(folder, "a"))
    assert storage.exists(folder)


def test_list_dir_of_a_missing_folder_is_empty(folder: str) -> None:
    assert storage.list_dir(folder) == []


def test_make_dirs_and_names_in_order(folder: str) -> None:
    storage.make_dirs(storage.join(folder, "b", "deeper"))
    storage.make_dirs(storage.join(folder, "b", "deeper"))
    write(storage.join(folder, "c"), b"")
    write(storage.join(folder, "a"), b"")

    assert storage.list_dir(folder) == ["a", "b", "c"]


def test_delete(folder: str) -> None:
    write(storage.join(folder, "file"), b"")
    write(storage.join(folder, "sub", "file"), b"")

    storage.delete(storage.join(folder, "file"))
    storage.delete(storage.join(folder, "sub"))
    storage.delete(storage.join(folder, "sub"))

    assert storage.list_dir(folder) == []


def test_deleting_a_link_keeps_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")

    storage.delete(tmp_path / "link")

    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.parametrize("former", ["nothing", "file", "link", "folder"])
def test_link_replaces_what_was_there(tmp_path: Path, former: str) -> None:
    target, linkpath = tmp_path / "sub" / "new.ckpt", tmp_path / "last.ckpt"
    target.parent.mkdir()
    target.write_text("new")
    other = tmp_path / "other.ckpt"
    other.write_text("other")
    if former == "file":
        linkpath.write_text("old")
    elif former == "link":
        linkpath.symlink_to(other)
    elif former == "folder":
        linkpath.mkdir()
        (linkpath / "shard").touch()
    storage.link(str(target), str(linkpath))
    assert str(linkpath.readlink()) == "sub/new.ckpt"
    assert linkpath.read_text() == "new"
    assert other.read_text() == "other"


def test_no_link_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_text("content")
    storage.link(str(path), str(path))
    assert path.read_text() == "content"
    assert not path.is_symlink()


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As on a machine whose paths are another's, below ``tmp_path / "other"``, but for this folder, which both see."""
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.chdir(folder)
    there = DirFileSystem(str(tmp_path / "other"), LocalFileSystem(auto_mkdir=True))
    storage.use_home(PyFileSystem(FSSpecHandler(there)), os.path.realpath(folder))
    yield folder
    storage.use_home(None)


def test_only_what_is_in_the_shared_folder_is_local(shared: Path, tmp_path: Path) -> None:
    there = tmp_path / "other" / tmp_path.relative_to("/")
    (shared / "out").symlink_to(tmp_path / "scratch")
    for path in (shared / "a", (shared / "b").as_uri(), tmp_path / "scratch" / "c", shared / "out" / "d"):
        storage.write_atomic(path, lambda stream: stream.write(b"x"))
    assert sorted(os.listdir(shared)) == ["a", "b", "out"]
    assert not (tmp_path / "scratch").exists()
    assert [path.name for path in sorted(there.rglob("*")) if path.is_file()] == ["c", "d"]
    assert [storage.is_local(path) for path in (shared, shared / "../shared/a", f"{shared}2", tmp_path, "/")] == [
        True, True, False, False, False,
    ]  # fmt: skip


def test_links_where_a_folder_is_shared(shared: Path, tmp_path: Path) -> None:
    there = tmp_path / "other" / tmp_path.relative_to("/")
    storage.write_atomic(shared / "a", lambda stream: stream.write(b"x"))
    storage.link(str(shared / "a"), str(shared / "last"))
    storage.link(str(shared / "a"), str(tmp_path / "last"))
    assert (shared / "last").is_symlink()
    assert (there / "last").read_bytes() == b"x"


def test_modified_is_the_time_of_writing(tmp_path: Path) -> None:
    write(tmp_path / "a", b"")

    assert storage.modified(tmp_path / "a") == pytest.approx(time.time(), abs=60)


def test_missing_file(folder: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.open_read(storage.join(folder, "a"))
    with pytest.raises(FileNotFoundError):
        storage.modified(storage.join(folder, "a"))


def test_open_read_downloads(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"from the web")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            assert read(f"{url}/a.ckpt") == b"from the web"
            with pytest.raises(FileNotFoundError):
                storage.open_read(f"{url}/b.ckpt")
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("path", "parts", "joined"),
    [
        ("runs", ("a", "b.ckpt"), os.path.join("runs", "a", "b.ckpt")),
        (Path("runs"), (), "runs"),
        ("s3://bucket/runs/", ("a", "b.ckpt"), "s3://bucket/runs/a/b.ckpt"),
        ("s3://bucket", ("a",), "s3://bucket/a"),
        ("s3://bucket/runs?region=eu-west-1", ("a",), "s3://bucket/runs/a?region=eu-west-1"),
        (Path("s3://bucket/runs"), ("a",), "s3://bucket/runs/a"),
        ("hdfs://name:8020", ("a",), "hdfs://name:8020/a"),
    ],
)
def test_join(path: storage.PathOrURI, parts: tuple[str, ...], joined: str) -> None:
    assert storage.join(path, *parts) == joined


@pytest.mark.parametrize(
    ("path", "local"),
    [
        ("runs", True),
        ("/runs", True),
        (Path("/runs"), True),
        ("file:///runs", True),
        ("C:\\runs", True),
        ("s3://bucket/runs", False),
        (Path("s3://bucket/runs"), False),
        ("gs://bucket", False),
    ],
)
def test_is_local(path: storage.PathOrURI, local: bool) -> None:
    assert storage.is_local(path) is local


@pytest.mark.parametrize("name", ["last.ckpt", "a/b..c/d", "val:loss=0.1.ckpt", "...", ".hidden"])
def test_safe_name_accepts(name: str) -> None:
    assert storage.safe_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "..", "../a", "a/../b", "a/..", "..\\a", "/etc/passwd", "\\a", "C:\\a", "C:a", "s3://a/b", "a\0b"]
)
def test_safe_name_refuses(name: str) -> None:
    with pytest.raises(ValueError, match="leave its folder"):
        storage.safe_name(name)


def test_unknown_scheme() -> None:
    with pytest.raises(MisconfigurationException, match="No file system is known for 'nosuch://bucket'"):
        storage.exists("nosuch://bucket/a")


def test_bad_options() -> None:
    with pytest.raises(MisconfigurationException, match="cannot be used"):
        storage.exists("s3://bucket/a?no_such_option=1")


def test_local_files_do_not_import_pyarrow(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from raylight.checkpoint import storage\n"
        "path = storage.join(sys.argv[1], 'a')\n"
        "storage.write_atomic(path, lambda stream: None)\n"
        "storage.open_read(path).close(); storage.list_dir(sys.argv[1]); storage.delete(path)\n"
        "sys.exit('pyarrow' in sys.modules or 'fsspec' in sys.modules)\n"
    )

    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)]).returncode == 0


FULL_DISK = """
import resource, sys, torch
from raylight.checkpoint.io import TorchCheckpointIO
io, way, limit = TorchCheckpointIO(), sys.argv[2], (100_000, 100_000)
with io.in_background(True):
    io.save_checkpoint({"state_dict": {}}, sys.argv[1] + ".small")
if way != "in the other process":
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)  # Python ignores the signal, and write() fails
else:
    resource.prlimit(io._writer._process.pid, resource.RLIMIT_FSIZE, limit)
try:
    with io.in_background(way != "at once"):
        io.save_checkpoint({"state_dict": {"w": torch.ones(10**6)}}, sys.argv[1])
    io.teardown()
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["at once", "at once, as there is no room for a copy", "in the other process"])
def test_full_disk(way: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write(path, b"old")

    told = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), way], capture_output=True, text=True, check=True
    ).stdout

    assert told.startswith("CheckpointNotWrittenError")
    assert f"{path} was not written" in told
    assert "File too large" in told
    assert "Free some space" in told
    assert sorted(os.listdir(tmp_path)) == ["last.ckpt", "last.ckpt.small"]
    assert read(path) == b"old"
