"""Whether the user's objects can travel to worker processes, asked before any is started."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raylight.config.messages import DataSource
from raylight.utilities.exceptions import UnpicklableError

REMEDY = "Create it in `setup()`, which runs in every worker, or use launcher='local'."


def verify_portable(model: Any, data: DataSource, callbacks: list[Any], **others: Any) -> None:
    """Check that everything can be sent to worker processes; ``others`` by their names.

    Raises:
        UnpicklableError: Something cannot; the attribute is named.
    """
    for what, error in unpicklable(model, data, callbacks, **others):
        raise UnpicklableError(f"{what} {REMEDY}") from error


def unpicklable(model: Any, data: DataSource, callbacks: list[Any], **others: Any) -> Iterator[tuple[str, Exception]]:
    """Of each object that cannot be sent: which of its attributes is to blame, in a sentence, and the error."""
    named = [("model", model), *others.items()]
    named += [(f"callback {type(callback).__name__}", callback) for callback in callbacks]
    named += [(f"{name} data", source) for name, source in vars(data).items()]
    for what, obj in named:
        if obj is None:
            continue
        error = _pickling_error(obj)
        if error is not None:
            path, culprit = _culprit(obj, type(obj).__name__)
            yield f"The {what} cannot be sent to the workers: {path} ({_describe(culprit)}) cannot be pickled.", error


def _pickling_error(obj: Any) -> Exception | None:
    from ray import cloudpickle

    try:
        cloudpickle.dumps(obj)
    except Exception as error:  # whatever the object's class raises, it cannot travel
        return error
    return None


def _culprit(obj: Any, path: str, above: tuple[Any, ...] = ()) -> tuple[str, Any]:
    """The innermost attribute or item that cannot be pickled by itself, and the way to it."""
    above = (*above, obj)
    for way, value in _parts(obj, path):
        if not any(value is each for each in above) and _pickling_error(value) is not None:
            return _culprit(value, way, above)
    return path, obj


def _parts(obj: Any, path: str) -> Iterator[tuple[str, Any]]:
    """What ``obj`` is made of, each with the expression that leads to it."""
    if isinstance(obj, dict):
        yield from ((f"{path}[{key!r}]", value) for key, value in obj.items())
    elif isinstance(obj, list | tuple):
        yield from ((f"{path}[{index}]", value) for index, value in enumerate(obj))
    else:
        state = obj.__getstate__() if hasattr(obj, "__getstate__") else getattr(obj, "__dict__", None)
        for name, value in state.items() if isinstance(state, dict) else ():
            if name in ("_modules", "_parameters", "_buffers"):  # torch's own place for attributes
                yield from ((f"{path}.{inner}", each) for inner, each in value.items())
            else:
                yield f"{path}.{name}", value


def _describe(obj: Any) -> str:
    return f"a {type(obj).__module__}.{type(obj).__qualname__}"
