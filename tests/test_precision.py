"""Precision on one CPU; the 16-mixed scaler is tested where it can run, on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raylight.precision import NAMES, MixedPrecision, Precision, TruePrecision, make_precision, precision_name
from raylight.utilities.exceptions import MisconfigurationException


@pytest.mark.parametrize(
    ("given", "name"),
    [(None, "32-true"), (32, "32-true"), ("32", "32-true"), (64, "64-true"), *((name, name) for name in NAMES)],
)
def test_names(given: str | int | None, name: str) -> None:
    assert precision_name(given) == name


@pytest.mark.parametrize(("given", "name"), [(16, "16-mixed"), ("16", "16-mixed"), ("bf16", "bf16-mixed")])
def test_old_names_are_said(given: str | int, name: str) -> None:
    with pytest.warns(UserWarning, match=f"set your precision to {name}"):
        assert precision_name(given) == name


@pytest.mark.parametrize("bad", ["8", 8, "float32", "transformer-engine", ""])
def test_unknown(bad: str | int) -> None:
    with pytest.raises(ValueError, match="is invalid. Allowed"):
        precision_name(bad)


def test_half_on_a_cpu_is_bfloat() -> None:
    with pytest.warns(UserWarning, match="`precision='bf16-mixed'` instead"):
        precision = make_precision("16-mixed", "cpu")
    assert (precision.name, precision.scaler) == ("bf16-mixed", None)


def test_full_precision_does_nothing() -> None:
    precision = make_precision(None, "cpu")
    assert type(precision) is Precision
    assert not precision.has_context
    assert not precision.converts_input
    loss = torch.ones(())
    assert precision.scale_loss(loss) is loss
    assert precision.state_dict() == {}


def test_mixed() -> None:
    precision = make_precision("bf16-mixed", "cpu")
    layer = precision.convert_module(nn.Linear(2, 2))
    with precision.forward_context():
        assert layer(torch.ones(1, 2)).dtype == torch.bfloat16
        assert torch.ones(1).dtype == torch.float32
    assert layer.weight.dtype == torch.float32
    assert layer(torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "dtype"), [("64-true", torch.float64), ("bf16-true", torch.bfloat16), ("16-true", torch.float16)]
)
def test_true(name: str, dtype: torch.dtype) -> None:
    precision = make_precision(name, "cpu")
    assert isinstance(precision, TruePrecision)
    assert precision.convert_module(nn.Linear(1, 1)).weight.dtype == dtype
    batch = precision.convert_input({"x": torch.ones(1), "label": torch.ones(1, dtype=torch.long)})
    assert (batch["x"].dtype, batch["label"].dtype) == (dtype, torch.int64)
    with precision.forward_context():
        assert torch.ones(1).dtype == dtype
    assert torch.get_default_dtype() == torch.float32


def test_default_dtype_comes_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), make_precision("64-true", "cpu").forward_context():
        raise ZeroDivisionError
    assert torch.get_default_dtype() == torch.float32


def test_step_runs_a_closure_once() -> None:
    parameter = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    calls = []

    def closure() -> torch.Tensor:
        calls.append(1)
        parameter.grad = torch.ones(())
        return parameter.detach()

    Precision().step(optimizer, closure)
    assert (len(calls), parameter.item()) == (1, 0.5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_scaler_scales_unscales_and_skips_overflow() -> None:
    precision = make_precision("16-mixed", "cuda")
    assert isinstance(precision, MixedPrecision)
    parameter = nn.Parameter(torch.ones((), device="cuda"))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    precision.scale_loss(parameter * 1.0).backward()
    precision.unscale(optimizer)
    assert parameter.grad is not None
    assert parameter.grad.item() == 1.0
    precision.step(optimizer)
    assert parameter.item() == 0.5
    before = precision.state_dict()["scale"]
    optimizer.zero_grad()
    precision.scale_loss(parameter * float("inf")).backward()
    precision.step(optimizer)
    assert parameter.item() == 0.5
    assert precision.state_dict()["scale"] < before
    other = make_precision("16-mixed", "cuda")
    other.load_state_dict(precision.state_dict())
    assert other.state_dict()["scale"] == precision.state_dict()["scale"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_a_scaler_cannot_do() -> None:
    precision = make_precision("16-mixed", "cuda")
    parameter = nn.Parameter(torch.ones((), device="cuda"))
    with pytest.raises(MisconfigurationException, match="fused=False"):
        precision.unscale(torch.optim.Adam([parameter], fused=True))
    with pytest.raises(MisconfigurationException, match="LBFGS"):
        precision.step(torch.optim.LBFGS([parameter]))
