from typing import Any

import pytest

from raylight.callbacks import ProgressBar, TQDMProgressBar
from raylight.config.messages import Pace, Progress
from raylight.display import Display, print_results


class FakeTrainer:
    """What a display knows of a trainer."""

    def __init__(self, bar: Any = None) -> None:
        self.progress_bar_callback = bar


def display(bar: Any = None) -> Display:
    return Display(FakeTrainer(bar))  # type: ignore[arg-type]


def test_the_trainers_bar_draws_and_prints() -> None:
    class Recording(ProgressBar):
        is_enabled = True

        def __init__(self) -> None:
            self.told: list[Any] = []

        def draw(self, trainer: Any, event: Progress) -> None:
            self.told.append(event)

        def print(self, *args: Any, **kwargs: Any) -> None:
            self.told.append(args)

        def close_bars(self) -> None:
            self.told.append("closed")

    bar, event = Recording(), Progress("train", "Epoch 0", 0, 3, {})
    shown = display(bar)
    shown.progress(event)
    shown.text("beside")
    shown.close()
    assert bar.told == [event, ("beside",), "closed"]


def test_the_trainers_bar_shows_the_pace() -> None:
    class Recording(ProgressBar):
        shows_line = True
        line = ""

        def show_line(self, text: str) -> None:
            self.line = text

    bar, pace = Recording(), Pace(2, 100.0, 0.1, None, 0.0, 0.0)
    shown = display(bar)
    assert shown.shows_pace
    shown.pace(pace, incidents=3)
    assert bar.line == "2 workers | 100 samples/s | 100 ms per batch, no rank lags | 3 incidents"


@pytest.mark.parametrize("bar", [None, ProgressBar()])
def test_no_pace_where_no_bar_shows_it(bar: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shown = display(bar)
    assert not shown.shows_pace
    shown.pace(Pace(2, 100.0, 0.1, None, 0.0, 0.0), incidents=0)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("bar", [None, ProgressBar(), TQDMProgressBar(refresh_rate=0), TQDMProgressBar()])
def test_text_where_no_bar_is_drawn(bar: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shown = display(bar)
    shown.text("hello")
    shown.close()
    assert capsys.readouterr().out == "hello\n"


def test_results_table_has_a_column_per_loader(capsys: pytest.CaptureFixture[str]) -> None:
    print_results([{"acc/dataloader_idx_0": 0.5, "all": 1.0}, {"acc/dataloader_idx_1": 0.75, "all": 1.0}], "test")
    lines = capsys.readouterr().out.splitlines()
    assert any("DataLoader 0" in line and "DataLoader 1" in line for line in lines)
    assert any("acc" in line and "0.5" in line and "0.75" in line for line in lines)


def test_no_results_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_results([{}], "test")
    assert capsys.readouterr().out == ""
