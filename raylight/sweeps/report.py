"""What a sweep shows: a table in the terminal, and plots."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from raylight.sweeps.record import FAILED, OVER, RUNNING, STOPPED, SweepRecord, TrialRecord
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.secrets import redact, redact_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ROWS = 16
"""Of the table while trials run; those that run come first, then the best."""
STYLES = {RUNNING: "cyan", FAILED: "red", STOPPED: "dim"}
WIDTH = 160
REDRAWS_PER_SECOND = 4


class SweepDisplay:
    """Draws the table while trials run; where nobody watches, a line per trial that ends. Runs on the driver.

    Args:
        record: The sweep.
        total: Trials in all.
        enabled: False shows nothing.
    """

    def __init__(self, record: SweepRecord, total: int, enabled: bool) -> None:
        from rich.live import Live

        self._record = record
        self._total = total
        self._enabled = enabled
        self._console = console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._is_watched = enabled and self._console.is_terminal
        self._next_draw = 0.0

    def __enter__(self) -> SweepDisplay:
        if self._is_watched:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_watched:
            self._live.stop()
        if self._enabled:
            self._console.print(table(self._record, total=self._total))

    def changed(self, trial: TrialRecord) -> None:
        """A trial has begun, reported or ended."""
        if self._is_watched:
            if time.monotonic() >= self._next_draw or trial.status in OVER:
                self._next_draw = time.monotonic() + 1 / REDRAWS_PER_SECOND
                self._live.update(table(self._record, ROWS, self._total), refresh=True)
        elif self._enabled and trial.status in OVER:
            done = sum(each.status in OVER for each in self._record.trials.values())
            value = trial.value(self._record.metric)
            what = redact_text(trial.error) if trial.error is not None else f"{self._record.metric} {_number(value)}"
            params = ", ".join(f"{name}={_number(each)}" for name, each in redact(trial.params)[0].items())
            print(f"[{done}/{self._total}] {trial.name} {trial.status}: {what} ({params})", flush=True)


def console() -> Console:
    """The terminal, or, where the output goes elsewhere, lines of ``WIDTH`` characters."""
    from rich.console import Console

    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=WIDTH)


def table(record: SweepRecord, rows: int | None = None, total: int | None = None) -> Table:
    """The trials, the best first.

    Args:
        rows: How many at the most; None: all.
        total: Trials that there will be; None: no more than there are.
    """
    from rich.table import Table

    trials = sorted(record.trials.values(), key=lambda trial: _order(record, trial))
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    over = sum(trial.status in OVER for trial in trials)
    failed = sum(trial.status == FAILED for trial in trials)
    title = f"{over} of {total or len(trials)} trials over" + (f", {failed} failed" if failed else "")
    shown = Table(title=title)
    for heading in ("trial", "state", *names, "reports", f"{record.metric} ({record.mode})"):
        shown.add_column(heading, no_wrap=True)
    if failed:
        shown.add_column("error", no_wrap=True, overflow="ellipsis")
    best = record.best
    if rows is not None and len(trials) > rows:
        trials = sorted(trials, key=lambda trial: trial.status != RUNNING)[:rows]
    for trial in trials:
        style = "bold green" if trial is best else STYLES.get(trial.status)
        shown.add_row(
            trial.name, trial.status, *(_number(redact(trial.params)[0].get(name)) for name in names),
            str(len(trial.reports)), _number(trial.value(record.metric)),
            *([redact_text(trial.error or "")] if failed else []), style=style,
        )  # fmt: skip
    return shown


def _order(record: SweepRecord, trial: TrialRecord) -> float:
    value = trial.value(record.metric)
    if value is None or math.isnan(value):
        return math.inf
    return value if record.mode == "min" else -value


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def plot(record: SweepRecord) -> Any:
    """The metric of all trials over their steps, and parallel coordinates of their parameters, as a matplotlib figure.

    Raises:
        MisconfigurationException: matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MisconfigurationException("plot() needs matplotlib: pip install matplotlib") from error
    trials = [trial for trial in record.trials.values() if trial.value(record.metric) is not None]
    shades = _shades(record, trials)
    figure = Figure(figsize=(14, 5), layout="constrained")
    curves, coordinates = figure.subplots(1, 2)
    for trial, shade in zip(trials, shades, strict=True):
        steps = [report["step"] for report in trial.reports]
        values = [report[record.metric] for report in trial.reports]
        curves.plot(steps, values, color=colormaps["viridis"](shade), marker="." if len(steps) == 1 else None)
    curves.set_xlabel("step")
    curves.set_ylabel(record.metric)
    _draw_coordinates(coordinates, record, trials, [colormaps["viridis"](shade) for shade in shades])
    return figure


def _shades(record: SweepRecord, trials: list[TrialRecord]) -> list[float]:
    """From 0, the worst trial, to 1, the best, by rank."""
    ranked = sorted(trials, key=lambda trial: _order(record, trial), reverse=True)
    places = {trial.name: place for place, trial in enumerate(ranked)}
    return [places[trial.name] / max(1, len(trials) - 1) for trial in trials]


def _draw_coordinates(axes: Any, record: SweepRecord, trials: list[TrialRecord], colors: list[Any]) -> None:
    names = [name for name in dict.fromkeys(n for t in trials for n in t.params) if _differ(trials, name)]
    columns = [_Column([redact(trial.params)[0].get(name) for trial in trials]) for name in names]
    columns.append(_Column([trial.value(record.metric) for trial in trials]))
    for row, color in enumerate(colors):
        axes.plot(range(len(columns)), [column.heights[row] for column in columns], color=color, alpha=0.8)
    for place, column in enumerate(columns):
        axes.axvline(place, color="0.8", zorder=0)
        for height, label in column.ticks:
            axes.annotate(label, (place, height), fontsize=8, ha="center", va="bottom")
    axes.set_xticks(range(len(columns)), [*names, record.metric])
    axes.set_yticks([])


def _differ(trials: list[TrialRecord], name: str) -> bool:
    return len({repr(trial.params.get(name)) for trial in trials}) > 1


class _Column:
    """One axis of the parallel coordinates: each value's height, from 0 to 1, and a few labels."""

    def __init__(self, values: list[Any]) -> None:
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(numbers) == len(values) and numbers and all(math.isfinite(number) for number in numbers):
            self._place_numbers(numbers)
        else:
            self._place_names([str(value) for value in values])

    def _place_numbers(self, numbers: list[float]) -> None:
        low, high = min(numbers), max(numbers)
        by_size = low > 0 and high / low >= 100  # over two orders of magnitude
        scaled = [math.log(number) if by_size else float(number) for number in numbers]
        least, most = min(scaled), max(scaled)
        self.heights = [(each - least) / ((most - least) or 1.0) for each in scaled]
        self.ticks = [(0.0, _number(float(low))), (1.0, _number(float(high)))] if low != high else [(0.0, _number(low))]

    def _place_names(self, names: list[str]) -> None:
        kinds = sorted(set(names))
        heights = {kind: place / max(1, len(kinds) - 1) for place, kind in enumerate(kinds)}
        self.heights = [heights[name] for name in names]
        self.ticks = [(heights[kind], kind) for kind in kinds]
