"""What every callback can do, and how a Trainer takes callbacks: as in Lightning."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest
import torch


def test_callbacks_log(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Logging(side.pl.Callback):  # type: ignore[misc, name-defined]
            def on_train_batch_end(self, *args: Any) -> None:
                self.log("batch", args[-1], prog_bar=True)

            def on_train_epoch_end(self, *_: Any) -> None:
                self.log_dict({"epoch_a": 1.0, "epoch_b": 2.0})

        callback = Logging()
        trainer = side.fit(side.Model(), callback, max_epochs=2)
        return side.metrics(trainer)

    same_in_both(run)


def test_a_callback_can_be_copied_after_it_logged(ours: Any) -> None:
    callback = ours.pl.callbacks.EarlyStopping("train_loss")
    ours.fit(ours.Model(), callback)
    assert not hasattr(callback, "log")
    assert pickle.loads(pickle.dumps(callback)).monitor == "train_loss"


def test_states_in_the_checkpoint(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        heard: list[Any] = []

        class Stateful(side.pl.Callback):  # type: ignore[misc, name-defined]
            def __init__(self, name: str) -> None:
                self.name = name

            @property
            def state_key(self) -> str:
                return self._generate_state_key(name=self.name)

            def state_dict(self) -> dict[str, Any]:
                return {"value": self.name * 2}

            def load_state_dict(self, state_dict: dict[str, Any]) -> None:
                heard.append((self.name, state_dict))

            def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
                heard.append(("save", sorted(checkpoint)[0]))
                checkpoint["extra"] = self.name

            def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
                heard.append(("load", checkpoint["extra"]))

        class Plain(Stateful):
            def state_dict(self) -> dict[str, Any]:
                return {}

        def callbacks() -> list[Any]:
            return [Stateful("a"), Stateful("b"), Plain("c")]

        trainer = side.fit(side.Model(), *callbacks())
        path = side.root / "saved.ckpt"
        trainer.save_checkpoint(path)
        side.trainer(*callbacks(), max_epochs=2).fit(side.Model(), ckpt_path=path)
        saved = torch.load(path, weights_only=False)
        keys = [key.rpartition(".")[2] for key in saved["callbacks"]]
        return heard, keys, list(saved["callbacks"].values())

    assert same_in_both(run)[1] == ["Stateful{'name': 'a'}", "Stateful{'name': 'b'}"]


def test_two_states_under_one_key(same_error: Any) -> None:
    def run(side: Any) -> None:
        class Stateful(side.pl.Callback):  # type: ignore[misc, name-defined]
            def state_dict(self) -> dict[str, Any]:
                return {"a": 1}

        side.trainer(Stateful(), Stateful())

    assert "Found more than one stateful callback of type `Stateful`" in str(same_error(run))


def test_configured_by_the_model(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        made = side.pl.callbacks

        class Own(made.EarlyStopping):  # type: ignore[misc, name-defined]
            pass

        class Model(side.Model):  # type: ignore[misc, name-defined]
            def configure_callbacks(self) -> Any:
                return [made.ModelCheckpoint(monitor="train_loss", dirpath=side.root), Own("train_loss", patience=9)]

        trainer = side.trainer(
            made.ModelCheckpoint(dirpath=side.root), made.EarlyStopping("train_loss"), made.LearningRateMonitor()
        )
        trainer.fit(Model())
        return [type(callback).__name__ for callback in trainer.callbacks], trainer.checkpoint_callback.monitor

    assert same_in_both(run) == [["LearningRateMonitor", "Own", "ModelCheckpoint"], "train_loss"]


@pytest.mark.parametrize("flags", [{}, {"max_time": "00:00:00:30"}, {"enable_model_summary": True}], ids=str)
def test_order_of_callbacks(same_in_both: Any, flags: dict[str, Any]) -> None:
    def run(side: Any) -> Any:
        made = side.pl.callbacks
        trainer = side.trainer(
            made.ModelCheckpoint(), made.EarlyStopping("a"), made.OnExceptionCheckpoint(side.root), side.callback(),
            enable_progress_bar=True, **flags,
        )  # fmt: skip
        names = [type(callback).__name__ for callback in trainer.callbacks]
        return [name.removeprefix("Rich") for name in names]

    same_in_both(run)


def test_lambda_callback(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        heard: list[Any] = []
        callback = side.pl.callbacks.LambdaCallback(
            setup=lambda trainer, module, stage: heard.append(("setup", stage)),
            on_train_batch_end=lambda trainer, module, outputs, batch, batch_idx: heard.append(batch_idx),
            on_fit_end=None,
        )
        side.fit(side.Model(), callback)
        return heard

    assert same_in_both(run) == [["setup", "fit"], 0, 1, 2, 3, 4]


def test_lambda_of_no_hook(same_error: Any) -> None:
    same_error(lambda side: side.pl.callbacks.LambdaCallback(on_nothing=print))


def test_only_hooks_and_states_are_public_methods_of_a_callback() -> None:
    """Scripts wrap all of a Callback's public methods."""
    import pytorch_lightning

    import raylight

    ours, theirs = (
        {name for name, _ in inspect.getmembers(pl.Callback, inspect.isfunction) if not name.startswith("_")}
        for pl in (raylight, pytorch_lightning)
    )
    assert ours == theirs
