"""The summary of a model is Lightning's, to the letter."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning
import torch
from pytorch_lightning.utilities.model_summary import LayerSummary as LightningLayerSummary
from pytorch_lightning.utilities.model_summary import get_human_readable_count as lightnings_count
from pytorch_lightning.utilities.model_summary import summarize as lightnings_summarize
from torch import Tensor, nn

from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.model_summary import LayerSummary, ModelSummary, get_human_readable_count, summarize


class Nested(pytorch_lightning.LightningModule):
    def __init__(self, example: Any = None) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Sequential(nn.ReLU(), nn.Flatten()))
        self.head = nn.Linear(8 * 36, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.unused = nn.Identity()
        self.unused.eval()
        self.alone = nn.Parameter(torch.zeros(3))
        self.example_input_array = example

    def forward(self, image: Tensor, scale: float = 1.0) -> Tensor:
        out: Tensor = self.frozen(self.head(self.body(image)))
        return out * scale


class Recurrent(pytorch_lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 8)
        self.example_input_array = torch.zeros(5, 2, 4)

    def forward(self, x: Tensor) -> Any:
        return self.rnn(x)


class Shared(pytorch_lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(2, 2)
        self.first = nn.Sequential(layer)
        self.second = layer


class Empty(pytorch_lightning.LightningModule):
    pass


MODELS = {
    "no example": Nested,
    "tensor": lambda: Nested(torch.zeros(2, 3, 8, 8)),
    "tuple": lambda: Nested((torch.zeros(2, 3, 8, 8),)),
    "dict": lambda: Nested({"image": torch.zeros(2, 3, 8, 8), "scale": 2.0}),
    "recurrent": Recurrent,
    "shared": Shared,
    "empty": Empty,
}


@pytest.mark.parametrize("max_depth", [-1, 0, 1, 2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_table_is_lightnings(name: str, max_depth: int) -> None:
    model = MODELS[name]()
    ours, lightnings = summarize(model, max_depth), lightnings_summarize(model, max_depth)
    assert str(ours) == str(lightnings)
    for attribute in (
        "layer_names",
        "layer_types",
        "param_nums",
        "in_sizes",
        "out_sizes",
        "training_modes",
        "total_training_modes",
        "total_parameters",
        "trainable_parameters",
        "total_layer_params",
        "total_flops",
        "flop_counts",
    ):
        assert getattr(ours, attribute) == getattr(lightnings, attribute), attribute
    assert ours.model_size == pytest.approx(lightnings.model_size)


def test_any_module_has_a_summary() -> None:
    summary = ModelSummary(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    assert (summary.layer_names, summary.layer_types, summary.param_nums) == (["0", "1"], ["Linear", "ReLU"], [9, 0])


def test_summary_of_one_layer() -> None:
    layer = nn.Conv2d(3, 8, 3)
    ours, lightnings = LayerSummary(layer), LightningLayerSummary(layer)
    before = (ours.in_size, ours.out_size)
    layer(torch.zeros(1, 3, 5, 5))
    layer(torch.zeros(2, 3, 9, 9))  # the first forward counts
    for name in ("layer_type", "num_parameters", "training", "in_size", "out_size"):
        assert getattr(ours, name) == getattr(lightnings, name), name
    assert before == ("?", "?")
    LayerSummary(layer)
    ours.detach_hook()
    assert not layer._forward_hooks


def test_model_is_left_as_it_was() -> None:
    model = Nested(torch.zeros(2, 3, 8, 8))
    modes = [module.training for module in model.modules()]
    mean = model.body[1].running_mean.clone()
    summarize(model, -1)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model.body[1].running_mean, mean)
    assert not any(module._forward_hooks for module in model.modules())


def test_size_counts_the_type_of_the_parameters() -> None:
    assert summarize(nn.Linear(999, 1000).half()).model_size == pytest.approx(2.0)
    assert summarize(nn.Linear(999, 1000)).model_size == pytest.approx(4.0)


def test_example_takes_the_type_of_the_parameters() -> None:
    model = Recurrent().double()
    assert summarize(model).in_sizes == [[5, 2, 4]]


def test_unknown_shapes_count_0() -> None:
    with pytest.warns(UserWarning, match="`UninitializedParameter`"):
        assert summarize(nn.Sequential(nn.LazyLinear(3), nn.Linear(1, 1))).total_parameters == 2


def test_depth_below_minus_1() -> None:
    with pytest.raises(MisconfigurationException, match="`max_depth` can be -1, 0 or > 0, got -2"):
        summarize(nn.Linear(1, 1), max_depth=-2)


@pytest.mark.parametrize("number", [0, 1, 12, 123, 999, 1000, 1234, 99_999, 100_000, 123_456, 999_999])
@pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9, 10**12, 10**14])
def test_counts_are_lightnings(number: int, factor: int) -> None:
    assert get_human_readable_count(number * factor) == lightnings_count(number * factor)
