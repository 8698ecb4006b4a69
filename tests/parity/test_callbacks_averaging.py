"""Averaged weights: the same numbers, learning rates and files, and each library goes on from the other's file."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

EPOCHS = 5


def make(side: Any, batch_norm: bool = False, schedule: str | None = None, validates: bool = False) -> Any:
    """A model that keeps the learning rate of every step, and the weights it was validated with."""

    class Model(side.Model):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            norm = nn.BatchNorm1d(4) if batch_norm else nn.Identity()
            self.layer = nn.Sequential(nn.Linear(3, 4), norm, nn.Tanh(), nn.Linear(4, 1))
            for number, parameter in enumerate(self.parameters()):
                nn.init.constant_(parameter, 0.1 + 0.2 * number)
            self.rates: list[float] = []
            self.seen: list[Any] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
            return super().training_step(batch, batch_idx)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.5)
            if schedule is None:
                return optimizer
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": schedule}}

        def train_dataloader(self) -> Any:
            return side.loader()

    if not validates:
        return Model()

    class Validated(Model):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.seen.append(deepcopy(self.state_dict()))

        def val_dataloader(self) -> Any:
            return side.loader(1)

    return Validated()


def outcome(trainer: Any, model: Any) -> Any:
    position = (trainer.global_step, trainer.current_epoch, trainer.max_epochs, trainer.accumulate_grad_batches)
    schedulers = [type(config.scheduler).__name__ for config in trainer.lr_scheduler_configs]
    return model.losses, model.rates, model.state_dict(), model.seen, position, schedulers


# ------------------------------------------------------------------------------------------------ SWA

AVERAGED = [
    pytest.param({}, {}, {}, id="plain"),
    pytest.param({"batch_norm": True}, {}, {}, id="batch norm"),
    pytest.param({"batch_norm": True, "validates": True}, {}, {}, id="batch norm, validation"),
    pytest.param({"batch_norm": True, "schedule": "epoch"}, {}, {"accumulate_grad_batches": 2}, id="accumulation"),
    pytest.param({"schedule": "epoch"}, {"swa_epoch_start": 1, "annealing_epochs": 2}, {}, id="from the start"),
    pytest.param({}, {"swa_epoch_start": 0.4, "annealing_strategy": "linear", "annealing_epochs": 3}, {}, id="linear"),
    pytest.param({}, {"swa_epoch_start": 2, "avg_fn": lambda old, new, count: old / 4 + new}, {}, id="own average"),
    pytest.param({"batch_norm": True}, {"swa_epoch_start": 2}, {"max_epochs": -1, "max_steps": 18}, id="endless"),
    pytest.param({"batch_norm": True}, {}, {"gradient_clip_val": 0.1}, id="clipping"),
]


@pytest.mark.parametrize(("model_settings", "swa", "flags"), AVERAGED)
def test_swa(same_in_both: Any, model_settings: Any, swa: Any, flags: Any) -> None:
    def run(side: Any) -> Any:
        model = make(side, **model_settings)
        callback = side.pl.callbacks.StochasticWeightAveraging(**{"swa_lrs": 0.05, "swa_epoch_start": 0.5, **swa})
        trainer = side.fit(model, callback, **{"max_epochs": EPOCHS, **flags})
        return outcome(trainer, model), callback.state_dict()

    (losses, rates, *_), state = same_in_both(run)
    assert rates[-1] < 0.2
    assert state["n_averaged"] > 1


def test_swa_warns_of_a_scheduler_of_steps(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        model = make(side, schedule="step")
        callback = side.pl.callbacks.StochasticWeightAveraging(0.05, swa_epoch_start=2)
        return outcome(side.fit(model, callback, max_epochs=3), model)

    with pytest.warns(UserWarning, match="SWA is currently only supported every epoch. Found"):
        same_in_both(run)


SWA_ERRORS = [
    {"swa_lrs": 1},
    {"swa_lrs": -0.1},
    {"swa_lrs": [0.2, 1]},
    {"swa_lrs": 0.1, "swa_epoch_start": 0},
    {"swa_lrs": 0.1, "swa_epoch_start": 1.5},
    {"swa_lrs": 0.1, "swa_epoch_start": -0.1},
    {"swa_lrs": 0.1, "avg_fn": 3},
    {"swa_lrs": 0.1, "device": 3},
]


@pytest.mark.parametrize("arguments", SWA_ERRORS, ids=str)
def test_swa_arguments_that_cannot_be(same_error: Any, arguments: Any) -> None:
    same_error(lambda side: side.pl.callbacks.StochasticWeightAveraging(**arguments))


@pytest.mark.parametrize("case", ["two optimizers", "two schedulers", "share of no limit", "rates of other groups"])
def test_swa_models_that_cannot_be(same_error: Any, case: str) -> None:
    def run(side: Any) -> None:
        model = make(side)
        model.automatic_optimization = case != "two optimizers"

        def configure() -> Any:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            if case == "two optimizers":
                return [optimizer, torch.optim.SGD(model.parameters(), lr=0.1)]
            count = 2 if case == "two schedulers" else 0
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1) for _ in range(count)]

        model.configure_optimizers = configure
        rates = [0.1, 0.1] if case == "rates of other groups" else 0.1
        callback = side.pl.callbacks.StochasticWeightAveraging(rates, swa_epoch_start=0.5)
        side.fit(model, callback, max_epochs=-1 if case == "share of no limit" else 2, max_steps=4)

    same_error(run)


# ------------------------------------------------------------------------------------------------ averages of steps


class Recent:
    """Options of a WeightAveraging of one's own, for both libraries."""

    @staticmethod
    def make(side: Any, **arguments: Any) -> Any:
        def should_update(self: Any, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
            self.asked.append((step_idx, epoch_idx))
            return epoch_idx in (1, 2, 4) if step_idx is None else step_idx == 7

        kind = type("Own", (side.pl.callbacks.WeightAveraging,), {"should_update": should_update})
        callback = kind(**arguments)
        callback.asked = []
        return callback


STEPWISE = [
    pytest.param("WeightAveraging", {}, 1, id="mean"),
    pytest.param(
        "WeightAveraging", {"use_buffers": False, "device": "cpu"}, 1, id="no buffers", marks=pytest.mark.slow
    ),
    pytest.param(
        "WeightAveraging", {"multi_avg_fn": get_ema_multi_avg_fn(0.8)}, 1, id="multi_avg_fn", marks=pytest.mark.slow
    ),
    pytest.param("Own", {}, 2, id="own rule"),
    pytest.param("EMAWeightAveraging", {"decay": 0.7}, 1, id="every step", marks=pytest.mark.slow),
    pytest.param("EMAWeightAveraging", {"decay": 0.7, "update_every_n_steps": 3}, 2, id="every third"),
    pytest.param(
        "EMAWeightAveraging",
        {"update_every_n_steps": 2, "update_starting_at_step": 5},
        1,
        id="late",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "EMAWeightAveraging",
        {"update_every_n_steps": 0, "update_starting_at_epoch": 1},
        1,
        id="epochs",
        marks=pytest.mark.slow,
    ),
    pytest.param("EMAWeightAveraging", {"decay": 0.7, "update_starting_at_epoch": 2}, 1, id="steps and epochs"),
]


def averaging(side: Any, name: str, arguments: Any) -> Any:
    if name == "Own":
        return Recent.make(side, **arguments)
    return getattr(side.pl.callbacks.weight_averaging, name)(**arguments)


@pytest.mark.parametrize(("name", "arguments", "accumulate"), STEPWISE)
def test_weight_averaging(same_in_both: Any, name: str, arguments: Any, accumulate: int) -> None:
    def run(side: Any) -> Any:
        model = make(side, batch_norm=True, validates=True)
        callback = averaging(side, name, arguments)
        trainer = side.fit(model, callback, max_epochs=EPOCHS, accumulate_grad_batches=accumulate)
        path = side.root / "after.ckpt"
        trainer.save_checkpoint(path)
        result = outcome(trainer, model)
        trainer.validate(model, verbose=False)
        return result, model.seen[-1], contents(path), getattr(callback, "asked", None)

    same_in_both(run)


def contents(path: Any) -> Any:
    checkpoint = torch.load(path, weights_only=True)
    kept = ("state_dict", "current_model_state", "averaging_state", "callbacks", "lr_schedulers", "optimizer_states")
    return {name: checkpoint[name] for name in kept if name in checkpoint}


def test_layers_of_configure_model(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        model = make(side)
        layer, model.layer = model.layer, None

        def configure_model(self: Any) -> None:
            if self.layer is None:
                self.layer = layer

        model.__class__ = type("Late", (type(model),), {"configure_model": configure_model})
        return outcome(side.fit(model, side.pl.callbacks.WeightAveraging(), max_epochs=2), model)

    with pytest.warns(UserWarning, match="with a model that overrides the configure_model callback"):
        same_in_both(run)


# ------------------------------------------------------------------------------------------------ resuming

RESUMED = [
    pytest.param("swa", False, 1, id="before SWA"),
    pytest.param("swa", False, 3, id="in SWA"),
    pytest.param("swa", True, 1, id="batch norm, before SWA"),
    pytest.param("swa", True, 3, id="batch norm, in SWA"),
    pytest.param("swa", True, 4, id="before the batch-norm epoch"),
    pytest.param("ema", True, 1, id="ema"),
]


def callback_of(side: Any, kind: str) -> Any:
    if kind == "swa":
        return side.pl.callbacks.StochasticWeightAveraging(0.05, swa_epoch_start=3, annealing_epochs=2)
    return side.pl.callbacks.EMAWeightAveraging(decay=0.7, update_every_n_steps=2)


def keeper(side: Any) -> Any:
    """Saves at every epoch's end; to be given behind the callbacks that change something there."""
    return side.callback(
        on_train_epoch_end=lambda trainer, _: trainer.save_checkpoint(side.root / f"epoch={trainer.current_epoch}.ckpt")
    )


@pytest.mark.parametrize("writer", [0, 1], ids=["theirs", "ours"])
@pytest.mark.parametrize(("kind", "batch_norm", "epoch"), RESUMED)
def test_resumed_by_either(
    kind: str, batch_norm: bool, epoch: int, writer: int, both_sides: Any, same_in_both: Any, call: Any
) -> None:
    side = both_sides[writer]
    whole = make(side, batch_norm, "epoch")

    def write(side: Any) -> Any:
        return outcome(side.fit(whole, callback_of(side, kind), keeper(side), max_epochs=EPOCHS), whole)

    call(side, write)
    path = side.root / f"epoch={epoch}.ckpt"

    def resume(side: Any) -> Any:
        model = make(side, batch_norm, "epoch")
        callback = callback_of(side, kind)
        trainer = side.trainer(callback, max_epochs=EPOCHS)
        trainer.fit(model, ckpt_path=path)
        return outcome(trainer, model), callback.state_dict()

    (_, rates, weights, *_), _ = same_in_both(resume)
    if not (batch_norm and kind == "swa"):  # its last step is on gradients that no file holds
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(torch.tensor(weights[name], dtype=value.dtype), value)
    if rates:
        assert rates == pytest.approx(whole.rates[-len(rates) :])


@pytest.mark.parametrize("kind", ["swa", "ema"])
def test_content_of_a_file(same_in_both: Any, kind: str) -> None:
    def run(side: Any) -> Any:
        side.fit(make(side, True), callback_of(side, kind), keeper(side), max_epochs=EPOCHS)
        return contents(side.root / "epoch=3.ckpt")

    found = same_in_both(run)
    assert ("averaging_state" in found) == (kind == "ema")


def test_evaluating_a_file(same_in_both: Any) -> None:
    """The file's average is what is validated, where the callback still has another one too."""

    def run(side: Any) -> Any:
        model = make(side, validates=True)
        trainer = side.fit(model, callback_of(side, "ema"), keeper(side), max_epochs=3)
        trainer.validate(model, ckpt_path=side.root / "epoch=0.ckpt", verbose=False)
        expected = torch.load(side.root / "epoch=0.ckpt", weights_only=True)["state_dict"]
        return model.seen[-1], expected

    seen, expected = same_in_both(run)
    assert seen == expected


def test_evaluating_a_file_without_having_trained(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        side.fit(make(side), callback_of(side, "ema"), keeper(side), max_epochs=1)
        model = make(side, validates=True)
        path = side.root / "epoch=0.ckpt"
        side.trainer(callback_of(side, "ema")).validate(model, ckpt_path=path, verbose=False)
        return model.seen

    with pytest.warns(UserWarning, match="but loading a checkpoint outside the 'fit' stage"):
        same_in_both(run)


def test_a_file_without_an_average(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        side.fit(make(side), keeper(side), max_epochs=2)
        model = make(side)
        trainer = side.trainer(callback_of(side, "ema"), max_epochs=3)
        trainer.fit(model, ckpt_path=side.root / "epoch=1.ckpt")
        return outcome(trainer, model)

    with pytest.warns(UserWarning, match="was not created with WeightAveraging. Both the current and the average"):
        same_in_both(run)
