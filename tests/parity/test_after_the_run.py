"""What a model still answers when its run is over, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

from raylight.utilities.exceptions import MisconfigurationException


def make_model(side: Any) -> Any:
    class Model(side.Model):  # type: ignore[misc, name-defined]
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [StepLR(optimizer, 1)]

    return Model()


def test_optimizers_and_schedulers(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        model = make_model(side)
        trainer = side.fit(model, limit_train_batches=1)
        wrapped, own = model.optimizers(), model.optimizers(use_pl_optimizer=False)
        assert own is trainer.optimizers[0] is wrapped.optimizer
        return type(wrapped).__name__, type(model.lr_schedulers()).__name__, wrapped.param_groups[0]["lr"]

    assert same_in_both(run) == ["LightningSGD", "StepLR", pytest.approx(0.01)]


def test_toggling_asks_the_trainer_alone(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        model = side.Model()
        model.other = nn.Linear(1, 1)
        model.other.bias.requires_grad_(False)
        optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (model.layer, model.other)]

        def flags() -> list[bool]:
            return [model.layer[0].weight.requires_grad, *(each.requires_grad for each in model.other.parameters())]

        class Trainer:
            pass

        model.trainer = Trainer()
        model.trainer.optimizers = optimizers
        with model.toggled_optimizer(optimizers[0]):
            inside = flags()
        return inside, flags()

    assert same_in_both(run) == [[True, False, False], [True, True, False]]


@pytest.mark.parametrize(
    ("flags", "passed"),
    [
        ({"gradient_clip_val": 1e-4}, {"gradient_clip_val": 1e-2}),
        ({"gradient_clip_algorithm": "norm"}, {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}),
    ],
)
def test_clipping_other_than_the_trainers(flags: Any, passed: Any, same_error: Any) -> None:
    def run(side: Any) -> None:
        class Clipping(side.Model):  # type: ignore[misc, name-defined]
            def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
                self.clip_gradients(optimizer, **passed)

        side.fit(Clipping(), limit_train_batches=1, **flags)

    assert "use only one of them" in str(same_error(run))


@pytest.mark.parametrize("fn", ["fit", "predict"])
def test_logging_is_over(fn: str, same_error: Any) -> None:
    def run(side: Any) -> None:
        model = make_model(side)
        model.predict_step = lambda batch, batch_idx: None
        trainer = side.trainer(limit_train_batches=1, limit_predict_batches=1)
        getattr(trainer, fn)(model, side.loader(1))
        model.log("a", 1.0)

    assert "not registered" in str(same_error(run))


def test_logging_in_predict(same_error: Any) -> None:
    def run(side: Any) -> None:
        class Logging(side.Model):  # type: ignore[misc, name-defined]
            def predict_step(self, batch: Any, batch_idx: int) -> None:
                self.log("a", 1.0)

        side.trainer().predict(Logging(), side.loader(1))

    error = same_error(run)
    assert isinstance(error, MisconfigurationException)
    assert "result collection is not registered yet" in str(error)


def test_unpicklable_hyperparameter_is_dropped(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Holding(side.Model):  # type: ignore[misc, name-defined]
            def __init__(self, size: int = 1, function: Any = lambda x: x) -> None:
                super().__init__()
                self.save_hyperparameters()

        model = Holding()
        with pytest.warns(UserWarning, match="'function' removed from hparams because it cannot be pickled"):
            side.fit(model, limit_train_batches=1)
        return dict(model.hparams)

    assert same_in_both(run) == {"size": 1}
