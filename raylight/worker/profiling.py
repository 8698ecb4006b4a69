"""What a run does, told to its profiler under Lightning's names; without a profiler nothing is wrapped."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from raylight.profilers import PassThroughProfiler

if TYPE_CHECKING:
    from raylight.worker.run import Run

T = TypeVar("T")


class Recorder:
    """Records nothing: functions, iterators and hooks are as they were."""

    records = False
    """Whether hooks that nobody overrides are called as well, to be recorded as in Lightning."""

    def call(self, action: str, function: Callable[..., T]) -> Callable[..., T]:
        """``function``, each call of which is recorded as ``action``."""
        return function

    def each(self, action: str, items: Iterator[T], count: float) -> Iterator[T]:
        """``items``, the making of each of which is recorded as ``action``; ``count`` is their number, inf: unknown."""
        return items

    def hooks(self, kind: str, owner: Any) -> Any:
        """``owner``, each of whose methods is recorded as ``[kind]Class.method``."""
        return owner

    def start(self, run: Run) -> None:
        """The call begins."""

    def report(self) -> None:
        """The call did what it should."""

    def abandon(self) -> None:
        """The call has failed."""

    def close(self) -> None:
        """Let go of the run."""


class ProfilerRecorder(Recorder):
    """Records with ``profiler``."""

    records = True

    def __init__(self, profiler: Any) -> None:
        self.profiler = profiler
        self._stage: str | None = None

    def call(self, action: str, function: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(function)
        def recorded(*args: Any, **kwargs: Any) -> T:
            with self.profiler.profile(action):
                return function(*args, **kwargs)

        return recorded

    def each(self, action: str, items: Iterator[T], count: float) -> Iterator[T]:
        position = 0
        while position < count or math.isinf(count):
            try:
                with self.profiler.profile(action):
                    item = next(items)
            except StopIteration:
                return
            yield item
            position += 1

    def hooks(self, kind: str, owner: Any) -> Any:
        return None if owner is None else RecordedHooks(self, kind, owner)

    def start(self, run: Run) -> None:
        self._stage = str(run.state.fn)
        self.profiler._lightning_module = weakref.proxy(run.model)
        self.profiler._print = run.emit_text
        rank = run.strategy.local_rank if run.strategy.world_size > 1 else None
        self.profiler.setup(stage=self._stage, local_rank=rank, log_dir=run.trainer.log_dir)

    def report(self) -> None:
        self.profiler.describe()

    def abandon(self) -> None:
        self.profiler.teardown(stage=self._stage)

    def close(self) -> None:
        for name in ("_lightning_module", "_print"):
            vars(self.profiler).pop(name, None)


class RecordedHooks:
    """Stands for a model or datamodule where the loops call its methods."""

    def __init__(self, recorder: Recorder, kind: str, owner: Any) -> None:
        self._recorder, self._prefix, self._owner = recorder, f"[{kind}]{type(owner).__name__}", owner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._owner, name)
        return self._recorder.call(f"{self._prefix}.{name}", value) if callable(value) else value


def make_recorder(profiler: Any) -> Recorder:
    """For a Trainer's profiler; None is none."""
    return Recorder() if type(profiler) in (PassThroughProfiler, type(None)) else ProfilerRecorder(profiler)
