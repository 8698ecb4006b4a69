"""Questions that all ranks answer together."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from raylight.utilities.aliases import lazy_names


def is_shared_filesystem(strategy: Any, path: str | os.PathLike[str] | None = None, timeout: int = 3) -> bool:
    """Collective: whether all ranks see the same files in a folder. A URI is shared; so is everything for one worker.

    Args:
        strategy: That of the run: ``trainer.strategy``.
        path: An existing folder. None: the working directory.
        timeout: Seconds that a new file may take to show on the other nodes.

    Raises:
        FileNotFoundError: There is no such path.
    """
    if path is not None and "://" in os.fspath(path):
        return True
    folder = Path.cwd() if path is None else Path(path).resolve()
    if getattr(strategy, "world_size", 1) == 1 or not dist.is_initialized():
        return True
    if not folder.exists():
        raise FileNotFoundError(f"Unable to determine if the path belongs to a shared filesystem: {folder} is missing.")
    mark: list[Any] = [None]
    if dist.get_rank() == 0:
        number, mark[0] = tempfile.mkstemp(prefix=".shared_", dir=folder if folder.is_dir() else folder.parent)
        os.close(number)
    dist.broadcast_object_list(mark)
    seen: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(seen, (str(folder), _appears(mark[0], timeout)))
    if dist.get_rank() == 0:
        os.unlink(mark[0])
    return all(found for _, found in seen) and len({name for name, _ in seen}) == 1


def _appears(path: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)
