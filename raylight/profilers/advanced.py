"""AdvancedProfiler: which functions each action spent its time in."""

from __future__ import annotations

import cProfile
import io
import marshal
import pstats
from typing import TYPE_CHECKING, Any, BinaryIO

from raylight.checkpoint import storage
from raylight.profilers.base import Profiler
from raylight.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from raylight.checkpoint.storage import PathOrURI


class AdvancedProfiler(Profiler):
    """Records each action with Python's cProfile. Time inside a nested action counts for that one alone.

    Args:
        dirpath: See ``Profiler``.
        filename: See ``Profiler``.
        line_count_restriction: Functions to report per action: a count (int), or a share of them (0.0 to 1.0).
        dump_stats: Also write what ``pstats`` reads, a ".prof" file per action, to ``dirpath``.
    """

    def __init__(
        self,
        dirpath: PathOrURI | None = None,
        filename: str | None = None,
        line_count_restriction: float = 1.0,
        dump_stats: bool = False,
    ) -> None:
        super().__init__(dirpath, filename)
        self.line_count_restriction = line_count_restriction
        self.dump_stats = dump_stats
        self.profiled_actions: dict[str, cProfile.Profile] = {}
        self._open: list[str] = []
        """Actions under way, the innermost last: only that one's profile records, as Python allows one at a time."""

    def start(self, action_name: str) -> None:
        if self._open:
            self.profiled_actions[self._open[-1]].disable()
        self._open.append(action_name)
        self.profiled_actions.setdefault(action_name, cProfile.Profile()).enable()

    def stop(self, action_name: str) -> None:
        """End an action.

        Raises:
            ValueError: It was never started.
        """
        profile = self.profiled_actions.get(action_name)
        if profile is None:
            raise ValueError(f"Attempting to stop recording an action ({action_name}) which was never started.")
        profile.disable()
        if action_name in self._open:
            self._open.reverse()
            self._open.remove(action_name)  # the innermost of this name
            self._open.reverse()
        if self._open:
            self.profiled_actions[self._open[-1]].enable()

    def summary(self) -> str:
        texts = {}
        for action_name, profile in self.profiled_actions.items():
            profile.create_stats()
            if not profile.stats:
                continue
            if self.dump_stats:
                self._dump_stats(action_name, profile)
            text = io.StringIO()
            stats = pstats.Stats(profile, stream=text).strip_dirs().sort_stats("cumulative")
            stats.print_stats(self.line_count_restriction)
            texts[action_name] = text.getvalue()
        return self._stats_to_str(texts)

    def _dump_stats(self, action_name: str, profile: cProfile.Profile) -> None:
        if self.dirpath is None:
            raise MisconfigurationException("AdvancedProfiler(dump_stats=True) writes files: give it a dirpath.")

        def write(stream: BinaryIO) -> None:
            marshal.dump(profile.stats, stream)

        name = self._prepare_filename(action_name=action_name, extension=".prof")
        storage.write_atomic(storage.join(self.dirpath, name), write)

    def teardown(self, stage: str | None) -> None:
        for profile in self.profiled_actions.values():
            profile.disable()
        self.profiled_actions.clear()
        self._open.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "profiled_actions": {}, "_open": []}  # cProfile's objects cannot be copied
