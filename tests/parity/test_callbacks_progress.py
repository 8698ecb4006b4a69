"""A subclass of TQDMProgressBar sees the same bars, at the same positions, in the same hooks."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

BARS = {
    "train_progress_bar": ["on_train_epoch_start", "on_train_batch_end", "on_train_epoch_end", "on_train_end"],
    "val_progress_bar": ["on_validation_batch_start", "on_validation_batch_end", "on_validation_end"],
    "test_progress_bar": ["on_test_batch_start", "on_test_batch_end", "on_test_end"],
    "predict_progress_bar": ["on_predict_batch_start", "on_predict_batch_end", "on_predict_end"],
}
INITS = ["sanity", "train", "validation", "test", "predict"]


def recording_bar(side: Any, log: list[Any], **settings: Any) -> Any:
    """A bar that notes what it makes, and what its bars show in each hook."""

    def init(name: str) -> Any:
        def make(self: Any) -> Any:
            bar = getattr(super(Bar, self), name)()
            log.append((name, bar.pos, bar.leave))
            return bar

        return make

    def hook(name: str, attribute: str) -> Any:
        def call(self: Any, *args: Any) -> None:
            getattr(super(Bar, self), name)(*args)
            bar = getattr(self, attribute)
            log.append((name, bar.n, bar.total, bar.desc, name == "on_train_batch_end" and bar.postfix or None))

        return call

    methods = {f"init_{name}_tqdm": init(f"init_{name}_tqdm") for name in INITS}
    methods |= {name: hook(name, attribute) for attribute, names in BARS.items() for name in names}
    Bar: Any = type("Bar", (side.pl.callbacks.TQDMProgressBar,), methods)
    return Bar(**settings)


def make_model(side: Any) -> Any:
    class Model(side.Model):  # type: ignore[misc, name-defined]
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("shown", self.loss(batch), prog_bar=True)

        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            pass

        def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return self(batch[0])

        def val_dataloader(self) -> Any:
            return [side.loader(3), side.loader(2)]

        def test_dataloader(self) -> Any:
            return [side.loader(3), side.loader(2)]

        def predict_dataloader(self) -> Any:
            return [side.loader(3), side.loader(2)]

    return Model()


@pytest.mark.parametrize(
    ("method", "settings", "flags"),
    [
        ("fit", {}, {"num_sanity_val_steps": 2}),
        ("fit", {"leave": True}, {}),
        ("fit", {"refresh_rate": 2}, {}),
        ("fit", {"refresh_rate": 3}, {"val_check_interval": 2}),
        ("fit", {"process_position": 1}, {"limit_val_batches": 0}),
        ("fit", {}, {"max_steps": 7, "max_epochs": -1}),
        ("fit", {}, {"fast_dev_run": 2}),
        ("fit", {}, {"check_val_every_n_epoch": 2}),
        ("validate", {}, {}),
        ("test", {"refresh_rate": 2}, {}),
        ("predict", {}, {}),
    ],
    ids=str,
)
def test_what_a_subclass_sees(same_in_both: Any, method: str, settings: dict[str, Any], flags: dict[str, Any]) -> None:
    def run(side: Any) -> Any:
        log: list[Any] = []
        bar = recording_bar(side, log, **settings)
        trainer = side.trainer(bar, **{"enable_progress_bar": True, "max_epochs": 2, **flags})
        getattr(trainer, method)(make_model(side))
        return log

    assert same_in_both(run)


def test_metrics_beside_the_bar(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        shown: list[Any] = []

        class Bar(side.pl.callbacks.TQDMProgressBar):  # type: ignore[misc, name-defined]
            def get_metrics(self, trainer: Any, pl_module: Any) -> Any:
                return {**super().get_metrics(trainer, pl_module), "mine": 1}

            def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
                super().on_train_epoch_end(trainer, pl_module)
                shown.append(self.train_progress_bar.postfix)

        bar = Bar()
        side.fit(make_model(side), bar, enable_progress_bar=True, max_epochs=2)
        return shown

    assert "v_num=0.000" not in same_in_both(run)[0]


def counting_bar(original: Any, made: list[Any]) -> Any:
    """A class in place of ``original`` that notes each value its ``n``, ``total`` and description take."""

    class Counting(original):  # type: ignore[misc]
        n = property(lambda self: self.__dict__["n"], lambda self, value: self.note("n", value))
        total = property(lambda self: self.__dict__["total"], lambda self, value: self.note("total", value))

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.noted: list[Any] = []
            super().__init__(*args, **kwargs)
            self.noted = []
            if not kwargs.get("smoothing", 1) or kwargs.get("leave"):  # of training and of evaluations on their own
                made.append(self.noted)

        def note(self, name: str, value: Any) -> None:
            if (name, value) != next(((key, old) for key, old in reversed(self.noted) if key == name), None):
                self.noted.append((name, value))
            self.__dict__[name] = value

        def set_description(self, *args: Any, **kwargs: Any) -> None:
            super().set_description(*args, **kwargs)
            self.noted.append(("desc", self.desc))

    return Counting


@pytest.mark.parametrize("method", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("refresh_rate", [1, 3])
def test_a_bar_of_ones_own(same_in_both: Any, monkeypatch: pytest.MonkeyPatch, method: str, refresh_rate: int) -> None:
    def run(side: Any) -> Any:
        made: list[Any] = []
        module = importlib.import_module(f"{side.pl.__name__}.callbacks.progress.tqdm_progress")
        monkeypatch.setattr(module, "Tqdm", counting_bar(module.Tqdm, made), raising=False)
        bar = side.pl.callbacks.TQDMProgressBar(refresh_rate=refresh_rate)
        trainer = side.trainer(bar, enable_progress_bar=True, max_epochs=2, val_check_interval=2)
        getattr(trainer, method)(make_model(side))
        return made

    assert same_in_both(run)


@pytest.mark.parametrize("bar", ["TQDMProgressBar", "RichProgressBar"])
def test_metrics_are_asked_for_at_the_same_times(same_in_both: Any, bar: str) -> None:
    def run(side: Any) -> Any:
        asked: list[Any] = []

        def get_metrics(self: Any, trainer: Any, pl_module: Any) -> Any:
            metrics = getattr(side.pl.callbacks, bar).get_metrics(self, trainer, pl_module)
            asked.append((trainer.state.stage, trainer.current_epoch, trainer.global_step, metrics))
            return metrics

        shown = type("Bar", (getattr(side.pl.callbacks, bar),), {"get_metrics": get_metrics})()
        model = make_model(side)
        model.val_dataloader = lambda: side.loader(3)
        side.fit(model, shown, enable_progress_bar=True, num_sanity_val_steps=1, max_epochs=2)
        return asked

    assert same_in_both(run)


def test_print_goes_through_the_bar(same_in_both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(side: Any) -> Any:
        printed: list[Any] = []
        bar = side.pl.callbacks.TQDMProgressBar()
        monkeypatch.setattr(bar, "print", lambda *args, **kwargs: printed.append((args, kwargs)))

        class Model(side.Model):  # type: ignore[misc, name-defined]
            def on_train_epoch_start(self) -> None:
                self.print("a", 1, end="")

        side.fit(Model(), bar, enable_progress_bar=True)
        return printed

    assert same_in_both(run) == [[["a", 1], {"end": ""}]]
