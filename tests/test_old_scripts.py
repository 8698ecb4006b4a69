"""Scripts as users of Lightning 1.x wrote them: only the import is changed."""

from __future__ import annotations

import importlib
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import raylight as pl
from raylight.callbacks import ModelCheckpoint
from raylight.utilities.exceptions import MisconfigurationException

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
QUIET = {"enable_progress_bar": False, "weights_summary": None, "gpus": 0, "max_epochs": 1}


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(8.0).unsqueeze(1)), batch_size=4)


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYLIGHT_LAUNCHER", "local")


class Model(pl.LightningModule):
    def __init__(self, lr: float = 0.001) -> None:
        super().__init__()
        self.lr = lr
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch[0]).pow(2).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return {"val_loss": self.layer(batch[0]).pow(2).mean(), "n": torch.tensor(len(batch[0]))}

    def validation_epoch_end(self, outputs: Any) -> None:
        self.log("val_loss", torch.stack([output["val_loss"] for output in outputs]).mean())
        self.log("n", sum(output["n"] for output in outputs).float())

    test_step = validation_step
    test_epoch_end = validation_epoch_end

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


# ------------------------------------------------------------------------------------------------ imports

OLD_IMPORTS = [
    "callbacks:ProgressBarBase",
    "callbacks.base:Callback",
    "callbacks.progress:ProgressBarBase",
    "core.lightning:LightningModule",
    "core.memory:ModelSummary",
    "loggers:LoggerCollection",
    "loggers.base:LightningLoggerBase",
    "loggers.base:rank_zero_experiment",
    "plugins:DDPPlugin",
    "plugins:NativeMixedPrecisionPlugin",
    "plugins.training_type.ddp:DDPPlugin",
    "plugins.precision:PrecisionPlugin",
    "profiler:SimpleProfiler",
    "profiler.profilers:AdvancedProfiler",
    "strategies:DDPSpawnStrategy",
    "accelerators:GPUAccelerator",
    "trainer.supporters:CombinedLoader",
    "utilities.apply_func:apply_to_collection",
    "utilities.cli:LightningCLI",
    "utilities.cloud_io:load",
    "utilities.distributed:rank_zero_only",
    "utilities.seed:pl_worker_init_function",
    "utilities.types:EPOCH_OUTPUT",
    "utilities.warnings:rank_zero_warn",
    "__about__:__version__",
]


@pytest.mark.parametrize("path", OLD_IMPORTS)
def test_old_import(path: str) -> None:
    module, name = path.split(":")
    assert getattr(importlib.import_module(f"raylight.{module}"), name)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("metrics", "torchmetrics"),
        ("metrics.functional", "torchmetrics"),
        ("core.decorators", "leave the decorator out"),
        ("loggers.TestTubeLogger", "TensorBoardLogger"),
        ("plugins.DeepSpeedPlugin", "DDPStrategy"),
        ("callbacks.GPUStatsMonitor", "DeviceStatsMonitor"),
        ("lite", "raylight.Trainer"),
    ],
)
def test_what_is_gone_is_explained(path: str, said: str) -> None:
    with pytest.raises(ImportError, match=said):
        importlib.import_module(f"raylight.{path}")


def test_apply_to_collection() -> None:
    from raylight.utilities.apply_func import apply_to_collection

    data = {"a": [1, "x", 2.0], "b": (3,)}
    assert apply_to_collection(data, int, lambda value, more: value + more, 10) == {"a": [11, "x", 2.0], "b": (13,)}
    assert apply_to_collection([1, True], int, str, wrong_dtype=bool) == ["1", True]
    assert apply_to_collection([1, "x"], int, lambda _: None, include_none=False) == ["x"]


# ------------------------------------------------------------------------------------------------ the Trainer


def test_old_calls() -> None:
    trainer, model = pl.Trainer(**QUIET), Model()
    trainer.fit(model, train_dataloader=loader(), val_dataloaders=loader())
    assert trainer.callback_metrics["n"].item() == 8
    (result,) = trainer.test(test_dataloaders=loader())
    assert result["n"] == 8
    assert trainer.validate(model, val_dataloaders=loader())[0]["n"] == 8
    assert trainer.get_model() is model
    assert (trainer.num_gpus, trainer.gpus, trainer.num_processes, trainer.tpu_cores) == (0, None, 1, None)
    assert trainer.tuner.lr_find(model, loader(), num_training=5).suggestion() is None
    with pytest.raises(MisconfigurationException, match="Both `train_dataloaders` and its old form"):
        trainer.fit(model, train_dataloader=loader(), train_dataloaders=loader())
    with pytest.raises(AttributeError, match="checkpoint_connector.*use the properties of the Trainer"):
        _ = trainer.checkpoint_connector
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = trainer.nonsense


def test_argparse() -> None:
    parser = pl.Trainer.add_argparse_args(ArgumentParser())
    arguments = parser.parse_args(
        ["--gpus", "0", "--max_epochs", "2", "--limit_train_batches", "1", "--precision", "32"]
    )
    trainer = pl.Trainer.from_argparse_args(arguments, enable_progress_bar=False, checkpoint_callback=False)
    trainer.fit(Model(), loader())
    assert (trainer.current_epoch, trainer.global_step, trainer.checkpoint_callback) == (2, 2, None)


def test_old_arguments_of_model_checkpoint() -> None:
    by_path = ModelCheckpoint(filepath="folder/best", prefix="p", period=2)
    assert (Path(str(by_path.dirpath)).name, by_path.filename, by_path.every_n_epochs) == ("folder", "p-best", 2)
    assert ModelCheckpoint(every_n_val_epochs=3).every_n_epochs == 3
    with pytest.raises(MisconfigurationException, match="Both `every_n_epochs` and its old form `period`"):
        ModelCheckpoint(period=2, every_n_epochs=3)
    with pytest.raises(TypeError, match="nonsense"):
        ModelCheckpoint(nonsense=1)  # type: ignore[call-arg]


def test_a_strategy_among_the_plugins() -> None:
    from raylight.plugins import DDPPlugin  # type: ignore[attr-defined]

    plugin = DDPPlugin(find_unused_parameters=False)
    assert pl.Trainer(plugins=[plugin], **QUIET).config.strategy is plugin
    assert pl.Trainer(plugins="ddp_sharded", **QUIET).config.strategy == "ddp"


def test_progress_bar_with_a_refresh_rate() -> None:
    from raylight.callbacks import ProgressBar, TQDMProgressBar

    bar = ProgressBar(refresh_rate=7)
    assert isinstance(bar, TQDMProgressBar)
    assert bar.refresh_rate == 7
    assert type(ProgressBar()) is ProgressBar


def test_old_logger() -> None:
    from raylight.loggers.base import LightningLoggerBase, LoggerCollection  # type: ignore[attr-defined]

    class History(LightningLoggerBase):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.rows: list[Any] = []

        name = "history"
        version = 0
        experiment = None

        def log_hyperparams(self, params: Any) -> None: ...

        def log_metrics(self, metrics: Any, step: int) -> None:
            self.rows.append((step, sorted(metrics)))

    first, second = History(), History()
    trainer = pl.Trainer(logger=LoggerCollection([first, second]), **QUIET)
    trainer.fit(Model(), loader(), loader())
    assert first.rows == second.rows == [(1, ["epoch", "n", "val_loss"])]
    assert trainer.loggers == [first, second]


def test_old_cli(monkeypatch: pytest.MonkeyPatch) -> None:
    from raylight.utilities.cli import LightningCLI

    class WithData(Model):
        def train_dataloader(self) -> Any:
            return loader()

    monkeypatch.setattr(sys, "argv", ["x", "fit", "--model.lr=0.5"])
    defaults = {"max_epochs": 1, "gpus": 0, "enable_progress_bar": False, "logger": False}
    cli = LightningCLI(WithData, save_config_overwrite=True, description="old", trainer_defaults=defaults)
    assert (cli.model.lr, cli.trainer.global_step) == (0.5, 2)


# ------------------------------------------------------------------------------------------------ the model


@pytest.mark.parametrize("hparams", [Namespace(lr=0.5), {"lr": 0.5}])
def test_hparams_assigned(hparams: Any) -> None:
    class Old(Model):
        def __init__(self, hparams: Any) -> None:
            super().__init__()
            self.hparams = hparams  # type: ignore[assignment]
            assert self.hparams.lr == 0.5

    trainer = pl.Trainer(**QUIET)
    trainer.fit(Old(hparams), loader())
    again = Old.load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
    assert dict(again.hparams) == {"lr": 0.5}


def test_what_a_model_calls_on_itself() -> None:
    class Old(Model):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int) -> None:  # type: ignore[override]
            assert not self.use_amp
            assert set(self.grad_norm(2)) == {
                "grad_2.0_norm/layer.weight",
                "grad_2.0_norm/layer.bias",
                "grad_2.0_norm_total",
            }

    model = Old()
    pl.Trainer(logger=False, **QUIET).fit(model, loader())
    assert "layer" in str(model.summarize(mode="top"))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = model.nonsense


def test_a_models_own_datamodule_is_its_own() -> None:
    model = Model()
    model.datamodule = "mine"
    assert model.datamodule == "mine"


def test_super_takes_the_arguments_of_old() -> None:
    calls = []

    class Old(Model):
        def optimizer_step(self, epoch=None, batch_idx=None, optimizer=None, optimizer_idx=None,  # type: ignore[no-untyped-def, override]
                           optimizer_closure=None, on_tpu=None, using_native_amp=None, using_lbfgs=None):  # fmt: skip
            calls.append("step")
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_idx, optimizer_closure, on_tpu,
                                   using_native_amp=using_native_amp, using_lbfgs=using_lbfgs)  # fmt: skip

        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_idx: int) -> None:  # type: ignore[override]
            calls.append("zero")
            super().optimizer_zero_grad(epoch, batch_idx, optimizer, optimizer_idx)

        def configure_gradient_clipping(self, optimizer, optimizer_idx, gradient_clip_val, gradient_clip_algorithm):  # type: ignore[no-untyped-def, override]
            calls.append("clip")
            super().configure_gradient_clipping(
                optimizer, optimizer_idx, gradient_clip_val=gradient_clip_val, gradient_clip_algorithm="norm"
            )

    model, plain = Old(), Model()
    plain.load_state_dict(model.state_dict())
    pl.Trainer(logger=False, gradient_clip_val=0.1, **QUIET).fit(model, loader())
    pl.Trainer(logger=False, gradient_clip_val=0.1, **QUIET).fit(plain, loader())
    assert calls == ["step", "zero", "clip"] * 2
    assert torch.equal(model.layer.weight, plain.layer.weight)


def test_toggle_with_an_index() -> None:
    seen: list[Any] = []

    class Old(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.a, self.b = nn.Linear(1, 1), nn.Linear(1, 1)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for index, optimizer in enumerate(self.optimizers()):
                self.toggle_optimizer(optimizer, index)
                seen.append([self.a.weight.requires_grad, self.b.weight.requires_grad])
                self.manual_backward((self.a, self.b)[index](batch[0]).sum(), optimizer)
                optimizer.step()
                self.untoggle_optimizer(index)

        def untoggle_optimizer(self, optimizer_idx: int) -> None:  # type: ignore[override]
            seen.append(optimizer_idx)
            super().untoggle_optimizer(optimizer_idx)

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(layer.parameters(), lr=0.001) for layer in (self.a, self.b)]

    model = Old()
    pl.Trainer(logger=False, **QUIET).fit(model, loader())
    assert seen == [[True, False], 0, [False, True], 1] * 2
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_transfer_of_two_arguments() -> None:
    class Old(Model):
        def transfer_batch_to_device(self, batch: Any, device: torch.device) -> Any:  # type: ignore[override]
            return [each.to(device) for each in batch]

    trainer = pl.Trainer(logger=False, **QUIET)
    trainer.fit(Old(), loader())
    assert trainer.global_step == 2


# ------------------------------------------------------------------------------------------------ hooks


class OldHooks(pl.Callback):
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def on_init_start(self, trainer: Any) -> None:
        self.calls.append("init")

    def on_pretrain_routine_start(self, trainer: Any, pl_module: Any) -> None:
        self.calls.append("routine")

    def on_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.calls.append("epoch start")

    def on_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.calls.append("epoch end")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any, unused: Any = None) -> None:
        self.calls.append("train epoch end")

    def on_batch_start(self, trainer: Any, pl_module: Any) -> None:
        self.calls.append("batch")

    def on_keyboard_interrupt(self, trainer: Any, pl_module: Any) -> None:
        self.calls.append("interrupt")

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> Any:
        return {"x": 5}

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, callback_state: Any) -> None:
        self.calls.append(callback_state)


def test_hooks_of_old() -> None:
    class Old(Model):
        def on_epoch_end(self) -> None:
            hooks.calls.append("model")
            self.log("of_epoch_end", 1.0)

    hooks = OldHooks()
    trainer = pl.Trainer(callbacks=[hooks], logger=False, num_sanity_val_steps=0, **QUIET)
    trainer.fit(Old(), loader(), loader())
    validation = ["epoch start", "epoch end", "model"]
    train = ["epoch start", "batch", "batch", *validation, "train epoch end", "epoch end", "model"]
    assert hooks.calls == ["init", "routine", *train]
    assert trainer.callback_metrics["of_epoch_end"] == 1

    resumed = OldHooks()
    path = trainer.checkpoint_callback.best_model_path
    pl.Trainer(callbacks=[resumed], logger=False, resume_from_checkpoint=path, **QUIET).fit(Model(), loader())
    assert resumed.calls[:2] == ["init", {"x": 5}]


def test_keyboard_interrupt() -> None:
    class Old(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise KeyboardInterrupt

    hooks = OldHooks()
    with pytest.raises(KeyboardInterrupt):
        pl.Trainer(callbacks=[hooks], logger=False, **QUIET).fit(Old(), loader())
    assert hooks.calls[-1] == "interrupt"


def test_lambda_callback_with_a_hook_of_old() -> None:
    from raylight.callbacks import LambdaCallback

    calls = []
    callback = LambdaCallback(on_epoch_end=lambda trainer, pl_module: calls.append(trainer.current_epoch))
    pl.Trainer(callbacks=[callback], logger=False, **QUIET).fit(Model(), loader())
    assert calls == [0]


def test_finetune_function_with_an_index() -> None:
    from raylight.callbacks import BaseFinetuning

    class Old(BaseFinetuning):
        def freeze_before_training(self, pl_module: Any) -> None: ...

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any, opt_idx: int) -> None:  # type: ignore[override]
            self.seen = epoch, opt_idx

    callback = Old()
    pl.Trainer(callbacks=[callback], logger=False, **QUIET).fit(Model(), loader())
    assert callback.seen == (0, 0)
