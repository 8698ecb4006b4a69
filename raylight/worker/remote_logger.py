"""What stands for a logger in a worker: it tells the driver what the real one shall do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raylight.config.messages import LoggerCall, LoggerInfo
from raylight.utilities import tree

if TYPE_CHECKING:
    from raylight.config.messages import Event


class RemoteLogger:
    """Logger number ``index`` of the driver, seen from a worker.

    Names and folders are known here. Every other method call is recorded and made on the driver, in order, tensors as
    CPU tensors; it returns None here. On ranks other than 0 calls are dropped.
    """

    def __init__(self, index: int, info: LoggerInfo, emit: Callable[[Event], None] | None) -> None:
        self.name = info.name
        self.version = info.version
        self.save_dir = info.save_dir
        self.log_dir = info.log_dir
        self.root_dir = info.root_dir
        self.class_name = info.class_name
        self._index = index
        self._emit = emit

    @property
    def experiment(self) -> RecordedCalls:
        """The logger's own object: its method calls are made on the driver too."""
        return RecordedCalls(self._index, ("experiment",), self._emit)

    def __getattr__(self, name: str) -> RecordedCalls:
        if name.startswith("_"):
            raise AttributeError(name)
        return RecordedCalls(self._index, (name,), self._emit)

    def __repr__(self) -> str:
        return f"<{self.class_name} on the driver>"


class RecordedCalls:
    """An attribute of something on the driver; calling it is recorded."""

    def __init__(self, index: int, path: tuple[str, ...], emit: Callable[[Event], None] | None) -> None:
        self._index = index
        self._path = path
        self._emit = emit

    def __getattr__(self, name: str) -> RecordedCalls:
        if name.startswith("__"):
            raise AttributeError(name)
        return RecordedCalls(self._index, (*self._path, name), self._emit)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        if self._emit is not None:
            self._emit(LoggerCall(self._index, self._path, tree.to_cpu(args), tree.to_cpu(kwargs)))
