from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from raylight.callbacks import TQDMProgressBar
from raylight.callbacks.progress.tqdm_progress import Tqdm
from raylight.config.messages import Progress


def test_bars_of_a_fit(in_raylight: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Model(type(in_raylight.model(val_losses=[1.0]))):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("shown", 7.0, prog_bar=True)
            return super().training_step(batch, batch_idx)

    bar = TQDMProgressBar()
    in_raylight.trainer(bar, enable_progress_bar=True, max_epochs=2).fit(Model())
    drawn = capsys.readouterr().out
    assert "Sanity Checking DataLoader 0: " in drawn
    assert "Validation DataLoader 0: 100%|" in drawn
    last = drawn.replace("\n", "").split("\r")[-1]
    assert "Epoch 1: 100%" in last
    assert "4/4" in last
    assert "shown=7.000" in last
    assert bar.train_progress_bar.n == 4


def test_what_a_subclass_may_change(in_raylight: Any, capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    class Bar(in_raylight.pl.callbacks.TQDMProgressBar):  # type: ignore[misc]
        def init_train_tqdm(self) -> Any:
            bar = super().init_train_tqdm()
            bar.colour = "green"
            return bar

        def init_validation_tqdm(self) -> Any:
            return Tqdm(disable=True)

        def get_metrics(self, trainer: Any, pl_module: Any) -> Any:
            items = super().get_metrics(trainer, pl_module)
            items.pop("v_num", None)
            return {**items, "batch": trainer.state.batch_idx}

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            seen.append((self.train_progress_bar.n, self.train_progress_bar.total, self.train_progress_bar.postfix))

    bar = Bar()
    model = in_raylight.model(val_losses=[1.0])
    in_raylight.trainer(bar, enable_progress_bar=True, max_epochs=1, num_sanity_val_steps=0).fit(model)
    drawn = capsys.readouterr().out
    assert seen == [(n, 4, f"batch={n - 1}") for n in (1, 2, 3, 4)]
    assert "\x1b[32m" in drawn
    assert "Validation" not in drawn


def test_refresh_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TQDMProgressBar().refresh_rate == 1
    monkeypatch.setenv("TQDM_MINITERS", "5")
    assert TQDMProgressBar().refresh_rate == 5
    assert TQDMProgressBar(refresh_rate=7).refresh_rate == 7
    assert TQDMProgressBar(refresh_rate=0).refresh_rate == 0
    monkeypatch.delenv("TQDM_MINITERS")
    monkeypatch.setenv("COLAB_GPU", "1")
    assert TQDMProgressBar().refresh_rate == 20
    assert TQDMProgressBar(refresh_rate=19).refresh_rate == 19


@pytest.mark.parametrize("name", ["train", "val", "test", "predict"])
def test_no_bar_yet(name: str) -> None:
    with pytest.raises(TypeError, match=f"`TQDMProgressBar._{name}_progress_bar` reference has not been set yet"):
        getattr(TQDMProgressBar(), f"{name}_progress_bar")


def test_bars_that_are_off(in_raylight: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Bar(in_raylight.pl.callbacks.TQDMProgressBar):  # type: ignore[misc]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_epoch_end(trainer, pl_module)
            self.train_progress_bar.set_postfix({"never": "shown"})

    in_raylight.trainer(Bar(refresh_rate=0), enable_progress_bar=True, max_epochs=1).fit(in_raylight.model())
    assert capsys.readouterr().out == ""


def test_print_beside_the_bar(in_raylight: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Model(type(in_raylight.model())):  # type: ignore[misc]
        def on_train_epoch_end(self) -> None:
            self.print("one", "two", sep="-")

    in_raylight.trainer(TQDMProgressBar(), enable_progress_bar=True, max_epochs=1).fit(Model())
    assert "one-two" in capsys.readouterr().out.replace("\r", "\n").splitlines()


def test_bars_end_with_the_run(in_raylight: Any) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    bar = TQDMProgressBar()
    failing = in_raylight.pl.callbacks.LambdaCallback(on_train_epoch_end=fail)
    with pytest.raises(ZeroDivisionError):
        in_raylight.trainer(failing, bar, enable_progress_bar=True, max_epochs=1).fit(in_raylight.model())
    assert bar.train_progress_bar.disable  # closed


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1"), (1.0, "1.000"), ("a", "a"), (12345.678, "1.23e+4"), ("7", "7.000"), (0.25, "0.250")]
)
def test_width_of_numbers(number: Any, text: str) -> None:
    assert Tqdm.format_num(number) == text


def test_a_line_below_the_bars(capsys: pytest.CaptureFixture[str]) -> None:
    bar = TQDMProgressBar()
    bar.show_line("too early")
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn="fit"))
    bar.draw(trainer, Progress("train", "Epoch 0", 0, 4, {}, starts=True))
    bar.draw(trainer, Progress("train", "Epoch 0", 1, 4, {}))
    bar.show_line("2 workers")
    drawn = capsys.readouterr().out
    assert "too early" not in drawn
    assert drawn.index("1/4") < drawn.index("\n\n\r2 workers")  # two rows further down
    bar.draw(trainer, Progress("train", "Epoch 0", 4, 4, {}, done=True))
    ending = capsys.readouterr().out
    assert ending.index("\n\n\r" + " " * len("2 workers")) < ending.rindex("4/4")  # gone before the bar is left
    bar.show_line("too late")
    bar.close_bars()
    assert capsys.readouterr().out == ""


def test_a_line_goes_with_the_bars(capsys: pytest.CaptureFixture[str]) -> None:
    bar = TQDMProgressBar()
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn="fit"))
    bar.draw(trainer, Progress("train", "Epoch 0", 1, 4, {}, starts=True))
    bar.show_line("2 workers")
    bar.close_bars()
    assert bar._line is None
    assert not Tqdm._instances
    capsys.readouterr()


def test_where_there_is_a_place_for_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not TQDMProgressBar().shows_line  # pytest's standard output is no terminal
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert TQDMProgressBar().shows_line
    assert not TQDMProgressBar(refresh_rate=0).shows_line
