"""Classes of a script or notebook stay as they are here when objects of them come back from the workers.

Such a class travels by value, and by value it comes back with its objects. cloudpickle knows it again, but gives it the
methods that have travelled, whose globals are copies of that moment: a function that a later cell of a notebook defines
anew would not be seen by them.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

from ray.cloudpickle import cloudpickle

_here = threading.local()
"""``ids``: of the classes that stay as they are, in what this thread unpickles."""
_set_state = cloudpickle._class_setstate


@functools.wraps(_set_state)  # cloudpickle refers to it by its name
def _set_state_of_others(kind: type, state: Any) -> type:
    return kind if id(kind) in getattr(_here, "ids", ()) else _set_state(kind, state)


@contextlib.contextmanager
def stay() -> Iterator[None]:
    """Runs on the driver: what is unpickled in the block changes no class that was here before it."""
    cloudpickle._class_setstate = _set_state_of_others
    before, classes = getattr(_here, "ids", ()), list(cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS)
    _here.ids = {id(kind) for kind in classes}
    try:
        yield
    finally:
        _here.ids = before
