"""A progress bar drawn by rich: the default one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raylight.callbacks.progress.bar_lines import BarLines
from raylight.callbacks.progress.drawn_bar import SECONDS_BETWEEN_REFRESHES, DrawnBar
from raylight.config.messages import Progress
from raylight.config.run_id import run_id

if TYPE_CHECKING:
    from rich.progress import Task, TaskID
    from rich.style import Style

    from raylight.worker.trainer_view import TrainerView

TASKS = {
    "sanity_check": "val_sanity_progress_bar_id",
    "train": "train_progress_bar_id",
    "validate": "val_progress_bar_id",
    "test": "test_progress_bar_id",
    "predict": "predict_progress_bar_id",
}
"""Where the task of an event is kept."""

COLUMNS = ("BatchesProcessedColumn", "CustomTimeColumn", "MetricsTextColumn", "ProcessingSpeedColumn")
"""Of ``rich_columns``, for a ``configure_columns`` of the user's; imported when asked for."""


@dataclass
class RichProgressBarTheme:
    """Styles of the parts of the bar, in rich's notation, and how metrics are written."""

    description: str | Style = ""
    """Such as "Epoch 3"."""
    progress_bar: str | Style = "#6206E0"
    progress_bar_finished: str | Style = "#6206E0"
    progress_bar_pulse: str | Style = "#6206E0"
    """A bar without a known end."""
    batch_progress: str | Style = ""
    """Such as "10/50"."""
    time: str | Style = "dim"
    """Passed and left."""
    processing_speed: str | Style = "dim underline"
    metrics: str | Style = "italic"
    metrics_text_delimiter: str = " "
    metrics_format: str = ".3f"
    """Of numbers."""


class RichProgressBar(DrawnBar):
    """A bar drawn by rich, where standard output is a terminal.

    Args:
        refresh_rate: Refreshes per second at the most, and never more than five; 0 shows nothing.
        leave: Keep the finished bar of each epoch on the terminal.
        theme: Styles. None: the default ones.
        console_kwargs: Arguments for ``rich.reconfigure``, which makes the console.

    Override ``configure_columns`` to change the parts of the bar, or ``get_metrics`` to change what stands beside it.
    """

    progress: Any = None
    """rich's ``Progress``; None before the first bar, and in processes that do not draw."""
    train_progress_bar_id: TaskID | None = None
    val_sanity_progress_bar_id: TaskID | None = None
    val_progress_bar_id: TaskID | None = None
    test_progress_bar_id: TaskID | None = None
    predict_progress_bar_id: TaskID | None = None
    _drawn: Any = MappingProxyType({})
    """rich's tasks by the key of their events, for the step path: ``progress.tasks`` takes a lock."""
    _metric_component: Any = None
    _progress_stopped = False
    _lines: BarLines | None = None
    """In place of the bar, in a job, whose output is not a terminal."""
    _OF_THIS_PROCESS = (
        "_trainer",
        "progress",
        "_drawn",
        "_metric_component",
        "_progress_stopped",
        "_lines",
        *TASKS.values(),
    )

    def __init__(
        self,
        refresh_rate: int | float = 100,
        leave: bool = False,
        theme: RichProgressBarTheme | None = None,
        console_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self._refresh_rate = refresh_rate
        self._leave = leave
        self._console_kwargs = console_kwargs or {}
        self.theme = RichProgressBarTheme() if theme is None else theme

    @property
    def refresh_rate(self) -> int | float:
        return self._refresh_rate

    @property
    def is_enabled(self) -> bool:
        return self._enabled and self.refresh_rate > 0

    def seconds_between_refreshes(self) -> float:
        return max(SECONDS_BETWEEN_REFRESHES, 1 / self.refresh_rate)

    def describe_epoch(self, trainer: TrainerView) -> str:
        last = "" if trainer.max_epochs in (None, -1) else f"/{int(trainer.max_epochs) - 1}"
        # As wide as the other bar's, which comes and goes
        return f"Epoch {trainer.current_epoch}{last}".ljust(len(self.validation_description))

    # The bars

    @property
    def train_progress_bar(self) -> Task:
        return self._task("train")

    @property
    def val_sanity_check_bar(self) -> Task:
        return self._task("sanity_check")

    @property
    def val_progress_bar(self) -> Task:
        return self._task("validate")

    @property
    def test_progress_bar(self) -> Task:
        return self._task("test")

    @property
    def predict_progress_bar(self) -> Task:
        return self._task("predict")

    def _task(self, key: str) -> Task:
        assert self.progress is not None
        task_id = getattr(self, TASKS[key])
        assert task_id is not None
        task: Task = self.progress.tasks[task_id]
        return task

    def configure_columns(self, trainer: TrainerView) -> list[Any]:
        """The columns left of the metrics, as for ``rich.progress.Progress``."""
        from rich.progress import BarColumn, TextColumn

        from raylight.callbacks.progress import rich_columns

        return [
            TextColumn("[progress.description]{task.description}"),
            BarColumn(
                complete_style=self.theme.progress_bar,
                finished_style=self.theme.progress_bar_finished,
                pulse_style=self.theme.progress_bar_pulse,
            ),
            rich_columns.BatchesProcessedColumn(self.theme.batch_progress),
            rich_columns.CustomTimeColumn(self.theme.time),
            rich_columns.ProcessingSpeedColumn(self.theme.processing_speed),
        ]

    # Drawing. Runs on the driver.

    def draw(self, trainer: TrainerView, event: Progress) -> None:
        self._trainer = trainer
        if self.progress is None or self._progress_stopped:
            if event.done:
                return
            self._start_progress(trainer)
        if self._lines is not None:
            self._lines.draw(event)
            return
        task = self._task_of(event)
        if event.metrics:
            self._metric_component.update(event.metrics)
        done_in_fit = event.done and event.key in ("sanity_check", "validate") and trainer.state.fn == "fit"
        self.progress.update(task.id, completed=event.completed, visible=not done_in_fit, refresh=True)

    def _task_of(self, event: Progress) -> Task:
        """The task of an event, started anew or made where the event says so."""
        total = None if math.isinf(event.total) else event.total
        style = self.theme.description
        description = f"[{style}]{event.description}" if style else event.description
        task_id = getattr(self, TASKS[event.key])
        leaves = self._leave and event.key == "train" and event.starts
        if task_id is None or (leaves and self.progress.tasks[task_id].completed):
            task_id = self.progress.add_task(description, total=total)
            setattr(self, TASKS[event.key], task_id)
        elif event.starts:
            self.progress.reset(task_id)
        task: Task = self.progress.tasks[task_id]
        task.total, task.description = total, description
        self._drawn[event.key] = task
        return task

    def _start_progress(self, trainer: TrainerView) -> None:
        import rich

        from raylight.callbacks.progress.rich_columns import BarsAndLine, MetricsTextColumn

        self._drawn = {}
        rich.reconfigure(**self._console_kwargs)
        console = rich.get_console()
        for name in TASKS.values():
            setattr(self, name, None)
        theme = self.theme
        self._metric_component = MetricsTextColumn(
            self, theme.metrics, theme.metrics_text_delimiter, theme.metrics_format
        )
        self.progress = BarsAndLine(
            *self.configure_columns(trainer),
            self._metric_component,
            console=console,
            auto_refresh=False,
            disable=not console.is_terminal and not console.is_jupyter,
        )
        self.progress.start()
        self._progress_stopped = False
        self._lines = BarLines() if run_id() is not None and self.progress.disable else None

    def refresh(self, hard: bool = False) -> None:
        """Draw the bars of this process now, where there are any; ``hard`` makes no difference."""
        if self.progress is not None:
            self.progress.refresh()

    def move(self, key: str, completed: int) -> None:
        task = self._drawn.get(key)
        if task is not None:
            task.completed = completed

    @property
    def shows_line(self) -> bool:
        from rich.console import Console

        console = Console(**self._console_kwargs)
        return self.is_enabled and (console.is_terminal or console.is_jupyter)

    def show_line(self, text: str) -> None:
        if self.progress is not None and not self._progress_stopped:
            self.progress.line = text
            self.progress.refresh()

    def close_bars(self) -> None:
        if self.progress is not None and not self._progress_stopped:
            self.progress.line = ""  # what it tells is over
            self.progress.stop()
            self._progress_stopped = True


def __getattr__(name: str) -> Any:
    if name not in COLUMNS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from raylight.callbacks.progress import rich_columns

    return getattr(rich_columns, name)
