from __future__ import annotations

import functools
from typing import Any

import pytest
import tiny

import raylight as pl
from raylight.sweeps.recipe import Recipe, arguments_of, make, verify_maker
from raylight.utilities.exceptions import MisconfigurationException

RECIPE = Recipe(tiny.Line, tiny.Points, trainer={"max_epochs": 1})


def test_names_reach_what_they_mean() -> None:
    names = ["model.lr", "momentum", "data.batch_size", "shuffle", "trainer.max_epochs", "gradient_clip_val"]
    assert RECIPE.targets(dict.fromkeys(names)) == {
        "model.lr": ("model", "lr"),
        "momentum": ("model", "momentum"),
        "data.batch_size": ("data", "batch_size"),
        "shuffle": ("data", "shuffle"),
        "trainer.max_epochs": ("trainer", "max_epochs"),
        "gradient_clip_val": ("trainer", "gradient_clip_val"),
    }


def test_all_mistakes_are_told_at_once() -> None:
    space = dict.fromkeys(["model.lrr", "data.size", "trainer.max_epoch", "trainer.devices", "momentun", "zzz"])
    with pytest.raises(MisconfigurationException) as caught:
        RECIPE.targets(space)
    lines = str(caught.value).splitlines()
    assert lines[0] == "'model.lrr': the model takes no argument 'lrr' (did you mean 'lr'?)."
    assert lines[1] == "'data.size': the data takes no argument 'size'; it takes batch_size, shuffle."
    assert "did you mean 'max_epochs'?" in lines[2]
    assert "the sweep sets it, by workers_per_trial=" in lines[3]
    assert "did you mean 'momentum'?" in lines[4]
    assert lines[5] == "'zzz' is no argument of the model, the datamodule or the Trainer."


def test_ambiguous_and_double_names() -> None:
    recipe = Recipe(lambda batch_size: tiny.Line(), tiny.Points)
    with pytest.raises(MisconfigurationException, match=r"could be any of model.batch_size, data.batch_size"):
        recipe.targets({"batch_size": 1})
    with pytest.raises(MisconfigurationException, match=r"model.lr stands in the space twice"):
        RECIPE.targets({"lr": 1, "model.lr": 2})


def test_a_model_that_takes_anything() -> None:
    class Anything(tiny.Line):
        def __init__(self, **others: Any) -> None:
            super().__init__(**others)

    recipe = Recipe(Anything)
    assert recipe.targets({"model.lr": 1}) == {"model.lr": ("model", "lr")}
    with pytest.raises(MisconfigurationException, match="'lr' is no argument"):
        recipe.targets({"lr": 1})  # by itself it would be a guess


def test_build() -> None:
    flags = {"callbacks": [pl.Callback()]}
    recipe = Recipe(functools.partial(tiny.Line, momentum=0.5), tiny.Points, trainer=flags)
    params = {"lr": 0.3, "data.batch_size": 4, "max_epochs": 7}
    built = recipe.build(recipe.targets(params), params)
    assert dict(built.model.hparams) == {"lr": 0.3, "momentum": 0.5, "gamma": None}
    assert built.datamodule is not None
    assert built.datamodule.batch_size == 4
    assert built.flags["max_epochs"] == 7
    assert built.flags["callbacks"][0] is not flags["callbacks"][0]  # each trial has its own
    assert "max_epochs" not in flags


def test_objects_are_copied() -> None:
    model = tiny.Line()
    assert make(model, {}) is not model
    assert arguments_of(model).names == []
    with pytest.raises(MisconfigurationException, match="give its class, not an object"):
        Recipe(model).targets({"model.lr": 1})


def test_what_makes_nothing() -> None:
    for maker in (3, "Line", pl.LightningDataModule):
        with pytest.raises(TypeError, match="must be a LightningModule, its class, or a function"):
            verify_maker(maker, "model", pl.LightningModule)
