"""SimpleProfiler: how long each action took."""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from raylight.profilers.base import Profiler

if TYPE_CHECKING:
    from raylight.checkpoint.storage import PathOrURI

Row = tuple[str, ...]


class SimpleProfiler(Profiler):
    """Records the seconds that each action takes, and reports their mean and sum.

    Args:
        dirpath: See ``Profiler``.
        filename: See ``Profiler``.
        extended: Also report the number of calls, and the share of the time since this profiler was made.
    """

    def __init__(self, dirpath: PathOrURI | None = None, filename: str | None = None, extended: bool = True) -> None:
        super().__init__(dirpath, filename)
        self.extended = extended
        self.start_time = time.time()  # of day, as this profiler may travel to another machine
        self.current_actions: dict[str, float] = {}
        """When each action that is under way began."""
        self.recorded_durations: dict[str, list[float]] = defaultdict(list)
        """Seconds of each call, by action."""

    def start(self, action_name: str) -> None:
        """Begin an action.

        Raises:
            ValueError: It is under way.
        """
        if action_name in self.current_actions:
            raise ValueError(f"Attempted to start {action_name} which has already started.")
        self.current_actions[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """End an action.

        Raises:
            ValueError: It is not under way.
        """
        now = time.perf_counter()
        if action_name not in self.current_actions:
            raise ValueError(f"Attempting to stop recording an action ({action_name}) which was never started.")
        self.recorded_durations[action_name].append(now - self.current_actions.pop(action_name))

    def summary(self) -> str:
        stage = f"{self._stage.upper()} " if self._stage is not None else ""
        title = f"{stage}Profiler Report{os.linesep}"
        if not self.recorded_durations:
            return title + os.linesep
        lines = self._extended_table() if self.extended else self._short_table()
        return os.linesep.join([title, *lines, ""])

    def _short_table(self) -> list[str]:
        means = {action: math.fsum(each) / len(each) for action, each in self.recorded_durations.items()}
        rows = [
            (action, f"{means[action]:.5}", f"{math.fsum(self.recorded_durations[action]):.5}")
            for action in sorted(means, key=lambda action: means[action], reverse=True)
        ]
        header, *body = self._align([("Action", "Mean duration (s)", "Total time (s)"), *rows])
        rule = _rule(header)
        return [rule, header, rule, *body, rule]

    def _extended_table(self) -> list[str]:
        elapsed = time.time() - self.start_time
        totals = {action: math.fsum(each) for action, each in self.recorded_durations.items()}
        rows: list[Row] = []
        for action in sorted(totals, key=lambda action: totals[action], reverse=True):
            calls, total = len(self.recorded_durations[action]), totals[action]
            rows.append((action, f"{total / calls:.5}", f"{calls}", f"{total:.5}", f"{100 * total / elapsed:.5}"))
        names = ("Action", "Mean duration (s)", "Num calls", "Total time (s)", "Percentage %")
        calls = sum(map(len, self.recorded_durations.values()))
        header, total_row, *body = self._align([names, ("Total", "-", f"{calls}", f"{elapsed:.5}", "100 %"), *rows])
        rule = _rule(header)
        return [rule, header, rule, total_row, rule, *body, rule]

    def _align(self, rows: list[Row]) -> list[str]:
        width = max(map(len, self.recorded_durations))
        return [
            "|  " + "\t|  ".join([f"{action:<{width}}", *(f"{cell:<15}" for cell in cells)]) + "\t|"
            for action, *cells in rows
        ]


def _rule(header: str) -> str:
    return "-" * len((os.linesep + header).expandtabs())
