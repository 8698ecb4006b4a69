"""Memory that checkpoints are copied into, for another process to write."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from collections.abc import Callable
from typing import IO

import torch

SECONDS_BETWEEN_LOOKS = 0.2
ROOM_TO_SPARE = 1.02
"""What a file holds beside its tensors' bytes: names, counters, checksums."""
LEAST_ROOM_TO_SPARE = 4 * 2**20


class Buffer:
    """Memory that the other process sees too. It has no name: when both have let go of it, nothing is left."""

    def __init__(self, index: int, size: int) -> None:
        self.index = index
        self.is_new = True
        """The other process does not have it yet."""
        try:
            with _anonymous_file() as file:
                os.ftruncate(file.fileno(), size)
                self.descriptor = os.dup(file.fileno())
                self.content = torch.frombuffer(mmap.mmap(self.descriptor, size), dtype=torch.uint8)
        except OSError as error:  # also where ulimit -f is for less
            raise MemoryError(f"There are no {size} bytes for a copy of the checkpoint ({error}).") from error

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def _anonymous_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("raylight-checkpoint"), "wb+")
    return tempfile.TemporaryFile()


class RoomAhead:
    """A buffer for the first checkpoint, got in a thread while training goes on, as it takes longer than the copy.

    Args:
        num_bytes: Asked, in the thread, until it tells how many bytes of tensors there will be; None: not known yet; 0:
            none that need a buffer.
    """

    def __init__(self, num_bytes: Callable[[], int | None]) -> None:
        self._num_bytes = num_bytes
        self._is_needed = threading.Event()
        self._buffer: Buffer | None = None
        self._thread = threading.Thread(target=self._prepare, name="room-for-checkpoint", daemon=True)
        self._thread.start()

    def take(self) -> Buffer | None:
        """The buffer; None where its size was not known so far, or there was no memory for it."""
        self._is_needed.set()
        self._thread.join()
        buffer, self._buffer = self._buffer, None
        return buffer

    def _prepare(self) -> None:
        while (size := self._num_bytes()) is None:
            if self._is_needed.wait(SECONDS_BETWEEN_LOOKS):
                return
        if size:
            try:
                buffer = Buffer(0, max(int(size * ROOM_TO_SPARE), size + LEAST_ROOM_TO_SPARE))
            except MemoryError:  # the save finds out, too
                return
            buffer.content.zero_()  # now each page of it is there
            self._buffer = buffer
