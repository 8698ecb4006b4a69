"""CheckpointIO: how a checkpoint reaches a file and comes back. Own kinds go into ``Trainer(plugins=...)``."""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from raylight.checkpoint import format as checkpoint_format
from raylight.checkpoint import storage
from raylight.checkpoint.background import BackgroundWriter, wait_for
from raylight.checkpoint.buffers import Buffer, RoomAhead
from raylight.checkpoint.image import FileImage

LARGE_BYTES = 64 * 2**20
"""Tensors of a checkpoint that take more than this are written in the background, where nobody said otherwise."""

Path = storage.PathOrURI


class CheckpointIO(ABC):
    """Base of what saves, loads and removes checkpoints; rank 0 saves and removes, all ranks load."""

    @abstractmethod
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``.

        Args:
            checkpoint: As ``raylight.checkpoint.format`` describes it.
            path: A path or URI.
            storage_options: What ``Trainer.save_checkpoint`` was given under this name.
        """

    @abstractmethod
    def load_checkpoint(
        self, path: Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read what is at ``path``.

        Args:
            path: A path or URI.
            map_location: As for ``torch.load``.
            weights_only: What the Trainer's method was given under this name.
        """

    @abstractmethod
    def remove_checkpoint(self, path: Path) -> None:
        """Delete what is at ``path``."""

    def teardown(self) -> None:  # noqa: B027  nothing to do is the usual case
        """The run is over: finish what is under way."""

    # What ModelCheckpoint asks for, beside Lightning's methods
    @property
    def writes_in_background(self) -> bool:
        """Whether ``in_background`` has an effect."""
        return False

    def in_background(self, wanted: bool | None) -> contextlib.AbstractContextManager[None]:
        """Saves inside may return before the file is there. See ``ModelCheckpoint(async_save=...)``."""
        return contextlib.nullcontext()

    def make_room(self, num_bytes: Callable[[], int | None]) -> None:  # noqa: B027
        """Get memory for the first save in the background; see ``RoomAhead``."""

    def expects(self, path: Path) -> bool | None:
        """Whether there will be a file at ``path`` when what is under way is done; None: the disk knows."""
        return None

    def wait(self) -> None:  # noqa: B027
        """Return when nothing is under way."""

    def link_checkpoint(self, target: str, path: str) -> None:
        """Make ``path`` a link to the checkpoint ``target``; both are local."""
        storage.link(target, path)


class TorchCheckpointIO(CheckpointIO):
    """One file, complete or not there, at a local path or a URI; it is read without running code from it.

    Where ModelCheckpoint wants it, another process writes the file, see ``BackgroundWriter``; what fails there is
    raised by the next save, or at the end of the run. A subclass does not do that: its methods are to find the file.
    """

    _wanted: bool | None = False  # in the class, as a subclass may not call __init__
    _writer: BackgroundWriter | None = None
    _room: RoomAhead | None = None

    @property
    def writes_in_background(self) -> bool:
        return type(self) is TorchCheckpointIO

    @contextlib.contextmanager
    def in_background(self, wanted: bool | None) -> Iterator[None]:
        outer, self._wanted = self._wanted, wanted if self.writes_in_background else False
        try:
            yield
        finally:
            self._wanted = outer

    def make_room(self, num_bytes: Callable[[], int | None]) -> None:
        if self._writer is None and self._room is None:
            self._room = RoomAhead(num_bytes)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``, at once or ``in_background``.

        Raises:
            TypeError: ``storage_options`` are given, which this class has no use for.
            CheckpointNotWrittenError: The file system refuses it, or refused an earlier one in the background.
        """
        if storage_options is not None:
            raise TypeError(
                "`Trainer.save_checkpoint(..., storage_options=...)` with `storage_options` arg is not supported for "
                f"`{type(self).__name__}`. Please implement your custom `CheckpointIO` to define how you'd like to use "
                "`storage_options`."
            )
        if self._wanted is not False and storage.outlives_process(path):
            checkpoint = checkpoint_format.to_plain(checkpoint)
            image = FileImage(checkpoint)
            if self._wanted or image.num_tensor_bytes > LARGE_BYTES:
                with contextlib.suppress(MemoryError):  # then at once
                    self._live_writer().save(image, path)
                    return
        self.wait()  # an older file of the same name must not come after this one
        if self._writer is not None:
            self._writer.raise_failure()
        checkpoint_format.save(checkpoint, path)

    def load_checkpoint(
        self, path: Path, map_location: Any | None = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read what is at ``path``, when nothing is under way any more."""
        self.wait()
        checkpoint_format.check_weights_only(weights_only)
        return checkpoint_format.load(path, map_location)

    def remove_checkpoint(self, path: Path) -> None:
        """Delete what is at ``path``; where files are under way, after them."""
        if self._writer is not None:
            self._writer.delete(path)
            return
        try:
            storage.delete(path)
        except OSError as error:
            raise checkpoint_format.not_deleted(path, f"{type(error).__name__}: {error}") from error

    def link_checkpoint(self, target: str, path: str) -> None:
        if self._writer is not None:
            self._writer.link(target, path)
        else:
            super().link_checkpoint(target, path)

    def expects(self, path: Path) -> bool | None:
        return self._writer.expects(path) if self._writer is not None else None

    def wait(self) -> None:
        if self._writer is not None:
            self._writer.wait()

    def teardown(self) -> None:
        """Wait for what is under way, and end the process that does it.

        Raises:
            CheckpointError: Something of it has failed.
        """
        self._take_room()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _live_writer(self) -> BackgroundWriter:
        if self._writer is not None and self._writer.has_ended:
            self.teardown()
        if self._writer is None:
            wait_for()  # an attempt of this run that was left may still be at work on files of the same names
            self._writer = BackgroundWriter(self._take_room())
        return self._writer

    def _take_room(self) -> Buffer | None:
        room, self._room = self._room, None
        return room.take() if room is not None else None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_writer": None, "_room": None}


class AsyncCheckpointIO(CheckpointIO):
    """Saves in a thread while training goes on, one checkpoint after the other.

    Args:
        checkpoint_io: What saves. None: a TorchCheckpointIO.

    An error of a save is raised by the next one that comes after it, or at the end of the run.
    """

    def __init__(self, checkpoint_io: CheckpointIO | None = None) -> None:
        self._checkpoint_io = checkpoint_io
        self._executor: ThreadPoolExecutor | None = None
        self._pending: list[Future[None]] = []

    @property
    def checkpoint_io(self) -> CheckpointIO | None:
        """What saves; None until the Trainer has filled it in."""
        return self._checkpoint_io

    @checkpoint_io.setter
    def checkpoint_io(self, base: CheckpointIO) -> None:
        if self._checkpoint_io is None:
            self._checkpoint_io = base
        elif isinstance(self._checkpoint_io, AsyncCheckpointIO):
            self._checkpoint_io.checkpoint_io = base

    def _base(self) -> CheckpointIO:
        self.checkpoint_io = TorchCheckpointIO()  # where there is none
        assert self._checkpoint_io is not None
        return self._checkpoint_io

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path, storage_options: Any | None = None) -> None:
        """Copy the tensors of ``checkpoint``, where they are, and return; the file comes later."""
        self._raise_error()
        self._submit(self._base().save_checkpoint, _copied(checkpoint), path, storage_options=storage_options)

    def load_checkpoint(self, path: Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read what is at ``path``, when what is under way is done."""
        for call in self._pending:
            call.exception()
        return self._base().load_checkpoint(path, *args, **kwargs)

    def remove_checkpoint(self, path: Path) -> None:
        """Delete what is at ``path``; in the thread as well, as it may not even be there yet."""
        self._submit(self._base().remove_checkpoint, path)

    def teardown(self) -> None:
        """Wait for what is under way, and end the thread.

        Raises:
            Whatever a save raised, where no other save has raised it.
        """
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None
        self._base().teardown()
        self._raise_error()

    def _submit(self, function: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending.append(self._executor.submit(function, *args, **kwargs))

    def _raise_error(self) -> None:
        done = [call for call in self._pending if call.done()]
        self._pending = [call for call in self._pending if call not in done]
        for call in done:
            if (error := call.exception()) is not None:
                raise error

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_executor": None, "_pending": []}


def _copied(value: Any) -> Any:
    """``value`` with its tensors, and the dicts and lists around them, as they are now."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        twin = copy.copy(value)  # of the same class, attributes such as a state_dict's _metadata included
        for key, item in value.items():
            twin[key] = _copied(item)
        return twin
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    return value
