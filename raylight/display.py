"""What the user sees on the driver's terminal: bars, tables, text; drawn from a run's events."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raylight.config.messages import Progress


class Display:
    """Bars and lines of a run. Runs on the driver; nothing is imported or drawn before the first event."""

    def __init__(self) -> None:
        self._bars: _RichBars | _TqdmBars | None = None

    def progress(self, event: Progress) -> None:
        """Draw a bar as the event says."""
        if self._bars is None:
            self._bars = _TqdmBars() if event.style == "tqdm" else _RichBars()
        self._bars.draw(event)

    def text(self, text: str) -> None:
        """Print beside the bars."""
        if self._bars is not None:
            self._bars.print(text)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Leave the terminal to others."""
        if self._bars is not None:
            self._bars.close()
            self._bars = None


def format_metrics(metrics: dict[str, Any]) -> str:
    """``name: value`` pairs as they stand beside a bar."""
    return " ".join(
        f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}" for name, value in metrics.items()
    )


class _RichBars:
    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[metrics]}"),
            console=self._console,
            auto_refresh=False,
            disable=not self._console.is_terminal and not self._console.is_jupyter,
        )
        self._tasks: dict[str, Any] = {}
        self._progress.start()

    def draw(self, event: Progress) -> None:
        total = None if math.isinf(event.total) else event.total
        task = self._tasks.get(event.key)
        if task is None or event.completed == 0:
            if task is not None:
                self._progress.remove_task(task)
            task = self._progress.add_task(event.description, total=total, metrics="", speed="")
            self._tasks[event.key] = task
        elapsed = self._progress.tasks[self._progress.task_ids.index(task)].elapsed or 0.0
        speed = f"{event.completed / elapsed:.1f} it/s" if elapsed else ""
        self._progress.update(
            task,
            description=event.description,
            completed=event.completed,
            total=total,
            metrics=format_metrics(event.metrics),
            speed=speed,
            refresh=True,
        )
        if event.done:
            if event.key == "train":
                self._tasks.pop(event.key)  # stays on the terminal
            else:
                self._progress.remove_task(self._tasks.pop(event.key))

    def print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()


class _TqdmBars:
    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def draw(self, event: Progress) -> None:
        from tqdm.auto import tqdm

        bar = self._bars.get(event.key)
        if bar is None or event.completed == 0:
            if bar is not None:
                bar.close()
            total = None if math.isinf(event.total) else event.total
            bar = tqdm(total=total, leave=event.key == "train", file=sys.stdout, dynamic_ncols=True)
            self._bars[event.key] = bar
        bar.set_description(event.description, refresh=False)
        bar.set_postfix(event.metrics, refresh=False)
        bar.n = event.completed
        bar.refresh()
        if event.done:
            self._bars.pop(event.key).close()

    def print(self, text: str) -> None:
        from tqdm.auto import tqdm

        tqdm.write(text)

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()


def print_results(results: list[dict[str, float]], stage: str) -> None:
    """The table of an evaluation: a row per metric, a column per dataloader."""
    from rich.console import Console
    from rich.table import Table

    names = sorted({name for result in results for name in result})
    if not names:
        return
    plain = {name: name.rpartition("/dataloader_idx_")[0] or name for name in names}
    table = Table(f"{stage.capitalize()} metric", *(f"DataLoader {i}" for i in range(len(results))))
    for metric in dict.fromkeys(plain.values()):
        keys = [name for name in names if plain[name] == metric]
        cells = [next((f"{result[key]}" for key in keys if key in result), "") for result in results]
        table.add_row(metric, *cells)
    Console().print(table)
