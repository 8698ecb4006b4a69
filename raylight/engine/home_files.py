"""Local paths of a worker on another node than the driver: they are the driver's, and so are the files.

A small actor on the driver's node does what is to be done there. In the worker it looks like one of pyarrow's file
systems, which ``raylight.checkpoint.storage`` uses for every path without a scheme.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class HomeServer:
    """Runs on the driver's node, in a process of its own: files by absolute path."""

    def info(self, paths: list[str]) -> list[tuple[str, str, int, float]]:
        """Path, pyarrow's name of its type, size and time of change, of each."""
        return [_info(path) for path in paths]

    def list(self, folder: str, allow_not_found: bool, recursive: bool) -> list[tuple[str, str, int, float]]:
        """``info`` of what is in the folder.

        Raises:
            FileNotFoundError: There is no such folder, and that is not allowed.
        """
        if not os.path.isdir(folder):
            if allow_not_found:
                return []
            raise FileNotFoundError(f"{folder} does not exist.")
        found = []
        for parent, folders, files in os.walk(folder):
            found += [_info(os.path.join(parent, name)) for name in (*folders, *files)]
            if not recursive:
                break
        return found

    def create_dir(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)

    def delete(self, path: str) -> None:
        """A file, a link, or a folder with all that is in it."""
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def move(self, source: str, target: str) -> None:
        os.replace(source, target)

    def read(self, path: str, start: int, size: int) -> bytes:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(size)

    def append(self, path: str, content: bytes, is_first: bool, is_last: bool) -> None:
        """Write a part of a file; with the last one all of it is on disk."""
        with open(path, "wb" if is_first else "ab") as file:
            file.write(content)
            if is_last:
                file.flush()
                os.fsync(file.fileno())


def _info(path: str) -> tuple[str, str, int, float]:
    try:
        status = os.stat(path)
    except OSError:
        return path, "NotFound", 0, 0.0
    return path, "Directory" if os.path.isdir(path) else "File", status.st_size, status.st_mtime


class Home:
    """Runs on the driver: where its local paths are, to be sent to workers. Deletes its marker in the end.

    Args:
        server: Actor handle of a ``HomeServer``; None where all workers are on the driver's node.
        folder: The driver's, where a marker can be put: a worker that sees it sees all that is below that folder, and
            nothing is said of other paths.
    """

    def __init__(self, server: Any, folder: str) -> None:
        self.server = server
        self._cwd = os.getcwd()
        self._folder = os.path.abspath(folder)
        self._marker = os.path.join(self._folder, f".raylight-{uuid.uuid4().hex}")
        self._node_id = ray.get_runtime_context().get_node_id()
        if server is not None:
            with contextlib.suppress(OSError), open(self._marker, "x"):
                pass

    def remove_marker(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._marker)

    def files(self) -> tuple[Any, str | None]:
        """Runs in a worker: what ``storage.use_home`` takes, so that local paths are the driver's."""
        if self.server is None or ray.get_runtime_context().get_node_id() == self._node_id:
            return None, None
        from pyarrow.fs import PyFileSystem

        from raylight.engine.home_handler import HomeHandler

        shared = os.path.realpath(self._folder) if os.path.exists(self._marker) else None
        return PyFileSystem(HomeHandler(self.server, self._cwd)), shared


def start_server() -> Any:
    """Runs on the driver: the actor; it ends with the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 4, "scheduling_strategy": here}
    return ray.remote(**options)(HomeServer).remote()
