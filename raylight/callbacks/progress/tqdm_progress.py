"""A progress bar drawn by tqdm."""

from __future__ import annotations

import math
import os
import sys
from typing import TYPE_CHECKING, Any

from raylight.callbacks.progress.drawn_bar import DrawnBar
from raylight.config.messages import Progress
from raylight.utilities.notebook import has_one_line

if TYPE_CHECKING:
    from raylight.callbacks.progress.tqdm_bar import Tqdm
    from raylight.worker.trainer_view import TrainerView

ATTRIBUTES = {
    "sanity_check": "_val_progress_bar",
    "train": "_train_progress_bar",
    "validate": "_val_progress_bar",
    "test": "_test_progress_bar",
    "predict": "_predict_progress_bar",
}
"""Where the bar of an event is kept."""


class TQDMProgressBar(DrawnBar):
    """A bar drawn by tqdm: one for training, one for each evaluation.

    It is drawn a few times a second at the most; ``train_progress_bar.n`` is always up to date. Where training runs in
    other processes, the bars are those of the driver; there the properties give a bar that shows nothing.

    Args:
        refresh_rate: Batches between two refreshes at the least; 0 shows nothing. The environment variable
            TQDM_MINITERS may ask for more; on Google Colab 1 means 20.
        process_position: Where to draw: twice as many lines are left free above the bars.
        leave: Keep the finished bar of each epoch on the terminal.

    Override ``init_train_tqdm`` and its like to change a bar, or ``get_metrics`` to change what stands beside it.
    """

    BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"

    _train_progress_bar: Any = None
    _val_progress_bar: Any = None
    _test_progress_bar: Any = None
    _predict_progress_bar: Any = None
    _line: Any = None
    _OF_THIS_PROCESS = ("_trainer", "_open", "_line", *ATTRIBUTES.values())

    def __init__(self, refresh_rate: int = 1, process_position: int = 0, leave: bool = False) -> None:
        self._refresh_rate = self._batches_between_refreshes = _resolve_refresh_rate(refresh_rate)
        self._process_position = process_position
        self._leave = leave

    @property
    def refresh_rate(self) -> int:
        return self._refresh_rate

    @property
    def process_position(self) -> int:
        return self._process_position

    @property
    def is_enabled(self) -> bool:
        return self._enabled and self.refresh_rate > 0

    # The bars

    @property
    def train_progress_bar(self) -> Tqdm:
        return self._bar("_train_progress_bar")

    @train_progress_bar.setter
    def train_progress_bar(self, bar: Tqdm) -> None:
        self._train_progress_bar = bar

    @property
    def val_progress_bar(self) -> Tqdm:
        return self._bar("_val_progress_bar")

    @val_progress_bar.setter
    def val_progress_bar(self, bar: Tqdm) -> None:
        self._val_progress_bar = bar

    @property
    def test_progress_bar(self) -> Tqdm:
        return self._bar("_test_progress_bar")

    @test_progress_bar.setter
    def test_progress_bar(self, bar: Tqdm) -> None:
        self._test_progress_bar = bar

    @property
    def predict_progress_bar(self) -> Tqdm:
        return self._bar("_predict_progress_bar")

    @predict_progress_bar.setter
    def predict_progress_bar(self, bar: Tqdm) -> None:
        self._predict_progress_bar = bar

    def _bar(self, name: str) -> Tqdm:
        bar: Tqdm | None = getattr(self, name)
        if bar is None and (self._drawn_elsewhere or (self.is_disabled and self._trainer is not None)):
            return _silent_bar()
        if bar is None:
            raise TypeError(f"The `{type(self).__name__}.{name}` reference has not been set yet.")
        return bar

    def init_sanity_tqdm(self) -> Tqdm:
        """The bar of the sanity check."""
        return self._make_bar(self.sanity_check_description, leave=False)

    def init_train_tqdm(self) -> Tqdm:
        """The bar of training."""
        return self._make_bar(self.train_description, leave=True, smoothing=0)

    def init_validation_tqdm(self) -> Tqdm:
        """The bar of validation: one line below that of training, where there is one."""
        in_fit = self.trainer.state.fn != "validate"
        return self._make_bar(self.validation_description, leave=not in_fit, offset=int(in_fit))

    def init_test_tqdm(self) -> Tqdm:
        """The bar of a test."""
        return self._make_bar(self.test_description, leave=True)

    def init_predict_tqdm(self) -> Tqdm:
        """The bar of a prediction."""
        return self._make_bar(self.predict_description, leave=True, smoothing=0)

    def _make_bar(self, description: str, leave: bool, offset: int = 0, **settings: Any) -> Tqdm:
        bar: Tqdm = sys.modules[__name__].Tqdm(  # by name: another may have been put there
            desc=description,
            position=0 if has_one_line() else 2 * self.process_position + offset,
            disable=self.is_disabled,
            leave=leave,
            dynamic_ncols=True,
            file=sys.stdout,
            bar_format=self.BAR_FORMAT,
            **settings,
        )
        return bar

    # Drawing. Runs on the driver.

    @property
    def _open_bars(self) -> dict[str, Tqdm]:
        bars: dict[str, Tqdm] = vars(self).setdefault("_open", {})
        return bars

    def draw(self, trainer: TrainerView, event: Progress) -> None:
        self._trainer = trainer
        bar = self._open_bars.get(event.key)
        if event.done and bar is None:
            return
        restarts = self._leave and event.key == "train" and event.starts
        fresh = bar is None and not restarts
        if bar is None or restarts:
            bar = self._open_bar(event.key)
        if not event.done and not fresh:  # a fresh one is as the user's own `init_train_tqdm` has made it
            self._label(bar, event)
        if event.metrics:
            bar.set_postfix(event.metrics, refresh=False)
        if not bar.disable:
            bar.n = event.completed
            bar.refresh()
        if event.done:
            if bar.leave:  # all that comes is one row further down, where tqdm would not find the line
                self._close_line()
            self._open_bars.pop(event.key).close()

    @staticmethod
    def _label(bar: Tqdm, event: Progress) -> None:
        total = None if math.isinf(event.total) else int(event.total)
        if event.starts or bar.total != total:  # training that goes on within an epoch has no start
            bar.reset(total)  # also of the widget, in a notebook
            bar.total, bar.initial = total, 0
            bar.set_description(event.description, refresh=False)

    def _open_bar(self, key: str) -> Tqdm:
        unused = self._open_bars.pop(key, None)
        if unused is not None:
            unused.leave = False
            unused.close()
        bar = self._init_bar(key)
        self._open_bars[key] = bar
        setattr(self, ATTRIBUTES[key], bar)
        return bar

    def _init_bar(self, key: str) -> Tqdm:
        if key == "train":
            return self.init_train_tqdm()
        if key == "sanity_check":
            self._train_progress_bar = _silent_bar()  # hooks may ask for it
            return self.init_sanity_tqdm()
        if key == "validate":
            return self.init_validation_tqdm()
        return self.init_test_tqdm() if key == "test" else self.init_predict_tqdm()

    def move(self, key: str, completed: int) -> None:
        bar = None if self._drawn_elsewhere else self._open_bars.get(key)
        if bar is not None and not bar.disable:
            bar.n = completed

    @property
    def shows_line(self) -> bool:
        return self.is_enabled and sys.stdout.isatty()

    def show_line(self, text: str) -> None:
        if not self._open_bars:
            return
        if self._line is None:
            self._line = _text_line(position=2 * self.process_position + 2)  # below a validation's within fit
        self._line.set_description_str(text)

    def _close_line(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def close_bars(self) -> None:
        self._close_line()
        while self._open_bars:
            self._open_bars.popitem()[1].close()

    def print(self, *args: Any, sep: str = " ", **kwargs: Any) -> None:
        active = next((bar for bar in self._open_bars.values() if not bar.disable), None)
        if active is None:
            print(*args, sep=sep, **kwargs)
        else:
            active.write(sep.join(map(str, args)), **kwargs)


def _silent_bar() -> Tqdm:
    from raylight.callbacks.progress.tqdm_bar import Tqdm

    bar = Tqdm(disable=True)
    bar.total, bar.desc = None, ""  # tqdm sets them where it shows something
    return bar


def _text_line(position: int) -> Tqdm:
    from raylight.callbacks.progress.tqdm_bar import Tqdm

    return Tqdm(bar_format="{desc}", position=position, leave=False, dynamic_ncols=True, file=sys.stdout)


def _resolve_refresh_rate(refresh_rate: int) -> int:
    if os.getenv("COLAB_GPU") and refresh_rate == 1:  # the notebook cannot follow
        return 20
    if refresh_rate and "TQDM_MINITERS" in os.environ:
        return max(int(os.environ["TQDM_MINITERS"]), refresh_rate)
    return refresh_rate


def __getattr__(name: str) -> Any:
    if name != "Tqdm":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from raylight.callbacks.progress.tqdm_bar import Tqdm

    return Tqdm
