"""Checkpoints that are written in a process of its own, ``raylight.checkpoint.writer``, while this one trains on."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from raylight.checkpoint import format as checkpoint_format
from raylight.checkpoint import storage
from raylight.checkpoint.buffers import Buffer
from raylight.checkpoint.image import FileImage
from raylight.utilities.exceptions import CheckpointError

MOST_BUFFERS = 2
"""Checkpoints in memory at once; a save that finds them all still being written waits for the oldest."""

_START = """
import sys, types
sys.path[:] = {path!r}
for name, folder in {packages!r}.items():  # without their __init__, which import torch
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from raylight.checkpoint.writer import main
main({channel}, {parent})
"""

_writers: weakref.WeakSet[BackgroundWriter] = weakref.WeakSet()


def wait_for(path: storage.PathOrURI | None = None) -> None:
    """Return when nothing is under way for ``path`` by any writer of this process; None: for any path.

    What has failed is told by the run that saved.
    """
    for writer in list(_writers):
        if writer.process_id == os.getpid() and (path is None or writer.expects(path) is not None):
            writer.wait()


class BackgroundWriter:
    """Writes, links and deletes checkpoint files in another process, one after the other in the order of the calls.

    That process is started here, which takes milliseconds, and ended by ``close``; it outlives this one as long as it
    has work. Two buffers of a checkpoint's size are all it takes of memory, the second only when saves overlap.

    Args:
        buffer: The first one, where there is one already.
    """

    def __init__(self, buffer: Buffer | None = None) -> None:
        self.process_id = os.getpid()
        """Of its owner; in a child that was forked it is of no use."""
        self._buffers = [] if buffer is None else [buffer]
        self._under_way: dict[int, dict[str, Any]] = {}
        """Tasks without an answer, by number; in order."""
        self._failures: list[CheckpointError] = []
        self._number = 0
        self._last_write = 0
        self._partial_answer = b""
        self._lock = threading.RLock()
        """A load may come from any thread."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _start_script(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is not for it
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
            )
        _writers.add(self)

    def save(self, image: FileImage, path: storage.PathOrURI) -> None:
        """Copy the tensors and return; the file comes later.

        Raises:
            CheckpointError: An earlier call has failed.
            MemoryError: There is not enough for the copy.
        """
        with self._lock:
            self.raise_failure()
            size, buffer = image.copy_into(self._room)
            self._last_write = self._submit("write", path, buffer, size=size)

    def link(self, target: str, path: str) -> None:
        """Make ``path`` a link to ``target``, when that is there."""
        with self._lock:
            self._submit("link", path, target=_absolute(target), after=self._last_write)

    def delete(self, path: storage.PathOrURI) -> None:
        """Delete ``path``, after the files that are under way are complete; not if the newest of them fails."""
        with self._lock:
            self._submit("delete", path, after=self._last_write)

    def expects(self, path: storage.PathOrURI) -> bool | None:
        """Whether there will be a file at ``path`` when everything is done; None where nothing is under way for it."""
        with self._lock:
            self._take_answers()
            tasks = [task["do"] for task in self._under_way.values() if task["path"] == _absolute(path)]
        return tasks[-1] != "delete" if tasks else None

    def wait(self) -> None:
        """Return when nothing is under way."""
        with self._lock:
            self._wait_while(lambda: bool(self._under_way))

    def raise_failure(self) -> None:
        """Raise what has gone wrong since the last call.

        Raises:
            CheckpointError: The first such thing.
        """
        with self._lock:
            self._take_answers()
            failures, self._failures = self._failures, []
        if failures:
            raise failures[0]

    def close(self) -> None:
        """Wait until everything is done, and end the process.

        Raises:
            CheckpointError: Something has failed, and was not raised yet.
        """
        with self._lock:
            self.wait()
            with contextlib.suppress(OSError):  # the process is gone
                # A loader's process that was forked since keeps the channel: closing it here alone is no end of it.
                self._channel.shutdown(socket.SHUT_RDWR)
            self._channel.close()
            self._process.wait()
            self._errors.close()
            self._buffers.clear()
        _writers.discard(self)
        if self._failures:
            raise self._failures[0]

    @property
    def has_ended(self) -> bool:
        """The process is gone: another one is needed."""
        return self._process.poll() is not None

    # ------------------------------------------------------------------------------------------------ buffers

    def _room(self, size: int) -> tuple[torch.Tensor, Buffer]:
        """``size`` bytes in a buffer that is not being written to a file."""
        self._wait_while(lambda: len(self._busy()) == MOST_BUFFERS)
        busy = self._busy()
        free = [buffer for buffer in self._buffers if buffer.index not in busy]
        buffer = free[0] if free else Buffer(len(self._buffers), size)
        if len(buffer.content) < size:
            buffer = Buffer(buffer.index, size)
        self._buffers[buffer.index : buffer.index + 1] = [buffer]
        return buffer.content, buffer

    def _busy(self) -> set[int]:
        return {task["buffer"] for task in self._under_way.values() if task["do"] == "write"}

    # ------------------------------------------------------------------------------------------------ messages

    def _submit(self, action: str, path: storage.PathOrURI, buffer: Buffer | None = None, **details: Any) -> int:
        self._number += 1
        task = {"number": self._number, "do": action, "path": _absolute(path), **details}
        descriptors = []
        if buffer is not None:
            task.update(buffer=buffer.index, new=buffer.is_new)
            descriptors = [buffer.descriptor] if buffer.is_new else []
            buffer.is_new = False
        self._under_way[self._number] = task
        try:
            socket.send_fds(self._channel, [json.dumps(task).encode() + b"\n"], descriptors)
        except OSError:
            self._take_answers()  # which finds that the process has ended
        return self._number

    def _wait_while(self, condition: Callable[[], bool]) -> None:
        self._take_answers()
        while condition():
            self._take_answers(wait=True)

    def _take_answers(self, wait: bool = False) -> None:
        """Read what the process has answered so far; ``wait``: at least something."""
        if not self._under_way:
            return
        self._channel.settimeout(None if wait else 0.0)
        try:
            content = self._channel.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            content = b""
        if not content:
            self._give_up()
        *lines, self._partial_answer = (self._partial_answer + content).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            task = self._under_way.pop(answer["number"])
            if answer["error"] is not None:
                self._failures.append(_failure(task, answer["error"], answer["errno"]))

    def _give_up(self) -> None:
        """The process has ended, and with it what it had not done yet."""
        code = self._process.wait()
        self._errors.seek(0)
        last_words = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        reason = " ".join([f"the process that writes it has ended, with exit code {code}.", *last_words])
        self._failures += [_failure(task, reason, None) for task in self._under_way.values()]
        self._under_way.clear()


def _start_script(channel: int) -> str:
    package = Path(__file__).parents[1]
    packages = {"raylight": str(package), "raylight.utilities": str(package / "utilities")}
    return _START.format(path=sys.path, packages=packages, channel=channel, parent=os.getpid())


def _absolute(path: storage.PathOrURI) -> str:
    """``path`` wherever one is; the process keeps the working directory in which it was started."""
    text = storage.join(path)
    return os.path.abspath(text) if "://" not in text else text


def _failure(task: dict[str, Any], reason: str, number: int | None) -> CheckpointError:
    if task["do"] == "write":
        return checkpoint_format.not_written(task["path"], reason, number)
    if task["do"] == "delete":
        return checkpoint_format.not_deleted(task["path"], reason)
    return CheckpointError(
        f"The link {task['path']} was not made ({reason}); {task['target']} itself is written. See that its folder "
        "may be written to, or use save_last=True."
    )
