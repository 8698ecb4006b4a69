"""Attributes, arguments and hyperparameters are found where Lightning finds them."""

from __future__ import annotations

import inspect
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning
from pytorch_lightning.utilities import parsing as lightnings

import raylight
from raylight.utilities import parsing as ours

SIDES = [(pytorch_lightning, lightnings), (raylight, ours)]
BOTH = pytest.mark.parametrize(("pl", "parsing"), SIDES, ids=["lightning", "raylight"])


def make_model(pl: ModuleType, **datamodule: Any) -> Any:
    model = pl.LightningModule()
    model.learning_rate = 1
    model.save_hyperparameters({"batch_size": 8, "learning_rate": 2})
    if datamodule:
        model._trainer = SimpleNamespace(datamodule=SimpleNamespace(**datamodule))
    return model


@BOTH
def test_attribute_of_model_hparams_and_datamodule(pl: ModuleType, parsing: Any) -> None:
    model = make_model(pl)
    assert parsing.lightning_hasattr(model, "batch_size")
    assert not parsing.lightning_hasattr(model, "dropout")
    assert parsing.lightning_getattr(model, "batch_size") == 8
    assert parsing.lightning_getattr(model, "learning_rate") == 2  # the last holder's
    parsing.lightning_setattr(model, "learning_rate", 3)
    assert (model.learning_rate, model.hparams.learning_rate) == (3, 3)


@BOTH
def test_attribute_of_the_datamodule(pl: ModuleType, parsing: Any) -> None:
    model = make_model(pl, batch_size=16, hparams={"dropout": 0.5})
    assert parsing.lightning_getattr(model, "batch_size") == 16
    parsing.lightning_setattr(model, "dropout", 0.25)
    assert parsing.lightning_getattr(model, "dropout") == 0.25
    assert not hasattr(model, "dropout")


@BOTH
@pytest.mark.parametrize("call", ["getattr", "setattr"])
def test_attribute_of_none(pl: ModuleType, parsing: Any, call: str) -> None:
    arguments = (1,) if call == "setattr" else ()
    with pytest.raises(AttributeError, match="dropout is neither stored in the model namespace nor the `hparams`"):
        getattr(parsing, f"lightning_{call}")(make_model(pl), "dropout", *arguments)


@BOTH
def test_namespace_is_cleaned(pl: ModuleType, parsing: Any) -> None:
    hparams = {"lr": 0.1, "loss": lambda x: x}
    assert parsing.is_picklable(hparams["lr"])
    with pytest.warns(UserWarning, match="Attribute 'loss' removed from hparams because it cannot be pickled"):
        parsing.clean_namespace(hparams)
    assert hparams == {"lr": 0.1}


class Parent:
    def __init__(self, lr: float, *rest: int, momentum: float = 0.9, **others: Any) -> None:
        super().__init__()
        frame = inspect.currentframe()
        assert frame is not None
        self.found = {module: module.collect_init_args(frame, []) for module in (lightnings, ours)}
        self.own = {module: module.get_init_args(frame) for module in (lightnings, ours)}


class Child(Parent):
    def __init__(self, width: int) -> None:
        super().__init__(width / 10, 1, 2, beta=5)


@pytest.mark.parametrize("parsing", [lightnings, ours], ids=["lightning", "raylight"])
def test_arguments_of_init(parsing: Any) -> None:
    made = Child(3)
    parents = {"lr": 0.3, "momentum": 0.9, "beta": 5}
    assert made.own[parsing] == parents
    assert made.found[parsing] == [parents, {"width": 3}]
    assert parsing.parse_class_init_keys(Parent) == ("self", "rest", "others")
    assert parsing.parse_class_init_keys(Child) == ("self", None, None)


@BOTH
def test_save_hyperparameters_as_a_function(pl: ModuleType, parsing: Any) -> None:
    class Model(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, width: int, depth: int = 2) -> None:
            super().__init__()
            parsing.save_hyperparameters(self, ignore=["depth"])

    assert Model(3).hparams == {"width": 3}


@pytest.mark.parametrize(("text", "truth"), [("Yes", True), ("1", True), ("off", False), ("F", False)])
def test_truth_of_a_text(text: str, truth: bool) -> None:
    assert ours.str_to_bool(text) is truth
    assert ours.str_to_bool_or_str(text) is truth
    assert ours.str_to_bool_or_int(text) is truth


def test_text_without_truth() -> None:
    assert ours.str_to_bool_or_str("auto") == "auto"
    assert ours.str_to_bool_or_int("3") == 3
    assert ours.str_to_bool_or_int("auto") == "auto"
    with pytest.raises(ValueError, match="invalid truth value auto"):
        ours.str_to_bool("auto")
