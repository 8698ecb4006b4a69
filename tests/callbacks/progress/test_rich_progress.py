from __future__ import annotations

import io
import math
from types import SimpleNamespace
from typing import Any

import pytest
import rich
from rich.progress import ProgressColumn, TextColumn

from raylight.callbacks.progress.rich_progress import RichProgressBar, RichProgressBarTheme
from raylight.config.messages import Progress


@pytest.fixture
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TERM": "xterm", "COLUMNS": "150"}.items():
        monkeypatch.setenv(name, value)


def fit(program: Any, bar: Any, **flags: Any) -> Any:
    class Model(type(program.model(val_losses=[1.0]))):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("shown", 7.0, prog_bar=True)
            return super().training_step(batch, batch_idx)

    trainer = program.trainer(bar, enable_progress_bar=True, **{"max_epochs": 2, **flags})
    trainer.fit(Model())
    return trainer


def epochs(drawn: str) -> list[str]:
    return [line for line in drawn.splitlines() if "Epoch" in line]


def test_defaults() -> None:
    bar = RichProgressBar()
    assert (bar.refresh_rate, bar.is_enabled, bar.progress) == (100, True, None)
    assert bar.theme == RichProgressBarTheme()
    assert bar.theme.metrics_format == ".3f"


@pytest.mark.usefixtures("_terminal")
def test_bars_of_a_fit(in_raylight: Any, capsys: pytest.CaptureFixture[str]) -> None:
    bar = RichProgressBar()
    fit(in_raylight, bar)
    drawn = capsys.readouterr().out
    assert "Sanity Checking" in drawn
    assert "Validation DataLoader 0" in drawn
    last = epochs(drawn)[-1]
    assert "Epoch 1/1" in last
    assert "4/4" in last
    assert "shown: 7.000" in last
    assert bar.train_progress_bar.completed == 4
    assert bar.val_progress_bar.total == 1


@pytest.mark.usefixtures("_terminal")
def test_finished_bars_stay(in_raylight: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fit(in_raylight, RichProgressBar(leave=True))
    last = epochs(capsys.readouterr().out)[-2:]
    assert ["Epoch 0/1" in last[0], "Epoch 1/1" in last[1]] == [True, True]


@pytest.mark.usefixtures("_terminal")
def test_theme(in_raylight: Any, capsys: pytest.CaptureFixture[str]) -> None:
    theme = RichProgressBarTheme(description="bold", metrics_text_delimiter="|", metrics_format=".1e")
    bar = RichProgressBar(theme=theme)
    fit(in_raylight, bar)
    drawn = capsys.readouterr().out
    assert "shown: 7.0e+00" in drawn
    assert "[bold]Epoch 1/1" in bar.train_progress_bar.description


def test_columns_of_ones_own(in_raylight: Any) -> None:
    column: ProgressColumn = TextColumn("[progress.description]mine")

    class Bar(in_raylight.pl.callbacks.RichProgressBar):  # type: ignore[misc]
        def configure_columns(self, trainer: Any) -> list[Any]:
            return [column]

    bar = Bar()
    fit(in_raylight, bar)
    assert bar.progress.columns[0] is column
    assert len(bar.progress.columns) == 2


def test_nothing_is_drawn_where_there_is_no_terminal(in_raylight: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fit(in_raylight, RichProgressBar())
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("_terminal")
def test_print_beside_the_bar(in_raylight: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Model(type(in_raylight.model())):  # type: ignore[misc]
        def on_train_epoch_end(self) -> None:
            self.print("one", "two", sep="-")

    in_raylight.trainer(RichProgressBar(), enable_progress_bar=True, max_epochs=1).fit(Model())
    assert "one-two" in capsys.readouterr().out


def test_disabled(in_raylight: Any) -> None:
    bar = RichProgressBar()
    bar.disable()
    fit(in_raylight, bar)
    assert bar.progress is None


@pytest.mark.usefixtures("_terminal")
def test_bar_without_a_known_end(in_raylight: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from raylight.config.messages import Progress

    bar, trainer = RichProgressBar(), in_raylight.trainer()
    bar.draw(trainer, Progress("test", "Testing", 0, math.inf, {}))
    bar.draw(trainer, Progress("test", "Testing", 7, math.inf, {}, done=True))
    bar.close_bars()
    assert "7/--" in capsys.readouterr().out


def test_a_line_below_the_bars() -> None:
    screen = io.StringIO()
    bar = RichProgressBar(console_kwargs={"file": screen, "force_terminal": True, "width": 60})
    assert bar.shows_line
    bar.show_line("too early")
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn="fit"))
    try:
        bar.draw(trainer, Progress("train", "Epoch 0", 1, 4, {"loss": 1.0}))
        bar.show_line("[b]2 workers[/b] | " + "x" * 60)
        shown = screen.getvalue()
        assert "too early" not in shown
        assert shown.index("1/4") < shown.index("[b]2 workers[/b] | xxx")  # as it stands, and on one line
        assert "…" in shown
        screen.truncate(0)
        bar.draw(trainer, Progress("train", "Epoch 0", 2, 4, {}))
        assert "2/4" in screen.getvalue()
        assert "2 workers" in screen.getvalue()
        screen.truncate(0)
        bar.close_bars()
        assert "2 workers" not in screen.getvalue()
        bar.show_line("too late")
        assert "too late" not in screen.getvalue()
    finally:
        rich.reconfigure()


def test_where_there_is_no_place_for_a_line() -> None:
    assert not RichProgressBar(console_kwargs={"file": io.StringIO()}).shows_line
    settings = {"file": io.StringIO(), "force_terminal": True}
    assert not RichProgressBar(refresh_rate=0, console_kwargs=settings).shows_line
