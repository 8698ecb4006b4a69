"""The promise of the hooks' order: literal lists, and the same program's list under Lightning."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

import raylight
from raylight.callbacks.base import HOOKS

DATA_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")
CALLBACKS_ONLY = ("setup", "teardown", "on_exception", "on_sanity_check_start", "on_sanity_check_end")
CALLBACK_HOOKS = (*HOOKS, "state_dict", "load_state_dict")
MODEL_HOOKS = (
    "configure_callbacks", "prepare_data", "setup", "teardown", "configure_model", "configure_optimizers",
    "optimizer_step", "optimizer_zero_grad", "configure_gradient_clipping", "clip_gradients", "lr_scheduler_step",
    "backward", "forward", "training_step", "validation_step", "test_step", "predict_step",
    "on_validation_model_eval", "on_validation_model_train", "on_validation_model_zero_grad",
    "on_test_model_eval", "on_test_model_train", "on_predict_model_eval",
    *(name for name in HOOKS if name not in CALLBACKS_ONLY),
    *DATA_HOOKS, *LOADERS,
)  # fmt: skip
DATAMODULE_HOOKS = ("prepare_data", "setup", "teardown", "state_dict", "load_state_dict", *DATA_HOOKS, *LOADERS)


def recording(base: type, hooks: tuple[str, ...], who: str, calls: list[str]) -> type:
    """``base`` with ``hooks`` that note ``"who.hook"``, with the ints and keywords that they are given."""

    def make(name: str) -> Any:
        inherited = getattr(base, name)

        def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
            given = [str(a) for a in args if type(a) is int] + [
                f"{k}={getattr(v, 'value', v)}" for k, v in kwargs.items() if k == "stage"
            ]
            calls.append(f"{who}.{name}" + (f"({', '.join(given)})" if given else ""))
            return inherited(self, *args, **kwargs)

        return hook

    return type(base.__name__, (base,), {name: make(name) for name in hooks if hasattr(base, name)})


class Program:
    """A model, a datamodule and a callback of the library ``pl`` that note in ``calls`` what is called."""

    def __init__(self, pl: ModuleType, root: Path) -> None:
        self.pl = pl
        self.root = root
        self.calls: list[str] = []

    def loader(self, num_batches: int) -> Any:
        return DataLoader(TensorDataset(torch.ones(num_batches, 2)), batch_size=1)

    def plain_model(self) -> Any:
        pl, loader = self.pl, self.loader

        class Model(pl.LightningModule):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(2, 1)

            def forward(self, batch: Any) -> Any:
                return self.layer(batch[0])

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                loss = self(batch).sum()
                self.log("loss", loss)
                return loss

            def validation_step(self, batch: Any, batch_idx: int) -> Any:
                self.log("val_loss", self(batch).sum())

            def test_step(self, batch: Any, batch_idx: int) -> Any:
                self(batch)

            def configure_optimizers(self) -> Any:
                optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
                return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

            def train_dataloader(self) -> Any:
                return loader(3)

            def val_dataloader(self) -> Any:
                return loader(1)

            test_dataloader = predict_dataloader = val_dataloader

        return Model

    def manual_model(self) -> Any:
        class Model(self.plain_model()):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.automatic_optimization = False

            def training_step(self, batch: Any, batch_idx: int) -> None:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(self(batch).sum())
                optimizer.step()
                self.lr_schedulers().step()

        return Model

    def datamodule(self) -> Any:
        pl, loader = self.pl, self.loader

        class Data(pl.LightningDataModule):  # type: ignore[misc, name-defined]
            def train_dataloader(self) -> Any:
                return loader(2)

            def val_dataloader(self) -> Any:
                return loader(1)

        return recording(Data, DATAMODULE_HOOKS, "data", self.calls)()

    def record(self, model_class: Any) -> Any:
        return recording(model_class, MODEL_HOOKS, "model", self.calls)()

    def callback(self) -> Any:
        return recording(self.pl.Callback, CALLBACK_HOOKS, "cb", self.calls)()

    def checkpoint(self) -> Any:
        hooks = (
            "setup",
            "on_train_start",
            "on_train_batch_end",
            "on_train_epoch_end",
            "on_validation_end",
            "state_dict",
        )
        return recording(self.pl.callbacks.ModelCheckpoint, hooks, "checkpoint", self.calls)()

    def early_stopping(self) -> Any:
        hooks = ("on_train_epoch_end", "on_validation_end")
        return recording(self.pl.callbacks.EarlyStopping, hooks, "early_stopping", self.calls)("loss")

    def trainer(self, *callbacks: Any, **flags: Any) -> Any:
        settings: dict[str, Any] = {
            "default_root_dir": str(self.root), "accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False,
            "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
            "enable_checkpointing": any(isinstance(each, self.pl.callbacks.Checkpoint) for each in callbacks),
            "callbacks": list(callbacks),
        }  # fmt: skip
        if self.pl is raylight:
            settings["launcher"] = "local"
        return self.pl.Trainer(**{**settings, **flags})


Trace = Callable[[Callable[[Program], Any]], list[str]]


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    """``trace(run)``: the calls of ``run(program)``, which are the same under both libraries."""

    def both(run: Callable[[Program], Any]) -> list[str]:
        traces = []
        for pl in (pytorch_lightning, raylight):
            program = Program(pl, tmp_path / pl.__name__)
            with warnings.catch_warnings():
                if pl is pytorch_lightning:
                    warnings.simplefilter("ignore")
                    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
                run(program)
            traces.append(program.calls)
        assert traces[1] == traces[0]
        return traces[1]

    return both


def batch(stage: str, index: int) -> list[str]:
    """A batch of an evaluation, all hooks overridden."""
    return [
        "model.on_before_batch_transfer(0)", "model.transfer_batch_to_device(0)", "model.on_after_batch_transfer(0)",
        f"cb.on_{stage}_batch_start({index})", f"model.on_{stage}_batch_start({index})",
        f"model.{stage}_step({index})", "model.forward",
        f"cb.on_{stage}_batch_end({index})", f"model.on_{stage}_batch_end({index})",
    ]  # fmt: skip


def evaluation(stage: str) -> list[str]:
    """One pass over one batch."""
    return [
        f"model.on_{stage}_model_eval",
        f"cb.on_{stage}_start", f"model.on_{stage}_start",
        f"cb.on_{stage}_epoch_start", f"model.on_{stage}_epoch_start",
        *batch(stage, 0),
        f"cb.on_{stage}_epoch_end", f"model.on_{stage}_epoch_end",
        f"cb.on_{stage}_end", f"model.on_{stage}_end",
        *([f"model.on_{stage}_model_train"] if stage != "predict" else []),
    ]  # fmt: skip


def setting_up(stage: str) -> list[str]:
    return [
        "model.configure_callbacks", "model.prepare_data",
        f"cb.setup(stage={stage})", f"model.setup(stage={stage})", "model.configure_model",
    ]  # fmt: skip


def tearing_down(stage: str) -> list[str]:
    return [f"cb.teardown(stage={stage})", f"model.teardown(stage={stage})"]


def gradients(index: int, starts_window: bool) -> list[str]:
    zero_grad = ["cb.on_before_zero_grad", "model.on_before_zero_grad", f"model.optimizer_zero_grad(0, {index})"]
    return [
        f"model.training_step({index})", "model.forward",
        *(zero_grad if starts_window else []),
        "cb.on_before_backward", "model.on_before_backward", "model.backward",
        "cb.on_after_backward", "model.on_after_backward",
    ]  # fmt: skip


def train_batch(index: int, steps: bool, starts_window: bool) -> list[str]:
    step = [
        f"model.optimizer_step(0, {index})",
        *gradients(index, starts_window),
        "cb.on_before_optimizer_step", "model.on_before_optimizer_step",
        "model.configure_gradient_clipping", "model.clip_gradients",
    ]  # fmt: skip
    return [
        "model.on_before_batch_transfer(0)", "model.transfer_batch_to_device(0)", "model.on_after_batch_transfer(0)",
        f"cb.on_train_batch_start({index})", f"model.on_train_batch_start({index})",
        *(step if steps else gradients(index, starts_window)),
    ]  # fmt: skip


def batch_ends(index: int) -> list[str]:
    return [f"cb.on_train_batch_end({index})", f"model.on_train_batch_end({index})"]


def test_fit(trace: Trace) -> None:
    """A sanity check, an epoch of three batches in windows of two, a scheduler, validation."""

    def run(program: Program) -> None:
        model = program.record(program.plain_model())
        trainer = program.trainer(program.callback(), num_sanity_val_steps=2, accumulate_grad_batches=2)
        trainer.fit(model)

    assert trace(run) == [
        *setting_up("fit"),
        "model.configure_optimizers",
        "cb.on_fit_start", "model.on_fit_start",
        "cb.on_sanity_check_start", "model.val_dataloader", *evaluation("validation"), "cb.on_sanity_check_end",
        "model.train_dataloader",
        "cb.on_train_start", "model.on_train_start",
        "cb.on_train_epoch_start", "model.on_train_epoch_start",
        *train_batch(0, steps=False, starts_window=True), *batch_ends(0),
        *train_batch(1, steps=True, starts_window=False), *batch_ends(1),
        *train_batch(2, steps=True, starts_window=True), "model.lr_scheduler_step", *batch_ends(2),
        "model.on_validation_model_zero_grad", *evaluation("validation"),
        "cb.on_train_epoch_end", "model.on_train_epoch_end",
        "cb.on_train_end", "model.on_train_end",
        "cb.on_fit_end", "model.on_fit_end",
        *tearing_down("fit"),
    ]  # fmt: skip


def test_fit_with_a_model_that_hears_nothing(trace: Trace) -> None:
    """The shorter step path: only a callback listens."""

    def run(program: Program) -> None:
        program.trainer(program.callback(), accumulate_grad_batches=2).fit(program.plain_model()())

    def step(index: int) -> list[str]:
        zero_grad = ["cb.on_before_zero_grad"] if index != 1 else []
        return [
            f"cb.on_train_batch_start({index})", *zero_grad, "cb.on_before_backward", "cb.on_after_backward",
            *(["cb.on_before_optimizer_step"] if index != 0 else []), f"cb.on_train_batch_end({index})",
        ]  # fmt: skip

    assert trace(run) == [
        "cb.setup(stage=fit)", "cb.on_fit_start", "cb.on_train_start", "cb.on_train_epoch_start",
        *step(0), *step(1), *step(2),
        "cb.on_validation_start", "cb.on_validation_epoch_start",
        "cb.on_validation_batch_start(0)", "cb.on_validation_batch_end(0)",
        "cb.on_validation_epoch_end", "cb.on_validation_end",
        "cb.on_train_epoch_end", "cb.on_train_end", "cb.on_fit_end", "cb.teardown(stage=fit)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "stage", "prefix"),
    [("validate", "validation", "val"), ("test", "test", "test"), ("predict", "predict", "predict")],
)
def test_evaluations(trace: Trace, method: str, stage: str, prefix: str) -> None:
    def run(program: Program) -> None:
        getattr(program.trainer(program.callback()), method)(program.record(program.plain_model()))

    assert trace(run) == [
        *setting_up(method),
        f"model.{prefix}_dataloader",
        *evaluation(stage),
        *tearing_down(method),
    ]


def test_evaluation_of_no_batches(trace: Trace) -> None:
    def run(program: Program) -> None:
        program.trainer(program.callback(), limit_val_batches=0).validate(program.record(program.plain_model()))

    assert trace(run) == [*setting_up("validate"), *tearing_down("validate")]


def test_manual_optimization(trace: Trace) -> None:
    def run(program: Program) -> None:
        model = program.record(program.manual_model())
        program.trainer(program.callback(), limit_train_batches=2, limit_val_batches=0).fit(model)

    def step(index: int) -> list[str]:
        return [
            *(f"model.{hook}(0)" for hook in DATA_HOOKS),
            f"cb.on_train_batch_start({index})", f"model.on_train_batch_start({index})",
            f"model.training_step({index})", "model.forward",
            "cb.on_before_backward", "model.on_before_backward", "model.backward",
            "cb.on_after_backward", "model.on_after_backward",
            "cb.on_before_optimizer_step", "model.on_before_optimizer_step",
            *batch_ends(index),
        ]  # fmt: skip

    assert trace(run) == [
        *setting_up("fit"), "model.configure_optimizers", "cb.on_fit_start", "model.on_fit_start",
        "model.train_dataloader", "cb.on_train_start", "model.on_train_start",
        "cb.on_train_epoch_start", "model.on_train_epoch_start",
        *step(0), *step(1),
        "cb.on_train_epoch_end", "model.on_train_epoch_end", "cb.on_train_end", "model.on_train_end",
        "cb.on_fit_end", "model.on_fit_end", *tearing_down("fit"),
    ]  # fmt: skip


def test_monitoring_callbacks_come_after_the_model(trace: Trace) -> None:
    def run(program: Program) -> None:
        model = recording(program.plain_model(), ("on_train_epoch_end", "on_validation_end"), "model", program.calls)()
        program.trainer(program.checkpoint(), program.early_stopping(), program.callback(), max_epochs=1).fit(model)

    def of_the_end(calls: list[str]) -> list[str]:
        return [
            call for call in calls if call.split(".")[1] in ("on_train_epoch_end", "on_validation_end", "state_dict")
        ]

    assert of_the_end(trace(run)) == [
        "early_stopping.on_validation_end", "cb.on_validation_end", "checkpoint.on_validation_end",
        "model.on_validation_end",
        "cb.on_train_epoch_end", "model.on_train_epoch_end",
        "early_stopping.on_train_epoch_end", "checkpoint.on_train_epoch_end",
        "cb.state_dict", "checkpoint.state_dict",
    ]  # fmt: skip


def test_datamodule(trace: Trace) -> None:
    """Its transfer hooks win over the model's."""

    def run(program: Program) -> None:
        hooks = ("prepare_data", "setup", "teardown", *DATA_HOOKS, *LOADERS)
        model = recording(program.plain_model(), hooks, "model", program.calls)()
        with pytest.warns(UserWarning, match="both `LightningModule` and `LightningDataModule`"):
            program.trainer(limit_train_batches=1).fit(model, datamodule=program.datamodule())

    transfer = [
        "data.on_before_batch_transfer(0)",
        "data.transfer_batch_to_device(0)",
        "data.on_after_batch_transfer(0)",
    ]
    assert trace(run) == [
        "data.prepare_data", "model.prepare_data", "data.setup(stage=fit)", "model.setup(stage=fit)",
        "data.train_dataloader", "data.val_dataloader", *transfer, *transfer,
        "data.teardown(stage=fit)", "model.teardown(stage=fit)",
    ]  # fmt: skip


def test_saving_and_resuming(trace: Trace) -> None:
    """on_save_checkpoint and its like, and where they stand among the others when fit goes on from a file."""

    def run(program: Program) -> None:
        state_hooks = ("on_save_checkpoint", "on_load_checkpoint", "setup", "configure_model", "configure_optimizers",
                       "on_fit_start", "on_train_start", "load_state_dict")  # fmt: skip

        def make() -> Any:
            return recording(program.plain_model(), state_hooks, "model", program.calls)()

        path = program.root / "saved.ckpt"
        trainer = program.trainer(program.callback(), limit_train_batches=1, limit_val_batches=0)
        trainer.fit(make(), datamodule=program.datamodule())
        program.calls.clear()
        trainer.save_checkpoint(path)
        program.calls.append("resume")
        trainer = program.trainer(program.callback(), limit_train_batches=1, limit_val_batches=0, max_epochs=1)
        trainer.fit(make(), datamodule=program.datamodule(), ckpt_path=path)

    assert trace(run) == [
        "cb.state_dict", "data.state_dict", "cb.on_save_checkpoint", "model.on_save_checkpoint",
        "resume",
        "data.prepare_data", "data.setup(stage=fit)", "cb.setup(stage=fit)", "model.setup(stage=fit)",
        "model.configure_model", "model.on_load_checkpoint", "model.load_state_dict", "cb.on_load_checkpoint",
        "model.configure_optimizers", "cb.on_fit_start", "model.on_fit_start", "data.train_dataloader",
        "cb.on_fit_end", "data.teardown(stage=fit)", "cb.teardown(stage=fit)",
    ]  # fmt: skip


def test_validation_within_an_epoch(trace: Trace) -> None:
    """Gradients are not cleared where validation falls into a window."""

    def run(program: Program) -> None:
        hooks = ("on_train_batch_end", "on_validation_model_zero_grad", "on_validation_start", "lr_scheduler_step")
        model = recording(program.plain_model(), hooks, "model", program.calls)()
        program.trainer(val_check_interval=1, accumulate_grad_batches=2).fit(model)

    assert trace(run) == [
        "model.on_train_batch_end(0)", "model.on_validation_start",
        "model.on_train_batch_end(1)", "model.on_validation_model_zero_grad", "model.on_validation_start",
        "model.lr_scheduler_step", "model.on_train_batch_end(2)", "model.on_validation_model_zero_grad",
        "model.on_validation_start",
    ]  # fmt: skip


def test_skipped_epoch(trace: Trace) -> None:
    """on_train_batch_start of the model returns -1."""

    def run(program: Program) -> None:
        class Skipping(program.plain_model()):  # type: ignore[misc]
            def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
                return -1 if batch_idx == 1 else None

        hooks = ("training_step", "on_train_batch_end", "lr_scheduler_step", "on_train_epoch_end", "validation_step")
        model = recording(Skipping, hooks, "model", program.calls)()
        program.trainer(program.callback()).fit(model)

    assert [call for call in trace(run) if call.startswith("model")] == [
        "model.training_step(0)", "model.on_train_batch_end(0)", "model.lr_scheduler_step", "model.on_train_epoch_end",
    ]  # fmt: skip


def test_failed_fit(tmp_path: Path) -> None:
    """Unlike in Lightning the teardown hooks run, so that what setup opened is closed."""
    program = Program(raylight, tmp_path)

    class Failing(program.plain_model()):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise ZeroDivisionError

    hooks = ("setup", "teardown", "on_train_batch_end", "on_train_end", "on_fit_end")
    model = recording(Failing, hooks, "model", program.calls)()
    data = program.datamodule()
    type(data).on_exception = lambda self, exception: program.calls.append(f"data.on_exception({exception!r})")
    with pytest.raises(ZeroDivisionError):
        program.trainer(program.callback()).fit(model, datamodule=data)
    start = program.calls.index("cb.on_train_batch_start(0)")
    assert program.calls[start + 1 :] == [
        "cb.on_exception", "data.on_exception(ZeroDivisionError())",
        "data.teardown(stage=fit)", "cb.teardown(stage=fit)", "model.teardown(stage=fit)",
    ]  # fmt: skip


def test_callbacks_of_the_model_replace_those_of_the_trainer(trace: Trace) -> None:
    def run(program: Program) -> None:
        class Named(program.pl.Callback):  # type: ignore[misc, name-defined]
            def __init__(self, name: str) -> None:
                self.name = name

            def on_fit_start(self, *_: Any) -> None:
                program.calls.append(self.name)

        class Other(Named):
            pass

        class Sub(Named):
            pass

        class Model(program.plain_model()):  # type: ignore[misc]
            def configure_callbacks(self) -> Any:
                return [Sub("model's")]

        program.trainer(Other("other"), Sub("trainer's")).fit(Model())
        program.calls.append("superclass")
        program.trainer(Named("trainer's"), Other("other")).fit(Model())

    assert trace(run) == ["other", "model's", "superclass", "other", "model's"]
