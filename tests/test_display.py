import math

import pytest

from raylight.config.messages import Progress
from raylight.display import Display, format_metrics, print_results


def bar(completed: int, total: float = 10, done: bool = False, style: str = "tqdm") -> Progress:
    return Progress("train", "Epoch 3", completed, total, {"v_num": 1, "loss": 0.25}, done, style)


def test_tqdm_bar_shows_progress_and_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display()
    for completed in (0, 5, 10):
        display.progress(bar(completed))
    display.close()
    last = capsys.readouterr().out.replace("\n", "").split("\r")[-1]
    assert "Epoch 3: 100%" in last
    assert "10/10" in last
    assert "v_num=1, loss=0.25" in last


def test_bar_without_a_known_end(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display()
    display.progress(bar(0, math.inf))
    display.progress(bar(7, math.inf, done=True))
    display.close()
    assert "Epoch 3: : 7it" in capsys.readouterr().out


def test_rich_bar_draws_nothing_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display()
    display.progress(bar(0, style="rich"))
    display.text("beside the bar")
    display.close()
    assert capsys.readouterr().out == "beside the bar\n"


def test_rich_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TERM": "xterm", "COLUMNS": "150"}.items():
        monkeypatch.setenv(name, value)
    display = Display()
    display.progress(bar(0, style="rich"))
    display.progress(bar(10, done=True, style="rich"))
    display.close()
    drawn = capsys.readouterr().out
    assert "10/10" in drawn
    assert "v_num: 1 loss: 0.250" in drawn


def test_text_without_a_bar_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    Display().text("hello")
    assert capsys.readouterr().out == "hello\n"


def test_metrics_beside_a_bar() -> None:
    assert format_metrics({"v_num": 3, "loss": 0.12345, "name": "x"}) == "v_num: 3 loss: 0.123 name: x"


def test_results_table_has_a_column_per_loader(capsys: pytest.CaptureFixture[str]) -> None:
    print_results([{"acc/dataloader_idx_0": 0.5, "all": 1.0}, {"acc/dataloader_idx_1": 0.75, "all": 1.0}], "test")
    lines = capsys.readouterr().out.splitlines()
    assert any("DataLoader 0" in line and "DataLoader 1" in line for line in lines)
    assert any("acc" in line and "0.5" in line and "0.75" in line for line in lines)


def test_no_results_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_results([{}], "test")
    assert capsys.readouterr().out == ""
