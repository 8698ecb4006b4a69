from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import nn

from raylight.checkpoint.weights import load_weights
from raylight.utilities.exceptions import WeightsMismatchError


class Wrapper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(2, 1)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_weights_of_a_wrapped_model(prefix: str) -> None:
    source, model = nn.Linear(2, 1), nn.Linear(2, 1)
    weights = {f"{prefix}{name}": value for name, value in source.state_dict().items()}

    load_weights(model, {"state_dict": weights}, strict=True)

    assert torch.equal(model.weight, source.weight)


def test_a_part_that_is_called_module() -> None:
    source, model = Wrapper(), Wrapper()
    load_weights(model, {"state_dict": source.state_dict()}, strict=True)
    assert torch.equal(model.module.weight, source.module.weight)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (nn.Linear(3, 1), "size mismatch for weight"),
        (nn.Linear(2, 1, bias=False), 'Missing key.* "bias"'),
        (nn.Sequential(nn.Linear(2, 1)), 'Unexpected key.* "0.weight"'),
    ],
)
def test_weights_of_another_model(other: Any, named: str) -> None:
    with pytest.raises(RuntimeError, match=rf"(?s)Error\(s\) in loading state_dict.*{named}.*use the class") as caught:
        load_weights(nn.Linear(2, 1), {"state_dict": other.state_dict()}, strict=True)

    assert isinstance(caught.value, WeightsMismatchError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_names_may_differ_where_it_is_not_strict() -> None:
    model = nn.Linear(2, 1)
    keys = load_weights(model, {"state_dict": {"weight": torch.zeros(1, 2), "more": torch.zeros(1)}}, strict=False)

    assert (keys.missing_keys, keys.unexpected_keys) == (["bias"], ["more"])
    assert model.weight.tolist() == [[0, 0]]
    with pytest.raises(WeightsMismatchError, match="size mismatch"):
        load_weights(model, {"state_dict": {"weight": torch.zeros(1, 3)}}, strict=False)


def test_the_models_own_error_is_raised() -> None:
    class Model(nn.Module):
        def load_state_dict(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="^mine$"):
        load_weights(Model(), {"state_dict": {}}, strict=True)
