"""Attributes of the model, the callbacks and the datamodule, on their way between two processes' copies of these.

What an attribute refers to inside the model (a submodule kept in a list, a bound method), or of the trainer and the
callbacks, travels as a name and arrives as the receiver's own object, so that no second copy of it comes into being.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from typing import Any

import torch
from ray import cloudpickle

from raylight.utilities import tree

STAYS = frozenset({*vars(torch.nn.Module()), "_trainer", "_run", "trainer", "_average_model", "_swa_scheduler"})
"""Attributes that travel otherwise, or belong to the process."""


def owners(model: Any, callbacks: list[Any], datamodule: Any, profiler: Any = None) -> list[tuple[str, Any]]:
    """Whose attributes travel, each under its name."""
    named = [("model", model)]
    named += [(f"callback {index}", callback) for index, callback in enumerate(callbacks)]
    named += [("profiler", profiler)] if profiler is not None else []
    return [*named, ("datamodule", datamodule)] if datamodule is not None else named


def references(model: torch.nn.Module, callbacks: list[Any], datamodule: Any, trainer: Any) -> list[tuple[str, Any]]:
    """What travels as a name."""
    named: list[tuple[str, Any]] = [("trainer", trainer), ("datamodule", datamodule)]
    named += [(f"callback {index}", callback) for index, callback in enumerate(callbacks)]
    named += [(f"module {path}", module) for path, module in model.named_modules()]
    named += [(f"parameter {path}", parameter) for path, parameter in model.named_parameters()]
    return [(name, obj) for name, obj in named if obj is not None]


class Packer:
    """Pickles attributes.

    Args:
        named: What travels as a name.
        largest: Bytes of one attribute that still travel.
    """

    def __init__(self, named: list[tuple[str, Any]], largest: int) -> None:
        self._names = {id(obj): name for name, obj in named}
        self._largest = largest
        self.has_moved = False
        """The last attribute had tensors of another device than the CPU."""

    def dumps(self, value: Any) -> bytes:
        """The attribute, tensors as CPU tensors.

        Raises:
            TooLargeError: It is larger than ``largest``.
            Exception: It cannot be pickled, such as an open file or a generator; of any kind.
        """
        buffer = _Limited(self._largest)
        self.has_moved = False
        if id(value) not in self._names:
            value = tree.map_leaves(self._on_cpu, value)
        _Pickler(buffer, self._names).dump(value)
        return buffer.getvalue()

    def _on_cpu(self, leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or id(leaf) in self._names:
            return leaf
        self.has_moved |= leaf.device.type != "cpu"
        return leaf.detach().cpu()


class TooLargeError(Exception):
    """An attribute is too large to travel."""


class _Limited(io.BytesIO):
    def __init__(self, largest: int) -> None:
        super().__init__()
        self._left = largest

    def write(self, data: Any) -> int:
        self._left -= memoryview(data).nbytes
        if self._left < 0:
            raise TooLargeError
        return super().write(data)


def loads(pickled: bytes, found: dict[str, Any]) -> Any:
    """What ``Packer.dumps`` gave; ``found``: this process's objects, by name."""
    return _Unpickler(io.BytesIO(pickled), found).load()


def travelling(obj: Any) -> Iterator[tuple[str, Any]]:
    """Attributes of ``obj`` that travel."""
    for name, value in list(vars(obj).items()):
        if name not in STAYS:
            yield name, value


class _Pickler(cloudpickle.Pickler):
    def __init__(self, buffer: io.BytesIO, names: dict[int, str]) -> None:
        super().__init__(buffer)
        self._names = names

    def persistent_id(self, obj: Any) -> str | None:
        return self._names.get(id(obj))


class _Unpickler(pickle.Unpickler):
    def __init__(self, buffer: io.BytesIO, found: dict[str, Any]) -> None:
        super().__init__(buffer)
        self._found = found

    def persistent_load(self, name: str) -> Any:
        return self._found[name]
