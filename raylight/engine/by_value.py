"""Send DataLoader workers the classes and functions that they cannot import: those of a script or notebook.

A worker actor has them from the driver, by value. Its own child processes start by forkserver, whose pickler knows
names only.
"""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.reduction import ForkingPickler
from types import FunctionType
from typing import Any

from ray import cloudpickle


def install() -> None:
    """Runs in every worker and its children: from now on, what has no importable name travels by value."""
    ForkingPickler.reducer_override = _reduce  # type: ignore[assignment]
    # Imported once in the server that all children are forked from, not once in each.
    multiprocessing.set_forkserver_preload(["torch", __name__])


def _reduce(pickler: ForkingPickler, obj: Any) -> Any:
    if isinstance(obj, type | FunctionType) and not _is_importable(obj):
        return _load, (cloudpickle.dumps(obj),)
    return NotImplemented


def _is_importable(obj: Any) -> bool:
    found: Any = sys.modules.get(obj.__module__)
    for name in obj.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is obj and obj.__module__ != "__main__"


def _load(pickled: bytes) -> Any:
    # In a child process importing this module has to be enough: it sends the same classes back, as batches.
    install()
    return cloudpickle.loads(pickled)
