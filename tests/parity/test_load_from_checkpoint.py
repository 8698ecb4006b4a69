"""load_from_checkpoint: arguments, hyperparameters, errors and warnings as Lightning has them."""

from __future__ import annotations

import dataclasses
import io
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn


def small(side: Any, hparams: str = "kwargs") -> Any:
    """A class with hyperparameters of one kind."""

    class Base(side.pl.LightningModule):  # type: ignore[misc, name-defined]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.layer(batch[0]).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def train_dataloader(self) -> Any:
            return side.loader(2)

    if hparams == "kwargs":

        class Kwargs(Base):
            def __init__(self, width: int, lr: float = 0.1, **others: Any) -> None:
                super().__init__()
                self.save_hyperparameters()
                self.layer = nn.Linear(3, width)

        return Kwargs
    if hparams == "unconventional":

        class Unconventional(Base):
            def __init__(own, width: int, *rest: Any, lr: float = 0.1, **more: Any) -> None:  # noqa: N805
                super().__init__()
                own.save_hyperparameters()
                own.layer = nn.Linear(3, width)

        return Unconventional
    if hparams == "one argument":

        class OneArgument(Base):
            def __init__(self, config: Any, lr: float = 0.3) -> None:
                super().__init__()
                self.save_hyperparameters(config)
                self.layer = nn.Linear(3, self.hparams.width)

        return OneArgument
    if hparams == "dataclass":

        @dataclasses.dataclass(unsafe_hash=True)
        class Dataclass(Base):
            width: int
            lr: float = 0.1

            def __post_init__(self) -> None:
                super().__init__()
                self.save_hyperparameters()
                self.layer = nn.Linear(3, self.width)

        return Dataclass

    class Inherited(small(side, "kwargs")):  # type: ignore[misc]
        def __init__(self, depth: int, width: int) -> None:
            super().__init__(width=width, lr=0.7)
            self.save_hyperparameters(ignore="lr")

    return Inherited


def saved(side: Any, model: Any, **changes: Any) -> Path:
    """A file of ``model``, trained for a batch, with other content in some keys; None deletes a key."""
    trainer = side.fit(model, max_steps=1)
    trainer.save_checkpoint(side.root / "model.ckpt")
    if changes:
        checkpoint = torch.load(side.root / "model.ckpt", weights_only=True)
        checkpoint.update(changes)
        torch.save({key: value for key, value in checkpoint.items() if value is not None}, side.root / "model.ckpt")
    return side.root / "model.ckpt"


MADE: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "kwargs": ((2,), {"lr": 0.5, "momentum": 0.9}),
    "unconventional": ((2, 7), {"more_of_it": 1}),
    "one argument": (({"width": 2, "name": "a"},), {}),
    "dataclass": ((2,), {"lr": 0.5}),
    "inherited": ((3,), {"width": 2}),
}


@pytest.mark.parametrize("overrides", [{}, {"lr": 0.9}, {"nowhere": 5}])
@pytest.mark.parametrize("hparams", MADE)
@pytest.mark.filterwarnings("ignore:.* takes no '.*', which is left out:UserWarning")
def test_hyperparameters(hparams: str, overrides: dict[str, Any], same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        args, kwargs = MADE[hparams]
        cls = small(side, hparams)
        model = cls(*args, **kwargs)
        path = saved(side, model)
        loaded = cls.load_from_checkpoint(path, **overrides)
        stored = torch.load(path, weights_only=True)
        same = all(torch.equal(one, other) for one, other in zip(loaded.parameters(), model.parameters(), strict=True))
        found = dict(loaded.hparams), dict(loaded.hparams_initial)
        return found, stored["hparams_name"], stored["hyper_parameters"], same

    assert same_in_both(run)[-1] is True


def test_namespace_comes_back_as_one_argument(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        cls = small(side, "one argument")
        loaded = cls.load_from_checkpoint(saved(side, cls(Namespace(width=2))), width=2, extra=1)
        return dict(loaded.hparams)

    assert same_in_both(run) == {"width": 2, "extra": 1}


@pytest.mark.parametrize("key", ["hparams", "module_arguments"])
def test_keys_of_the_first_versions(key: str, same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        cls = small(side)
        changes = {key: {"width": 2, "lr": -17}, "hyper_parameters": None, "hparams_type": "Namespace"}
        return dict(cls.load_from_checkpoint(saved(side, cls(2), **changes)).hparams)

    assert same_in_both(run) == {"width": 2, "lr": -17}


@pytest.mark.parametrize("kind", ["yaml", "csv"])
def test_hparams_file(kind: str, same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        (side.root / "hparams.yaml").write_text("width: 2\nlr: 0.25\n")
        (side.root / "hparams.csv").write_text("key,value\nwidth,2\nlr,0.25\n")
        cls = small(side)
        path = saved(side, cls(2, lr=1.0, momentum=3))
        return dict(cls.load_from_checkpoint(path, hparams_file=side.root / f"hparams.{kind}").hparams)

    assert same_in_both(run) == {"width": 2, "lr": 0.25}


def test_from_a_stream_a_string_and_to_a_device(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        cls = small(side)
        path = saved(side, model := cls(2))
        from_stream = cls.load_from_checkpoint(io.BytesIO(path.read_bytes()))
        devices = [
            str(cls.load_from_checkpoint(str(path), map_location=location).device)
            for location in (None, "cpu", torch.device("cpu"), {"cuda:0": "cpu"}, lambda storage, location: storage)
        ]
        return torch.equal(from_stream.layer.weight, model.layer.weight), devices

    assert same_in_both(run)[0]


@pytest.mark.parametrize("strict", [None, True, False])
def test_strictness(strict: bool | None, same_in_both: Any, same_error: Any) -> None:
    def run(side: Any) -> Any:
        cls = small(side)
        path = saved(side, cls(2))
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["state_dict"]["other"] = checkpoint["state_dict"].pop("layer.bias")
        torch.save(checkpoint, path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = cls.load_from_checkpoint(path, strict=strict)
        found = sorted(str(each.message) for each in caught if "Found keys" in str(each.message))
        return found, model.strict_loading

    if strict is False:
        assert len(same_in_both(run)[0]) == 2
    else:
        assert "layer.bias" in str(same_error(run))


def test_strictness_that_contradicts_the_model(same_error: Any) -> None:
    def run(side: Any) -> Any:
        class Loose(small(side)):  # type: ignore[misc]
            def __init__(self, width: int) -> None:
                super().__init__(width)
                self.strict_loading = False

        Loose.load_from_checkpoint(saved(side, Loose(2)), strict=True)

    assert "which is in conflict with" in str(same_error(run))


def test_mis_shaped_weights_are_named(same_error: Any) -> None:
    error = same_error(lambda side: small(side).load_from_checkpoint(saved(side, small(side)(2)), width=5))
    assert "size mismatch for layer.weight" in str(error)


def test_missing_argument(same_error: Any) -> None:
    def run(side: Any) -> Any:
        small(side).load_from_checkpoint(saved(side, small(side)(2), hyper_parameters=None))

    assert isinstance(same_error(run), TypeError)


def test_refused_on_an_instance(same_error: Any) -> None:
    error = same_error(lambda side: small(side)(2).load_from_checkpoint("anything"))
    assert "`Kwargs.load_from_checkpoint` cannot be called on an instance" in str(error)


def test_no_weights_at_all(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        path = saved(side, small(side)(2), state_dict={}, hyper_parameters=None)

        class Nothing(side.pl.LightningModule):  # type: ignore[misc, name-defined]
            """Without parameters."""

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            Nothing.load_from_checkpoint(path)
        return [str(each.message).partition("'")[0] for each in caught if "no parameters" in str(each.message)]

    assert len(same_in_both(run)) == 1


def test_hooks_and_configure_model(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        called = []

        class Late(small(side)):  # type: ignore[misc]
            def __init__(self, width: int) -> None:
                super().__init__(width)
                self.late = None

            def configure_model(self) -> None:
                called.append("configure_model")
                if self.late is None:
                    self.late = nn.Linear(1, 1)

            def on_load_checkpoint(self, checkpoint: Any) -> None:
                called.append(sorted(checkpoint["state_dict"]))

        path = saved(side, Late(2))
        called.clear()
        return Late.load_from_checkpoint(path).late is not None, called

    same_in_both(run)


@pytest.mark.parametrize("value", [None, True])
def test_weights_only_argument(value: bool | None, same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        model = side.Model()
        path = saved(side, model)
        type(model).validation_step = lambda self, batch, batch_idx: None
        type(model).test_step = type(model).predict_step = type(model).validation_step
        for method in ("fit", "validate", "test", "predict"):
            trainer = side.trainer(max_epochs=2)
            loaders = [side.loader(2), side.loader(2)] if method == "fit" else [side.loader(2)]
            type(model).predict_step = lambda self, batch, batch_idx: None
            getattr(trainer, method)(type(model)(), *loaders, ckpt_path=path, weights_only=value)
        return type(model).load_from_checkpoint(path, weights_only=value).layer[0].weight

    same_in_both(run)
