"""What a profiler is told during fit, validate, test and predict."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

import raylight
from raylight.profilers import AdvancedProfiler, PassThroughProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from raylight.worker.profiling import Recorder

KINDS = [SimpleProfiler, AdvancedProfiler, PyTorchProfiler]


@pytest.fixture
def profiler_of(both_sides: Any) -> Any:
    """``profiler_of(side)``: keeps in ``actions`` what begins, and with a slash what ends."""

    def make(side: Any) -> Any:
        class Listing(side.pl.profilers.Profiler):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.actions: list[str] = []

            def start(self, action_name: str) -> None:
                self.actions.append(action_name)

            def stop(self, action_name: str) -> None:
                self.actions.append(f"/{action_name}")

        return Listing()

    return make


def evaluating(side: Any) -> Any:
    class Evaluating(side.Model):  # type: ignore[misc, name-defined]
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch))

        def test_step(self, batch: Any, batch_idx: int) -> None: ...

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self(batch[0])

        def loaders(self) -> DataLoader[Any]:
            return side.loader()

        val_dataloader = test_dataloader = predict_dataloader = loaders

    return Evaluating()


def without_configure_callbacks(actions: list[str]) -> list[str]:
    return [action for action in actions if "configure_callbacks" not in action]  # called on the driver


@pytest.mark.parametrize("call", ["fit", "validate", "test", "predict"])
def test_actions_are_lightnings(same_in_both: Any, profiler_of: Any, call: str) -> None:
    def run(side: Any) -> Any:
        profiler = profiler_of(side)
        side.seed()
        checkpoint = side.pl.callbacks.ModelCheckpoint(dirpath=side.root)
        trainer = side.trainer(side.callback(), checkpoint, profiler=profiler, num_sanity_val_steps=1)
        getattr(trainer, call)(evaluating(side))
        return without_configure_callbacks(profiler.actions)

    actions = same_in_both(run)
    assert len(actions) > 20


@pytest.mark.parametrize(
    "flags", [{"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1, "precision": "bf16-mixed"}]
)
def test_a_profiler_changes_no_number(same_in_both: Any, profiler_of: Any, flags: dict[str, Any]) -> None:
    def run(side: Any) -> Any:
        model, profiler = side.Model(), profiler_of(side)
        trainer = side.fit(model, profiler=profiler, max_epochs=2, **flags)
        return side.outcome(trainer, model), without_configure_callbacks(profiler.actions)

    same_in_both(run)


def test_manual_optimization(same_in_both: Any, profiler_of: Any) -> None:
    def run(side: Any) -> Any:
        class Manual(side.Model):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.automatic_optimization = False

            def training_step(self, batch: Any, batch_idx: int) -> None:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                optimizer.step()

        model, profiler = Manual(), profiler_of(side)
        side.fit(model, profiler=profiler)
        return without_configure_callbacks(profiler.actions), model.losses

    actions, _ = same_in_both(run)
    assert actions.count("optimizer_step") == actions.count("run_training_batch") == 5


@pytest.mark.parametrize("kind", KINDS)
def test_reports(ours: Any, kind: Any) -> None:
    profiler = kind(dirpath=ours.root, filename="report")
    trainer = ours.trainer(profiler=profiler)
    model = evaluating(ours)
    for call, stage, step in (
        (trainer.fit, "fit", "training_step"),
        (trainer.validate, "validate", "validation_step"),
        (trainer.test, "test", "test_step"),
        (trainer.predict, "predict", "predict_step"),
    ):
        call(model)
        report = (ours.root / f"{stage}-report.txt").read_text()
        assert report.startswith(f"{stage.upper()} Profiler Report")
        assert f"[Strategy]SingleDeviceStrategy.{step}"[:20] in report  # torch shortens names
        if kind is PyTorchProfiler:
            assert f"[pl][profile][Strategy]SingleDeviceStrategy.{step}" in {e.name for e in profiler.function_events}
            traces = [name for name in os.listdir(ours.root) if name.startswith(f"{stage}-report-")]
            assert traces
            assert all(name.endswith(".pt.trace.json") for name in traces)


def test_default_schedule_needs_some_steps(ours: Any) -> None:
    profiler = PyTorchProfiler(dirpath=ours.root, filename="report")
    with pytest.warns(UserWarning, match="not enough steps to properly record traces"):
        ours.fit(ours.Model(), profiler=profiler, limit_train_batches=2)
    assert "[pl][profile]run_training_batch" in {event.name for event in profiler.function_events}


def test_own_schedule(ours: Any) -> None:
    import torch

    traces = []
    profiler = PyTorchProfiler(
        schedule=torch.profiler.schedule(wait=0, warmup=1, active=2), on_trace_ready=lambda each: traces.append(each)
    )
    ours.fit(ours.Model(), profiler=profiler)
    assert len(traces) == 1


def test_two_callbacks_of_one_class_are_told_apart(ours: Any) -> None:
    early_stopping = raylight.callbacks.EarlyStopping
    profiler = SimpleProfiler()
    ours.fit(evaluating(ours), early_stopping("val_loss"), early_stopping("train_loss"), profiler=profiler)
    for name in ("val_loss", "train_loss"):
        action = f"[Callback]EarlyStopping{{'monitor': '{name}', 'mode': 'min'}}.on_validation_start"
        assert len(profiler.recorded_durations[action]) == 1


def test_hooks_of_the_user_can_record(ours: Any, caplog: pytest.LogCaptureFixture) -> None:
    def on_train_batch_start(trainer: Any, *_: Any) -> None:
        with trainer.profiler.profile("its own"):
            pass

    profiler = SimpleProfiler()
    callback = ours.callback(on_train_batch_start=on_train_batch_start)
    assert ours.fit(ours.Model(), callback, profiler=profiler).profiler is profiler
    assert len(profiler.recorded_durations["its own"]) == 5
    assert caplog.text.count("FIT Profiler Report") == 1
    assert type(ours.fit(ours.Model(), callback).profiler) is PassThroughProfiler


def test_one_that_derives_from_nothing(ours: Any) -> None:
    import contextlib

    calls: Counter[str] = Counter()

    class Own:
        def setup(self, **kwargs: Any) -> None:
            calls.update([f"{name}={value}" for name, value in kwargs.items() if name != "log_dir"])

        @contextlib.contextmanager
        def profile(self, action_name: str) -> Any:
            calls[action_name] += 1
            yield

        def describe(self) -> None:
            calls["describe"] += 1

        def teardown(self, stage: str) -> None: ...

    ours.fit(ours.Model(), profiler=Own())
    assert (calls["run_training_batch"], calls["describe"]) == (5, 1)
    assert (calls["stage=fit"], calls["local_rank=None"]) == (1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_after_an_error_it_can_be_used_again(ours: Any, tmp_path: Path, kind: Any) -> None:
    profiler: Profiler = kind(dirpath=tmp_path, filename="report")
    model = ours.Model()

    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    trainer = ours.trainer(ours.callback(on_train_batch_end=fail), profiler=profiler)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(model)
    assert list(tmp_path.glob("*.txt")) == []
    ours.trainer(profiler=profiler).fit(model)
    assert list(tmp_path.glob("*.txt")) != []
    assert profiler._lightning_module is None


def test_without_a_profiler_nothing_is_wrapped(ours: Any) -> None:
    trainer = ours.fit(ours.Model())
    run = trainer.run
    assert type(run.recorder) is Recorder
    assert run.hooked is run.model
    assert (run.transfers, run.needs_closure, run.hears_backward) == ([], False, False)
    assert run.listeners["on_train_batch_start"] == []
    items = iter([1])
    assert run.recorder.each("name", items, 1) is items
    assert run.recorder.call("name", print) is print


@pytest.mark.parametrize("bad", ["nothing", 3])
def test_unknown(ours: Any, bad: Any) -> None:
    with pytest.raises(raylight.utilities.exceptions.MisconfigurationException, match="profiler"):
        ours.trainer(profiler=bad)


def test_barebones(same_error: Any) -> None:
    same_error(lambda side: side.pl.Trainer(barebones=True, profiler="simple"))
