"""What rich's bar is made of; apart from the callback, so that rich is imported when a bar is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.progress import Progress, ProgressColumn, Task
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from raylight.callbacks.progress.rich_progress import RichProgressBar


class BarsAndLine(Progress):
    """Bars, and a line of text below them where there is one."""

    line = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.line:
            yield Text(self.line, style="dim", no_wrap=True, overflow="ellipsis")


class _StyledColumn(ProgressColumn):
    def __init__(self, style: str | Style) -> None:
        self.style = style
        super().__init__()


class BatchesProcessedColumn(_StyledColumn):
    """Batches done and in all."""

    def render(self, task: Task) -> Text:
        total = "--" if task.total is None else int(task.total)
        return Text(f"{int(task.completed)}/{total}", style=self.style)


class CustomTimeColumn(_StyledColumn):
    """Time passed and left."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        passed = task.finished_time if task.finished else task.elapsed
        return Text(f"{_clock(passed)} • {_clock(task.time_remaining)}", style=self.style)


class ProcessingSpeedColumn(_StyledColumn):
    """Batches per second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.2f}it/s", style=self.style)


class MetricsTextColumn(_StyledColumn):
    """The metrics, beside the training bar only."""

    def __init__(self, bar: RichProgressBar, style: str | Style, text_delimiter: str, metrics_format: str) -> None:
        super().__init__(style)
        self._bar = bar
        self._text_delimiter = text_delimiter
        self._metrics_format = metrics_format
        self._metrics: Mapping[str, Any] = {}

    def update(self, metrics: Mapping[str, Any]) -> None:
        """Show these from now on."""
        self._metrics = metrics

    def render(self, task: Task) -> Text:
        if task.id != self._bar.train_progress_bar_id:
            return Text()
        return Text(self._text_delimiter.join(self._texts()), justify="left", style=self.style)

    def _texts(self) -> Iterator[str]:
        for name, value in self._metrics.items():
            number = isinstance(value, float)
            yield f"{name}: {format(value, self._metrics_format)}" if number else f"{name}: {value}"


def _clock(seconds: float | None) -> str:
    return "-:--:--" if seconds is None else str(timedelta(seconds=int(seconds)))
