"""Checkpoints that another process writes: what is in them, their order, what fails, and what is left."""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from raylight.checkpoint import format as checkpoint_format
from raylight.checkpoint import migrate
from raylight.checkpoint.background import MOST_BUFFERS
from raylight.checkpoint.io import TorchCheckpointIO
from raylight.utilities.exceptions import CheckpointError, CheckpointNotWrittenError


@pytest.fixture
def io() -> Iterator[TorchCheckpointIO]:
    io, children = TorchCheckpointIO(), psutil.Process().children()
    yield io
    io.teardown()
    assert set(psutil.Process().children()) <= set(children), "beside those of other tests"


def save(io: TorchCheckpointIO, path: Path, value: float = 0.0, wanted: bool | None = True) -> None:
    with io.in_background(wanted):
        io.save_checkpoint({"state_dict": {"w": torch.full((4,), value)}}, path)


def value_in(path: Path) -> float:
    return float(checkpoint_format.load(path)["state_dict"]["w"][0])


@contextlib.contextmanager
def held_up(io: TorchCheckpointIO) -> Iterator[None]:
    """The other process does nothing inside."""
    save(io, Path(os.devnull) / "starts the process")
    writer = io._writer
    assert writer is not None
    io.wait()
    with pytest.raises(CheckpointNotWrittenError):
        writer.raise_failure()
    writer._process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        writer._process.send_signal(signal.SIGCONT)


def test_file_is_the_one_that_is_written_at_once(io: TorchCheckpointIO, tmp_path: Path) -> None:
    weight = torch.randn(1000)
    checkpoint = {
        "state_dict": OrderedDict(w=weight, part=weight[3:5], transposed=torch.randn(3, 4).T),
        "kinds": [torch.ones(3, dtype=torch.bfloat16), torch.empty(0), torch.tensor(1 + 2j), torch.tensor(True)],
        "module": torch.nn.BatchNorm1d(5).state_dict(),
        "text": "x" * 100_000,
    }
    checkpoint_format.save(checkpoint, tmp_path / "a.ckpt")
    with io.in_background(True):
        io.save_checkpoint(checkpoint, tmp_path / "b.ckpt")
    io.wait()
    at_once, later = (zipfile.ZipFile(tmp_path / name) for name in ("a.ckpt", "b.ckpt"))
    with at_once, later:
        assert later.testzip() is None
        described = [
            [(each.filename, each.header_offset, each.CRC) for each in archive.infolist()][:-1]  # torch's random number
            for archive in (at_once, later)
        ]
    assert described[0] == described[1]
    loaded = checkpoint_format.load(tmp_path / "b.ckpt")
    assert loaded["state_dict"]["part"].untyped_storage().nbytes() == weight.nbytes
    assert torch.equal(loaded["state_dict"]["transposed"], checkpoint["state_dict"]["transposed"])  # type: ignore[index]


def test_what_there_was_at_the_call(io: TorchCheckpointIO, tmp_path: Path) -> None:
    weight = torch.ones(4)
    with held_up(io), io.in_background(True):
        io.save_checkpoint({"state_dict": {"w": weight}}, tmp_path / "a.ckpt")
        weight.zero_()
        assert os.listdir(tmp_path) == []
    io.wait()
    assert value_in(tmp_path / "a.ckpt") == 1.0


def test_large_ones_unless_told_otherwise(
    io: TorchCheckpointIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(io, tmp_path / "small.ckpt", wanted=None)
    monkeypatch.setattr("raylight.checkpoint.io.LARGE_BYTES", 15)
    save(io, tmp_path / "never.ckpt", wanted=False)
    assert io._writer is None
    save(io, tmp_path / "large.ckpt", wanted=None)
    assert io._writer is not None


def test_relative_path_is_of_the_moment(io: TorchCheckpointIO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with held_up(io):
        save(io, Path("a.ckpt"))
        monkeypatch.chdir(tmp_path / "elsewhere")
    io.wait()
    assert (tmp_path / "a.ckpt").exists()


def test_two_buffers_are_enough(io: TorchCheckpointIO, tmp_path: Path) -> None:
    with held_up(io):
        resume = threading.Timer(0.2, os.kill, (io._writer._process.pid, signal.SIGCONT))  # type: ignore[union-attr]
        resume.start()
        for number in range(6):
            save(io, tmp_path / f"{number}.ckpt", number)
        resume.join()
    assert len(io._writer._buffers) <= MOST_BUFFERS  # type: ignore[union-attr]
    with io.in_background(True):  # needs more room than they have
        io.save_checkpoint({"state_dict": {"w": torch.full((10_000,), 6.0)}}, tmp_path / "6.ckpt")
    io.wait()
    assert [value_in(tmp_path / f"{number}.ckpt") for number in range(7)] == list(range(7))


def test_memory_is_got_ahead(io: TorchCheckpointIO, tmp_path: Path) -> None:
    asked = iter([None, None, 1000])
    io.make_room(lambda: next(asked))
    io._room._thread.join()  # type: ignore[union-attr]
    buffer = io._room._buffer  # type: ignore[union-attr]
    save(io, tmp_path / "a.ckpt", 2.0)
    assert buffer is not None
    assert io._writer._buffers == [buffer]  # type: ignore[union-attr]
    io.wait()
    assert value_in(tmp_path / "a.ckpt") == 2.0


@pytest.mark.parametrize("size", [None, 0, 2**62], ids=["not known yet", "none needed", "no memory for it"])
def test_no_memory_ahead(io: TorchCheckpointIO, tmp_path: Path, size: int | None) -> None:
    io.make_room(lambda: size)
    save(io, tmp_path / "a.ckpt", 2.0)
    io.wait()
    assert value_in(tmp_path / "a.ckpt") == 2.0
    assert "room-for-checkpoint" not in [thread.name for thread in threading.enumerate()]


def test_old_file_goes_when_the_new_one_is_there(io: TorchCheckpointIO, tmp_path: Path) -> None:
    save(io, tmp_path / "old.ckpt", wanted=False)
    with held_up(io):
        save(io, tmp_path / "new.ckpt")
        io.remove_checkpoint(tmp_path / "old.ckpt")
        assert os.listdir(tmp_path) == ["old.ckpt"]
        expected = {name: io.expects(tmp_path / name) for name in ("old.ckpt", "new.ckpt", "other.ckpt")}
        assert expected == {"old.ckpt": False, "new.ckpt": True, "other.ckpt": None}
    io.wait()
    assert os.listdir(tmp_path) == ["new.ckpt"]
    assert io.expects(tmp_path / "new.ckpt") is None


def test_old_file_stays_where_the_new_one_fails(io: TorchCheckpointIO, tmp_path: Path) -> None:
    save(io, tmp_path / "old.ckpt", wanted=False)
    save(io, tmp_path / "old.ckpt" / "below a file.ckpt")
    io.remove_checkpoint(tmp_path / "old.ckpt")
    io.link_checkpoint(str(tmp_path / "below a file.ckpt"), str(tmp_path / "last.ckpt"))
    with pytest.raises(CheckpointNotWrittenError, match="below a file.ckpt was not written .*FileExistsError"):
        io.teardown()
    assert os.listdir(tmp_path) == ["old.ckpt"]


def test_link_when_its_target_is_there(io: TorchCheckpointIO, tmp_path: Path) -> None:
    with held_up(io):
        save(io, tmp_path / "new.ckpt", 3.0)
        io.link_checkpoint(str(tmp_path / "new.ckpt"), str(tmp_path / "last.ckpt"))
        assert os.listdir(tmp_path) == []
    io.wait()
    assert os.readlink(tmp_path / "last.ckpt") == "new.ckpt"


@pytest.mark.parametrize("wanted", [True, False])
def test_error_at_the_next_save_and_once(io: TorchCheckpointIO, tmp_path: Path, wanted: bool) -> None:
    save(io, Path("/dev/null/a.ckpt"))
    io.wait()
    with pytest.raises(CheckpointNotWrittenError, match=r"/dev/null/a.ckpt was not written .* go on from the last one"):
        save(io, tmp_path / "b.ckpt", wanted=wanted)
    save(io, tmp_path / "b.ckpt", wanted=wanted)
    io.wait()
    assert (tmp_path / "b.ckpt").exists()


def test_process_that_is_killed_is_told_of_and_replaced(io: TorchCheckpointIO, tmp_path: Path) -> None:
    with held_up(io):
        save(io, tmp_path / "a.ckpt")
        io._writer._process.kill()  # type: ignore[union-attr]
        io._writer._process.wait()  # type: ignore[union-attr]
        with pytest.raises(CheckpointError, match="a.ckpt was not written .*has ended, with exit code -9"):
            save(io, tmp_path / "b.ckpt")
        save(io, tmp_path / "b.ckpt", 2.0)
        io.wait()
        assert value_in(tmp_path / "b.ckpt") == 2.0


def test_loading_waits(io: TorchCheckpointIO, tmp_path: Path) -> None:
    for load in (io.load_checkpoint, migrate.load):
        path = tmp_path / f"{load.__name__}.ckpt"
        with held_up(io):
            save(io, path)
            resume = threading.Timer(0.1, os.kill, (io._writer._process.pid, signal.SIGCONT))  # type: ignore[union-attr]
            resume.start()
            assert "state_dict" in load(path)  # type: ignore[operator]
            resume.join()


def test_a_save_at_once_comes_after_what_is_under_way(io: TorchCheckpointIO, tmp_path: Path) -> None:
    for value in range(5):
        save(io, tmp_path / "a.ckpt", value)
    save(io, tmp_path / "a.ckpt", 5.0, wanted=False)
    assert value_in(tmp_path / "a.ckpt") == 5.0


def test_what_another_has_under_way_comes_first(io: TorchCheckpointIO, tmp_path: Path) -> None:
    """Such as the attempt before, of which the cleaning up takes its time."""
    left = TorchCheckpointIO()
    save(left, tmp_path / "b.ckpt", 1.0)
    process = left._writer._process.pid  # type: ignore[union-attr]
    with held_up(left):
        save(left, tmp_path / "a.ckpt", 1.0)
        left.remove_checkpoint(tmp_path / "b.ckpt")
        closing = threading.Thread(target=left.teardown)
        closing.start()
        resume = threading.Timer(0.3, os.kill, (process, signal.SIGCONT))
        resume.start()
        for name in ("a.ckpt", "b.ckpt"):
            save(io, tmp_path / name, 2.0)
        io.wait()
    closing.join()
    assert [value_in(tmp_path / name) for name in ("a.ckpt", "b.ckpt")] == [2.0, 2.0]


def test_subclass_and_copies_do_not_share_the_process(io: TorchCheckpointIO, tmp_path: Path) -> None:
    class Own(TorchCheckpointIO):
        pass

    own = Own()
    save(own, tmp_path / "a.ckpt")
    assert own._writer is None
    save(io, tmp_path / "b.ckpt")
    assert copy.deepcopy(io)._writer is None


KILLED = """
import os, signal, sys, torch
from raylight.checkpoint.io import TorchCheckpointIO
io, folder = TorchCheckpointIO(), sys.argv[1]
def save(name):
    with io.in_background(True):
        io.save_checkpoint({"state_dict": {"w": torch.ones(8 * 2**20)}}, f"{folder}/{name}.ckpt")
save("a")
print(io._writer._process.pid, flush=True)
if sys.argv[2] == "fork" and os.fork() == 0:  # as a DataLoader's worker does, it keeps the channel open
    print(os.getpid(), flush=True)
    signal.pause()
save("b")
io.remove_checkpoint(f"{folder}/a.ckpt")
save("c")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("child", [pytest.param("alone", marks=pytest.mark.slow), "fork"])
def test_training_is_killed(child: str, tmp_path: Path, wait_until: Any) -> None:
    segments = sorted(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else None
    (tmp_path / "files").mkdir()
    with open(tmp_path / "pids", "w+") as pids:
        killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "files"), child], stdout=pids)
        assert killed.returncode == -signal.SIGKILL
        pids.seek(0)
        writer, *forked = map(int, pids.read().split())
    try:
        wait_until(lambda: not running(writer))
    finally:
        for each in forked:
            os.kill(each, signal.SIGKILL)
    assert sorted(os.listdir(tmp_path / "files")) == ["b.ckpt", "c.ckpt"]
    assert [value_in(tmp_path / "files" / name) for name in ("b.ckpt", "c.ckpt")] == [1.0, 1.0]
    assert segments is None or sorted(os.listdir("/dev/shm")) == segments


@pytest.mark.timeout(60)
def test_end_does_not_wait_for_a_forked_child(io: TorchCheckpointIO, tmp_path: Path) -> None:
    """A DataLoader's worker that began after the first save holds the channel as well, and may stay."""
    save(io, tmp_path / "a.ckpt", 2.0)
    child = multiprocessing.get_context("fork").Process(target=signal.pause)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about forking beside threads
        child.start()
    try:
        ended = threading.Thread(target=io.teardown, daemon=True)
        ended.start()
        ended.join(20)
        assert not ended.is_alive()
        assert value_in(tmp_path / "a.ckpt") == 2.0
    finally:
        child.kill()
        child.join()


def running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_start_is_soon_over(io: TorchCheckpointIO, tmp_path: Path) -> None:
    """Training does not wait for a process to start, and that imports no torch."""
    began = time.perf_counter()
    save(io, tmp_path / "a.ckpt")
    returned = time.perf_counter()
    io.wait()
    assert returned - began < time.perf_counter() - returned
    assert io._writer is not None
    memory = psutil.Process(io._writer._process.pid).memory_info().rss
    assert memory < 80 * 2**20
