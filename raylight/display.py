"""What the user sees on the driver's terminal: bars, text and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylight.live_line import describe

if TYPE_CHECKING:
    from raylight.config.messages import Pace, Progress
    from raylight.worker.trainer_view import TrainerView


class Display:
    """Lets the trainer's progress bar draw what a run's events say. Runs on the driver."""

    def __init__(self, trainer: TrainerView) -> None:
        self._trainer = trainer

    @property
    def _bar(self) -> Any:
        return self._trainer.progress_bar_callback

    def progress(self, event: Progress) -> None:
        """Draw a bar as the event says."""
        self._bar.draw(self._trainer, event)

    @property
    def shows_pace(self) -> bool:
        """Whether there is a bar, and a place for a line below it."""
        return bool(getattr(self._bar, "shows_line", False))

    def pace(self, event: Pace, incidents: int) -> None:
        """Have the ranks' pace below the bars, and how many incidents the run has survived."""
        show_line = getattr(self._bar, "show_line", None)
        if show_line is not None:
            show_line(describe(event, incidents))

    def text(self, text: str) -> None:
        """Print beside the bars."""
        if self._bar is not None and getattr(self._bar, "is_enabled", True):
            self._bar.print(text)
        else:
            print(text, flush=True)

    def close(self) -> None:
        """Leave the terminal to others."""
        close_bars = getattr(self._bar, "close_bars", None)
        if close_bars is not None:
            close_bars()


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
