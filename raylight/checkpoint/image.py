"""A checkpoint file put together in memory, so quickly that training hardly waits: only the tensors' bytes are copied.

``torch.save`` writes everything but these, and leaves room for them. What is missing then are the checksums of the
copied bytes: they take longer than the copy, and ``complete`` adds them in another process.
"""

from __future__ import annotations

import io
import pickle
from typing import IO, Any, cast

import torch
from torch.serialization import skip_data


class FileImage:
    """The file that ``torch.save(plain)`` would write, up to the checksums.

    Args:
        plain: What ``format.to_plain`` gave. Its tensors are read by ``copy_into``, not here.
    """

    def __init__(self, plain: dict[str, Any]) -> None:
        self._plain = plain
        finder = _StorageFinder(io.BytesIO(), protocol=2)  # torch.save's protocol
        finder.dump(plain)
        self._storages = [each for each in finder.found.values() if each.nbytes() > 0]
        self.num_tensor_bytes = sum(each.nbytes() for each in self._storages)
        """Bytes of the tensors; what several share counts once."""

    def copy_into(self, make_room: Any) -> tuple[int, Any]:
        """Write the image into the uint8 tensor that ``make_room(num_bytes)`` gives.

        Returns:
            The number of bytes of the file, and what ``make_room`` has given beside the tensor.
        """
        frame = _Frame()
        with skip_data():
            torch.save(self._plain, cast(IO[bytes], frame))
        assert [size for _, size in frame.gaps] == [each.nbytes() for each in self._storages]
        target, owner = make_room(frame.size)
        for offset, piece in frame.pieces:
            target[offset : offset + len(piece)] = torch.frombuffer(piece, dtype=torch.uint8)
        for (offset, size), storage in zip(frame.gaps, self._storages, strict=True):
            source = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
            target[offset : offset + size].copy_(source)
        return frame.size, owner


class _StorageFinder(pickle.Pickler):
    """Finds the storages behind an object's tensors, in the order in which ``torch.save`` numbers them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.found: dict[int, torch.UntypedStorage] = {}

    def persistent_id(self, obj: Any) -> int | None:
        if isinstance(obj, torch.storage.TypedStorage):
            obj = obj._untyped_storage
        if not isinstance(obj, torch.UntypedStorage):
            return None
        self.found.setdefault(obj._cdata, obj)
        return int(obj._cdata)


class _Frame:
    """A stream that remembers what was written where, and what was skipped."""

    def __init__(self) -> None:
        self.size = 0
        self.pieces: list[tuple[int, bytearray]] = []
        self.gaps: list[tuple[int, int]] = []

    def write(self, content: Any) -> int:
        piece = bytearray(content)
        if piece:
            self.pieces.append((self.size, piece))
        self.size += len(piece)
        return len(piece)

    def seek(self, distance: int, whence: int) -> None:
        assert whence == io.SEEK_CUR
        self.gaps.append((self.size, distance))
        self.size += distance

    def flush(self) -> None: ...
