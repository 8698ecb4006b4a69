"""Attributes of the model, its submodules, the callbacks and the datamodule that have changed since training began.

Runs in every worker. What ``setup`` and the hooks before training make again is no part of a snapshot.
"""

from __future__ import annotations

import collections
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from raylight.engine.attributes import Packer, TooLargeError, loads, owners, references, travelling
from raylight.utilities import tree
from raylight.utilities.rank_zero import rank_zero_warn
from raylight.worker.model_state import is_metric

if TYPE_CHECKING:
    import torch

    from raylight.worker.run import Run

LARGEST_ATTRIBUTE = 4 * 1024 * 1024
"""Bytes of an attribute that is part of a snapshot; a larger one is as ``setup`` made it."""
IMMUTABLE = (type(None), bool, int, float, complex, str, bytes)
GROWING = (list, dict, set, collections.deque)

Place = tuple[str, str]
"""Whose attribute, and its name."""


@dataclass(frozen=True)
class Packed:
    """An attribute in a snapshot."""

    pickled: bytes
    """With CPU tensors."""
    was_on_device: bool
    """Tensors of it were not."""


class Changes:
    """Packs what has changed, each time that a snapshot is taken."""

    def __init__(self) -> None:
        self._former: dict[str, dict[str, Any]] = {}
        """Attributes when training began, by owner and name: an immutable one itself, else a ``_Former``."""
        self._submodules: list[tuple[str, torch.nn.Module]] = []
        """Those that were there then; to ask which these are each time would cost as much as all else."""
        self._packed: set[Place] = set()
        """What was part of a snapshot."""
        self._too_large: set[Place] = set()
        """What is not tried again, as that takes time."""
        self._told: set[Place] = set()

    def begin(self, run: Run) -> None:
        """Training is about to begin: everything is as it is made."""
        self._submodules = list(_submodules(run))
        self._former = {
            owner: {name: value if isinstance(value, IMMUTABLE) else _Former(value) for name, value in travelling(obj)}
            for owner, obj in (*_owners(run), *self._submodules)
        }

    def pack(self, run: Run) -> dict[Place, Packed]:
        """What is part of a snapshot. Warns of what cannot be, where it has changed."""
        packer = Packer(_references(run), largest=LARGEST_ATTRIBUTE)
        packed: dict[Place, Packed] = {}
        for place, obj, value in self._changed(run):
            if place in self._too_large or place[1] in getattr(obj, "_of_this_process", ()):
                continue
            try:
                packed[place] = Packed(packer.dumps(value), packer.has_moved)
                self._packed.add(place)
            except Exception as error:  # too large, or an open file, a generator: it is as ``setup`` makes it
                self._leave_out(place, obj, value, error)
        return packed

    def _changed(self, run: Run) -> Iterator[tuple[Place, Any, Any]]:
        """What may have; of submodules, which are many, numbers, texts and tensors that surely have."""
        for owner, obj in _owners(run):
            for name, value in travelling(obj):
                if not isinstance(value, IMMUTABLE) or self._is_new(owner, name, value):
                    yield (owner, name), obj, value
        for owner, module in self._submodules:
            for name, value in travelling(module):
                if _is_plain(value) and self._is_new(owner, name, value):
                    yield (owner, name), module, value

    def _is_new(self, owner: str, name: str, value: Any) -> bool:
        former = self._former.get(owner, {}).get(name, self)  # ``self``: it is no attribute's value
        return not former.is_still(value) if isinstance(former, _Former) else former is not value

    def _leave_out(self, place: Place, obj: Any, value: Any, error: Exception) -> None:
        if isinstance(error, TooLargeError):
            self._too_large.add(place)
        if place not in self._told and (place in self._packed or self._is_new(*place, value)):
            self._told.add(place)
            rank_zero_warn(
                f"{type(obj).__name__}.{place[1]} is no part of snapshots ({_reason(error)}): after a lost worker it "
                "is as setup makes it."
            )


def unpack(run: Run, packed: dict[Place, Packed]) -> None:
    """Put back what ``Changes.pack`` gave."""
    found = dict(_references(run))
    objects = dict([*_owners(run), *_submodules(run)])
    for (owner, name), attribute in packed.items():
        if owner in objects and name not in _registered(objects[owner]):
            value = loads(attribute.pickled, found)
            vars(objects[owner])[name] = _moved(value, run.strategy.device) if attribute.was_on_device else value


class _Former:
    """What an attribute was, without keeping it alive."""

    def __init__(self, value: Any) -> None:
        self._size = _size(value)
        try:
            self._known: Any = weakref.ref(value)
        except TypeError:  # a list, for one, of which its address must do
            self._known = id(value)

    def is_still(self, value: Any) -> bool:
        """Whether ``value`` is the same object, and has neither grown nor, as a tensor, been written to."""
        known = self._known
        is_same = known() is value if isinstance(known, weakref.ref) else known == id(value)
        return is_same and self._size == _size(value)


def _size(value: Any) -> int:
    if isinstance(value, Tensor):
        return 0 if value.is_inference() else value._version
    return len(value) if isinstance(value, GROWING) else 0


def _owners(run: Run) -> list[tuple[str, Any]]:
    return owners(run.model, run.callbacks, run.source.datamodule)


def _submodules(run: Run) -> Iterator[tuple[str, torch.nn.Module]]:
    """Those of the model, but for torchmetrics Metrics, whose state travels otherwise."""
    for path, module in run.model.named_modules():
        if path and not is_metric(module):
            yield f"module {path}", module


def _references(run: Run) -> list[tuple[str, Any]]:
    return references(run.model, run.callbacks, run.source.datamodule, run.trainer)


def _is_plain(value: Any) -> bool:
    """A number, a text or a tensor; a tensor of a graph is made again by the next forward."""
    return isinstance(value, IMMUTABLE) or (isinstance(value, Tensor) and not value.requires_grad)


def _registered(obj: Any) -> set[str]:
    """Names of a module's parameters and buffers: an attribute of the same name would hide them."""
    return {*vars(obj).get("_parameters", ()), *vars(obj).get("_buffers", ())}


def _moved(value: Any, device: torch.device) -> Any:
    return tree.map_leaves(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value)


def _reason(error: Exception) -> str:
    if isinstance(error, TooLargeError):
        return f"it takes more than {LARGEST_ATTRIBUTE // 1024**2} MiB"
    return str(error).partition("\n")[0] or type(error).__name__
