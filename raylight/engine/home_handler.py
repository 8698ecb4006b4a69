"""What pyarrow asks of a file system, for the files on the driver's node. A file of its own, as it imports pyarrow."""

from __future__ import annotations

import os
from typing import Any

import pyarrow
import ray
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, FileType
from ray.exceptions import RayTaskError

CHUNK_BYTES = 16 * 2**20
"""Of a file, that travel at a time."""


class HomeHandler(FileSystemHandler):  # type: ignore[misc]
    """Passes everything on to a ``HomeServer``."""

    def __init__(self, server: Any, cwd: str) -> None:
        self._server = server
        self._cwd = cwd

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HomeHandler) and other._server == self._server

    def _ask(self, method: str, *args: Any) -> Any:
        try:
            return ray.get(getattr(self._server, method).remote(*args))
        except RayTaskError as error:
            raise error.cause from None  # the OSError that it is

    def get_type_name(self) -> str:
        return "home"

    def normalize_path(self, path: str) -> str:
        return os.path.normpath(os.path.join(self._cwd, path))

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return [_file_info(each) for each in self._ask("info", paths)]

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        found = self._ask("list", selector.base_dir, selector.allow_not_found, selector.recursive)
        return [_file_info(each) for each in found]

    def create_dir(self, path: str, recursive: bool) -> None:
        self._ask("create_dir", path)

    def delete_dir(self, path: str) -> None:
        self._ask("delete", path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        for found, *_ in self._ask("list", path, missing_dir_ok, False):
            self._ask("delete", found)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("nobody deletes all files of the driver's machine")

    def delete_file(self, path: str) -> None:
        self._ask("delete", path)

    def move(self, src: str, dest: str) -> None:
        self._ask("move", src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        with self.open_input_stream(src) as reader, self.open_output_stream(dest, {}) as writer:
            while content := reader.read(CHUNK_BYTES):
                writer.write(content)

    def open_input_stream(self, path: str) -> pyarrow.PythonFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pyarrow.PythonFile:
        ((_, kind, size, _),) = self._ask("info", [path])
        if kind != "File":
            raise FileNotFoundError(f"{path} does not exist." if kind == "NotFound" else f"{path} is a folder.")
        return pyarrow.PythonFile(_Reader(self, path, size), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> pyarrow.PythonFile:
        return pyarrow.PythonFile(_Writer(self, path), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pyarrow.PythonFile:
        raise NotImplementedError("files are written as a whole")


class _Reader:
    """A file, read in parts."""

    closed = False

    def __init__(self, handler: HomeHandler, path: str, size: int) -> None:
        self._handler, self._path, self._size, self._place = handler, path, size, 0

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._place + size)
        parts = []
        while self._place < end:
            part: bytes = self._handler._ask("read", self._path, self._place, min(CHUNK_BYTES, end - self._place))
            if not part:
                raise OSError(f"{self._path} has become shorter while it was read.")
            parts.append(part)
            self._place += len(part)
        return b"".join(parts)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def close(self) -> None:
        self.closed = True


class _Writer:
    """A file, written in parts."""

    closed = False

    def __init__(self, handler: HomeHandler, path: str) -> None:
        self._handler, self._path = handler, path
        self._pending: list[bytes] = []
        self._size = 0
        self._is_first = True

    def write(self, content: Any) -> int:
        part = bytes(content)
        self._pending.append(part)
        self._size += len(part)
        if self._size >= CHUNK_BYTES:
            self._send(is_last=False)
        return len(part)

    def _send(self, is_last: bool) -> None:
        self._handler._ask("append", self._path, b"".join(self._pending), self._is_first, is_last)
        self._pending, self._size, self._is_first = [], 0, False

    def flush(self) -> None:
        """With ``close``."""

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._send(is_last=True)


def _file_info(found: tuple[str, str, int, float]) -> FileInfo:
    path, kind, size, modified = found
    if kind == "NotFound":
        return FileInfo(path, FileType.NotFound)
    return FileInfo(path, getattr(FileType, kind), size=size, mtime=modified)
