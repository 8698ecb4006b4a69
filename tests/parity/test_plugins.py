"""Plugins, accelerators and strategies in runs, beside Lightning's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import raylight
from raylight.accelerators import Accelerator, CPUAccelerator
from raylight.plugins import AsyncCheckpointIO, TorchCheckpointIO
from raylight.strategies import SingleDeviceStrategy
from raylight.utilities.exceptions import MisconfigurationException

# ------------------------------------------------------------------------------------------------ checkpoints


def checkpoint_io_of(side: Any) -> Any:
    """One that lists its calls."""

    class Listing(side.pl.plugins.CheckpointIO):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.calls: list[str] = []

        def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
            torch.save(checkpoint, path)
            self.calls.append(f"save {Path(path).name} {storage_options}")

        def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> Any:
            self.calls.append(f"load {Path(path).name}")
            return torch.load(path, weights_only=False)

        def remove_checkpoint(self, path: Any) -> None:
            Path(path).unlink()
            self.calls.append(f"remove {Path(path).name}")

        def teardown(self) -> None:
            self.calls.append("teardown")

    return Listing()


def with_test_step(side: Any) -> Any:
    return type("Tested", (side.Model,), {"test_step": lambda self, batch, batch_idx: None})()


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("through", ["plugins", "strategy"])
def test_own_checkpoint_io_does_everything(same_in_both: Any, through: str) -> None:
    def run(side: Any) -> Any:
        own = checkpoint_io_of(side)
        kwargs = {"plugins": own} if through == "plugins" else {}
        if through == "strategy":
            kwargs["strategy"] = side.pl.strategies.SingleDeviceStrategy("cpu", checkpoint_io=own)
        (side.root / "c").mkdir(exist_ok=True)
        checkpoint = side.pl.callbacks.ModelCheckpoint(dirpath=side.root / "c", save_last=True)
        trainer = side.fit(side.Model(), checkpoint, max_epochs=2, **kwargs)
        assert trainer.strategy.checkpoint_io is own
        trainer.save_checkpoint(side.root / "c" / "by_hand.ckpt", storage_options="options")
        side.trainer(plugins=own).test(with_test_step(side), side.loader(), ckpt_path=checkpoint.best_model_path)
        return own.calls

    calls = same_in_both(run)
    assert "save by_hand.ckpt options" in calls
    assert any(call.startswith("remove") for call in calls)
    assert any(call.startswith("load") for call in calls)


def test_async_checkpoints_are_there_when_fit_returns(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        checkpoint = side.pl.callbacks.ModelCheckpoint(dirpath=side.root / "c", save_top_k=-1, every_n_train_steps=2)
        io = side.pl.plugins.AsyncCheckpointIO()
        side.fit(side.Model(), checkpoint, plugins=[io], max_epochs=2)
        saved = torch.load(checkpoint.best_model_path, weights_only=False)
        return side.files(), saved["state_dict"], saved["global_step"]

    files, _, _ = same_in_both(run)
    assert len(files) == 5


class Failing(TorchCheckpointIO):
    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        raise OSError("disk full")


def test_an_error_of_an_async_save_ends_the_run(ours: Any) -> None:
    checkpoint = raylight.callbacks.ModelCheckpoint(dirpath=ours.root)
    heard = []
    callback = ours.callback(on_exception=lambda trainer, model, error: heard.append(error))
    with pytest.raises(OSError, match="disk full") as caught:
        ours.fit(ours.Model(), callback, checkpoint, plugins=AsyncCheckpointIO(Failing()))
    assert heard == [caught.value]


def test_another_error_comes_first(ours: Any) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    checkpoint = raylight.callbacks.ModelCheckpoint(dirpath=ours.root)
    callback = ours.callback(on_train_end=fail)
    with pytest.raises(ZeroDivisionError), pytest.warns(UserWarning, match="was not written.*disk full"):
        ours.fit(ours.Model(), callback, checkpoint, plugins=AsyncCheckpointIO(Failing()))


def test_checkpoint_io_of_lightning_1(ours: Any) -> None:
    class Old(TorchCheckpointIO):
        def load_checkpoint(self, path: Any, map_location: Any = None) -> Any:  # type: ignore[override]
            return super().load_checkpoint(path)

    trainer = ours.fit(ours.Model(), plugins=Old())
    trainer.save_checkpoint(ours.root / "a.ckpt")
    trainer = ours.trainer(plugins=Old(), max_epochs=2)
    trainer.fit(ours.Model(), ckpt_path=ours.root / "a.ckpt")
    assert trainer.global_step == 10


# ------------------------------------------------------------------------------------------------ precision


@pytest.mark.parametrize(
    "make",
    [
        lambda plugins: plugins.MixedPrecision("bf16-mixed", "cpu"),
        lambda plugins: plugins.DoublePrecision(),
        lambda plugins: plugins.HalfPrecision("bf16-true"),
        lambda plugins: plugins.Precision(),
        lambda plugins: plugins.MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu")),
    ],
)
def test_precision_plugins(same_in_both: Any, make: Any) -> None:
    def run(side: Any) -> Any:
        precision, model = make(side.pl.plugins), side.Model()
        trainer = side.fit(model, plugins=precision)
        assert trainer.precision_plugin is precision
        trainer.save_checkpoint(side.root / "a.ckpt")
        saved = torch.load(side.root / "a.ckpt", weights_only=True)
        return trainer.precision, side.outcome(trainer, model), saved.get("MixedPrecision")

    same_in_both(run)


def test_everything_that_a_precision_may_override(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        calls: list[str] = []

        class Own(side.pl.plugins.Precision):  # type: ignore[misc, name-defined]
            @contextlib.contextmanager
            def train_step_context(self) -> Iterator[None]:
                calls.append("train context")
                yield

            @contextlib.contextmanager
            def val_step_context(self) -> Iterator[None]:
                calls.append("val context")
                yield

            def convert_module(self, module: nn.Module) -> nn.Module:
                calls.append("convert_module")
                return module

            def convert_input(self, data: Any) -> Any:
                calls.append("convert_input")
                return data

            def connect(self, model: Any, optimizers: Any, lr_schedulers: Any) -> Any:
                calls.append(f"connect {len(optimizers)}")
                return super().connect(model, optimizers, lr_schedulers)

            def pre_backward(self, tensor: Tensor, module: Any) -> Tensor:
                calls.append("pre_backward")
                return super().pre_backward(tensor, module)

            def backward(self, tensor: Tensor, model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:
                calls.append("backward")
                super().backward(tensor, model, optimizer, *args, **kwargs)

            def post_backward(self, tensor: Tensor, module: Any) -> Tensor:
                calls.append("post_backward")
                return super().post_backward(tensor, module)

            def optimizer_step(self, optimizer: Any, model: Any, closure: Any, **kwargs: Any) -> Any:
                calls.append("optimizer_step")
                return super().optimizer_step(optimizer, model=model, closure=closure, **kwargs)

            def clip_grad_by_norm(self, optimizer: Any, clip_val: Any) -> None:
                calls.append(f"clip {clip_val}")
                super().clip_grad_by_norm(optimizer, clip_val)

            def state_dict(self) -> dict[str, Any]:
                return {"calls": 3}

            def load_state_dict(self, state_dict: dict[str, Any]) -> None:
                calls.append(f"load {state_dict}")

            def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
                checkpoint["its own"] = 4

            def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
                calls.append(f"on_load {checkpoint['its own']}")

            def teardown(self) -> None:
                calls.append("teardown")

        Own.__qualname__ = "Own"

        class Validating(side.Model):  # type: ignore[misc, name-defined]
            def validation_step(self, batch: Any, batch_idx: int) -> None: ...

            def val_dataloader(self) -> Any:
                return side.loader(1)

        model, flags = Validating(), {"plugins": Own(), "gradient_clip_val": 0.01}
        trainer = side.fit(model, **flags)
        trainer.save_checkpoint(side.root / "a.ckpt")
        saved = torch.load(side.root / "a.ckpt", weights_only=True)
        again = side.trainer(**{**flags, "plugins": Own(), "max_epochs": 2})
        again.fit(Validating(), ckpt_path=side.root / "a.ckpt")
        return calls, saved["Own"], model.losses

    same_in_both(run)


def test_precision_that_steps_by_itself_in_manual_optimization(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        calls = []

        class Own(side.pl.plugins.Precision):  # type: ignore[misc, name-defined]
            def optimizer_step(self, optimizer: Any, model: Any, closure: Any, **kwargs: Any) -> Any:
                calls.append(type(optimizer).__name__)
                return super().optimizer_step(optimizer, model=model, closure=closure, **kwargs)

        class Manual(side.Model):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.automatic_optimization = False

            def training_step(self, batch: Any, batch_idx: int) -> None:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                optimizer.step()

        model = Manual()
        trainer = side.fit(model, plugins=Own())
        return calls, side.outcome(trainer, model)

    same_in_both(run)


def test_modules_of_configure_model_have_the_precision(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        found = []

        class Later(side.Model):  # type: ignore[misc, name-defined]
            def configure_model(self) -> None:
                found.append(str(nn.Linear(1, 1).weight.dtype))

        side.fit(Later(), precision="64-true")
        return found

    assert same_in_both(run) == ["torch.float64"]


def test_precision_twice(same_error: Any) -> None:
    same_error(lambda side: side.trainer(precision="64-true", plugins=side.pl.plugins.DoublePrecision()))


@pytest.mark.parametrize("plugins", ["foo", [3]])
def test_unknown_plugins(same_error: Any, plugins: Any) -> None:
    same_error(lambda side: side.trainer(plugins=plugins))


def test_two_of_a_kind(same_error: Any) -> None:
    same_error(lambda side: side.trainer(plugins=[side.pl.plugins.TorchCheckpointIO() for _ in range(2)]))


# ------------------------------------------------------------------------------------------------ parts of a Trainer


def test_before_any_run(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        trainer = side.trainer(precision="bf16-mixed")
        strategy = trainer.strategy
        return [
            *(type(each).__name__ for each in (strategy, trainer.accelerator, trainer.precision_plugin)),
            type(strategy.checkpoint_io).__name__,
            *(str(each) for each in (strategy.root_device, trainer.precision, trainer.precision_plugin.precision)),
            *(strategy.is_global_zero, strategy.lightning_module, strategy.model, strategy.optimizers),
            *(trainer.scaler, trainer.accelerator.name(), strategy.strategy_name),
            *(strategy.accelerator is trainer.accelerator, strategy.precision_plugin is trainer.precision_plugin),
        ]

    same_in_both(run)


def test_strategy_in_and_after_a_run(same_in_both: Any) -> None:
    def look(trainer: Any) -> list[Any]:
        strategy, tensor = trainer.strategy, torch.ones(2)
        return [
            strategy.model is strategy.lightning_module is trainer.lightning_module,
            [type(optimizer).__name__ for optimizer in strategy.optimizers],
            len(strategy.lr_scheduler_configs),
            strategy.reduce(tensor),
            strategy.broadcast(3),
            strategy.all_gather(tensor),
            strategy.reduce_boolean_decision(True),
            strategy.batch_to_device({"x": tensor}),
            sorted(strategy.lightning_module_state_dict()),
            strategy.barrier(),
        ]

    def run(side: Any) -> Any:
        seen = []
        callback = side.callback(on_train_batch_end=lambda trainer, *_: seen.append(look(trainer)))
        trainer = side.fit(side.Model(), callback)
        return seen, look(trainer)

    same_in_both(run)


def test_connected_by_hand(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        trainer, model = side.trainer(), side.Model()
        trainer.strategy.connect(model)
        return trainer.lightning_module is trainer.strategy.lightning_module is trainer.strategy.model is model

    assert same_in_both(run)


def test_hooks_of_a_strategy(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        calls: list[Any] = []

        class Own(side.pl.strategies.SingleDeviceStrategy):  # type: ignore[misc, name-defined]
            def on_train_start(self) -> None:
                calls.append("start")

            def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
                calls.append(batch_idx)

            def on_train_end(self) -> None:
                calls.append("end")

            def on_exception(self, exception: BaseException) -> None:
                calls.append(exception)

        def on_train_batch_start(*_: Any) -> None:
            calls.append("callback")

        class Skipping(side.Model):  # type: ignore[misc, name-defined]
            def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
                return -1 if batch_idx == 2 else None

        model = Skipping()
        strategy = Own("cpu")
        trainer = side.fit(model, side.callback(on_train_batch_start=on_train_batch_start), strategy=strategy)
        assert trainer.strategy is strategy
        return calls, model.losses

    calls, losses = same_in_both(run)
    assert calls[-1] == "end"
    assert len(losses) == 2


class Own(Accelerator):
    """One that lists its calls."""

    def __init__(self, device: str = "cpu") -> None:
        self.calls: list[str] = []
        Own.device = torch.device(device)  # type: ignore[attr-defined]

    def setup_device(self, device: torch.device) -> None:
        self.calls.append(f"setup_device {device}")

    def setup(self, trainer: Any) -> None:
        self.calls.append("setup")

    def teardown(self) -> None:
        self.calls.append("teardown")

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> Any:
        return [Own.device] * devices  # type: ignore[attr-defined]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "own"


def test_own_accelerator(ours: Any) -> None:
    accelerator = Own()
    trainer = ours.fit(ours.Model(), accelerator=accelerator)
    assert trainer.accelerator is trainer.strategy.accelerator is accelerator
    assert accelerator.calls == ["setup_device cpu", "setup", "teardown"]


def test_accelerator_objects(ours: Any) -> None:
    accelerator = CPUAccelerator()
    assert ours.trainer(accelerator=accelerator).accelerator is accelerator
    trainer = ours.trainer(accelerator="auto", strategy=SingleDeviceStrategy(accelerator=accelerator))
    assert trainer.accelerator is accelerator
    with pytest.raises(MisconfigurationException, match="gives devices of type 'mps'"):
        ours.trainer(accelerator=Own("mps"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_accelerator_that_is_not_here(same_error: Any) -> None:
    same_error(lambda side: side.trainer(accelerator=side.pl.accelerators.CUDAAccelerator()))
