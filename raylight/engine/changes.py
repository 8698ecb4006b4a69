"""Attributes of the model, the callbacks and the datamodule that are no longer what they were when training began.

Runs in every worker. What ``setup`` and the hooks before training make again is no part of a snapshot.
"""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

from raylight.engine.attributes import Packer, TooLargeError, loads, owners, references, travelling
from raylight.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from raylight.worker.run import Run

LARGEST_ATTRIBUTE = 4 * 1024 * 1024
"""Bytes of an attribute that is part of a snapshot; a larger one is as ``setup`` made it."""
IMMUTABLE = (type(None), bool, int, float, complex, str, bytes)
GROWING = (list, dict, set, collections.deque)

Place = tuple[str, str]
"""Whose attribute, and its name."""
Packed = dict[str, dict[str, bytes]]
"""By owner and name."""


class Changes:
    """Packs what has changed, each time that a snapshot is taken."""

    def __init__(self) -> None:
        self._initial: dict[Place, Any] = {}
        """As it was when training began: the value itself or, where it may change within, its ``_mark``."""
        self._packed: set[Place] = set()
        """What was part of a snapshot."""
        self._too_large: set[Place] = set()
        """What is not tried again, as that takes time."""
        self._told: set[Place] = set()

    def begin(self, run: Run) -> None:
        """Training is about to begin: everything is as it is made."""
        self._initial = {
            (owner, name): value if isinstance(value, IMMUTABLE) else _mark(value)
            for owner, obj in _owners(run)
            for name, value in travelling(obj)
        }

    def pack(self, run: Run) -> Packed:
        """What is part of a snapshot. Warns of what cannot be and has changed."""
        packer = Packer(_references(run), largest=LARGEST_ATTRIBUTE)
        packed: Packed = {}
        for owner, obj in _owners(run):
            packed[owner] = {}
            for name, value in travelling(obj):
                place = (owner, name)
                if place in self._too_large or name in getattr(obj, "_of_this_process", ()):
                    continue
                if isinstance(value, IMMUTABLE) and place in self._initial and self._initial[place] is value:
                    continue
                try:
                    packed[owner][name] = packer.dumps(value)
                    self._packed.add(place)
                except Exception as error:  # too large, or an open file, a generator: it is as ``setup`` makes it
                    self._leave_out(place, obj, value, error)
        return packed

    def _leave_out(self, place: Place, obj: Any, value: Any, error: Exception) -> None:
        if isinstance(error, TooLargeError):
            self._too_large.add(place)
        has_changed = place in self._packed or self._initial.get(place) != _mark(value)
        if has_changed and place not in self._told:
            self._told.add(place)
            rank_zero_warn(
                f"{type(obj).__name__}.{place[1]} is no part of snapshots ({_reason(error)}): after a lost worker it "
                "is as setup makes it."
            )


def unpack(run: Run, packed: Packed) -> None:
    """Put back what ``Changes.pack`` gave."""
    found = dict(_references(run))
    for owner, obj in _owners(run):
        for name, pickled in packed.get(owner, {}).items():
            vars(obj)[name] = loads(pickled, found)


def _owners(run: Run) -> list[tuple[str, Any]]:
    return owners(run.model, run.callbacks, run.source.datamodule)


def _references(run: Run) -> list[tuple[str, Any]]:
    return references(run.model, run.callbacks, run.source.datamodule, run.trainer)


def _mark(value: Any) -> tuple[int, int]:
    """Tells whether an attribute is another object than before, or has grown."""
    return id(value), len(value) if isinstance(value, GROWING) else 0


def _reason(error: Exception) -> str:
    if isinstance(error, TooLargeError):
        return f"it takes more than {LARGEST_ATTRIBUTE // 1024**2} MiB"
    return str(error).partition("\n")[0] or type(error).__name__
