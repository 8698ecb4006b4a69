from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch
from ray import tune

from raylight.sweeps.encoding import NotKept, decode, encode, missing_in


def through_json(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value))))


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, 0.1, "text", [1, [2]], (1, (2, "x")), {"a": {"b": (1,)}}, torch.nn.ReLU,
        torch.nn.functional.relu, {"$name": "not a reference", "other": 1},
    ],
)  # fmt: skip
def test_there_and_back(value: Any) -> None:
    assert through_json(value) == value
    assert missing_in(through_json(value)) == []


def test_numpy_distributions_and_partials() -> None:
    assert through_json(np.float64(0.5)) == 0.5
    space = through_json({"lr": tune.loguniform(1e-4, 1.0), "grid": tune.grid_search([1, 2])})
    assert (space["lr"].lower, space["lr"].upper) == (1e-4, 1.0)
    assert space["grid"] == {"grid_search": [1, 2]}
    made = through_json(functools.partial(torch.nn.Linear, 3, out_features=2))
    assert made().weight.shape == (2, 3)


def test_what_cannot_be_kept_is_named() -> None:
    class Local:
        pass

    for value in (Local, lambda: 1, torch.nn.Linear(1, 1), object()):
        loaded = through_json({"callbacks": [value]})
        assert isinstance(loaded["callbacks"][0], NotKept)
        assert len(missing_in(loaded)) == 1
        assert isinstance(through_json(functools.partial(print, value)), functools.partial | NotKept)


@pytest.mark.parametrize("reference", ["os:system", "subprocess:run", "builtins:exec", "no_such_package:Thing"])
def test_names_from_a_file_are_judged_first(reference: str) -> None:
    (why,) = missing_in(decode({"$name": reference}))
    assert reference in why


def test_a_name_that_is_gone() -> None:
    (why,) = missing_in(decode({"$name": "__main__:NoSuchModel"}))
    assert why == "NoSuchModel is not defined in __main__"
