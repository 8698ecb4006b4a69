"""The process that writes checkpoints while training goes on: what it is sent, it does, in order, and then it ends.

It is no child that shares fate with training: it has a session of its own, ignores the signals that end training, and
when nobody is left to send anything it finishes what it has and exits. It imports neither torch nor the rest of
raylight, and so is ready in a tenth of a second, and small.

A task is a line of JSON, its answer another::

    {"number": 3, "do": "write", "path": ..., "buffer": 0, "size": 1234, "new": true}   -> {"number": 3, "error": null}
    {"number": 4, "do": "link", "path": ..., "target": ..., "after": 3}
    {"number": 5, "do": "delete", "path": ..., "after": 3}                 -> {"number": 5, "error": "...", "errno": 28}

``new`` says that the file descriptor of a buffer comes along. What is to happen ``after`` a write does not happen where
that failed: the file that it would remove may be the only good one.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from raylight.checkpoint import storage

SECONDS_BETWEEN_LOOKS = 1.0
"""At the parent: a child that it has forked may keep the channel open after its end."""
_CHUNK_BYTES = 16 * 2**20
_LOCAL_HEADER_BYTES = 30
_CENTRAL_HEADER_BYTES = 46


def main(channel: int, parent: int) -> None:
    """Do what comes through the socket ``channel`` from the process ``parent``, until that closes it or is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=channel) as connection:
        work = Work()
        for task, descriptors in receive(connection, parent):
            answer = work.do(task, descriptors)
            try:
                connection.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:  # nobody wants to know any more
                continue


def receive(connection: socket.socket, parent: int) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """Tasks, and the file descriptors that have come with or before each."""
    connection.settimeout(SECONDS_BETWEEN_LOOKS)
    pending, descriptors = b"", []
    while True:
        orphaned = os.getppid() != parent  # asked before: what it has sent until then is in the channel
        try:
            content, received, _, _ = socket.recv_fds(connection, 65536, 8)
        except TimeoutError:
            if orphaned:
                return
            continue
        except ConnectionResetError:
            return
        if not content:
            return
        descriptors += received
        *lines, pending = (pending + content).split(b"\n")
        for line in lines:
            yield json.loads(line), descriptors


class Work:
    """The buffers, and which writes have failed."""

    def __init__(self) -> None:
        self._buffers: dict[int, mmap.mmap] = {}
        self._failed: set[int] = set()

    def do(self, task: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """Do ``task``, which takes its file descriptor from ``descriptors``; the answer."""
        try:
            self._act(task, descriptors)
        except Exception as error:  # whatever it is, it is reported
            self._failed.add(task["number"])
            reason = f"{type(error).__name__}: {error}"
            return {"number": task["number"], "error": reason, "errno": getattr(error, "errno", None)}
        return {"number": task["number"], "error": None}

    def _act(self, task: dict[str, Any], descriptors: list[int]) -> None:
        if task["do"] == "write":
            if task["new"]:
                self._take_buffer(task["buffer"], descriptors.pop(0))
            content = self._buffers[task["buffer"]]
            add_checksums(content, task["size"])
            storage.write_atomic(task["path"], lambda stream: _copy(content, task["size"], stream))
        elif task["after"] in self._failed:
            return
        elif task["do"] == "link":
            storage.link(task["target"], task["path"])
        else:
            storage.delete(task["path"])

    def _take_buffer(self, index: int, descriptor: int) -> None:
        try:
            self._buffers[index] = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)


def _copy(content: mmap.mmap, size: int, stream: BinaryIO) -> None:
    with memoryview(content) as view:
        for start in range(0, size, _CHUNK_BYTES):
            stream.write(view[start : min(start + _CHUNK_BYTES, size)])


def add_checksums(content: mmap.mmap, size: int) -> None:
    """Put into a zip archive the checksums of those records that have none: in its index, and behind each record."""
    with zipfile.ZipFile(_Stream(content, size)) as archive:
        records, entry = archive.infolist(), archive.start_dir
    with memoryview(content) as view:
        for record in records:
            if record.CRC == 0 and record.file_size > 0:
                lengths = struct.unpack_from("<HH", view, record.header_offset + 26)
                start = record.header_offset + _LOCAL_HEADER_BYTES + sum(lengths)
                end = start + record.file_size
                checksum = struct.pack("<I", zlib.crc32(view[start:end]))
                view[end + 4 : end + 8] = checksum  # behind the signature of the "data descriptor"
                view[entry + 16 : entry + 20] = checksum
            entry += _CENTRAL_HEADER_BYTES + sum(struct.unpack_from("<HHH", view, entry + 28))


class _Stream:
    """The first ``size`` bytes of ``content``, to be read and sought; an mmap itself would be read to its end."""

    def __init__(self, content: mmap.mmap, size: int) -> None:
        self._content, self._size, self._place = content, size, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._place + size, self._size)
        content = self._content[self._place : end]
        self._place = max(self._place, end)
        return content
