"""Precision on one CPU; the 16-mixed scaler is tested where it can run, on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from raylight.precision import (
    NAMES,
    DoublePrecision,
    HalfPrecision,
    MixedPrecision,
    Precision,
    TruePrecision,
    make_precision,
    precision_name,
)
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
    assert (precision.precision, precision.scaler) == ("bf16-mixed", None)


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


@pytest.mark.parametrize("precision", [DoublePrecision(), HalfPrecision(), HalfPrecision("bf16-true")], ids=str)
def test_dtype_of_what_is_made_inside(precision: TruePrecision) -> None:
    for context in (precision.tensor_init_context, precision.module_init_context, precision.forward_context):
        with context():
            assert nn.Linear(1, 1).weight.dtype == precision.dtype
        assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: MixedPrecision("16-true", "cpu"), ValueError),
        (lambda: MixedPrecision("bf16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu")), MisconfigurationException),
        (lambda: HalfPrecision("32-true"), ValueError),
    ],
)
def test_impossible(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="(?i)precision"):
        make()


def test_what_a_class_overrides_is_asked_once() -> None:
    class Own(Precision):
        def val_step_context(self) -> Any:
            return super().val_step_context()

    class Steering(MixedPrecision):
        def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
            return super().optimizer_step(*args, **kwargs)

    def flags(kind: type[Precision]) -> tuple[bool, ...]:
        return kind.has_context, kind.converts_input, kind.handles_backward, kind.handles_step

    assert flags(Precision) == (False, False, False, False)
    assert flags(Own) == (True, False, False, False)
    assert flags(Steering) == (True, False, False, True)
    assert flags(DoublePrecision) == (True, True, False, False)


def test_weights_used_under_no_grad_before_keep_their_gradients() -> None:
    layer = nn.Linear(2, 1)
    with MixedPrecision("bf16-mixed", "cpu").autocast_context_manager():
        with torch.no_grad():
            layer(torch.ones(1, 2))
        layer(torch.ones(1, 2)).mean().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize(("algorithm", "expected"), [("norm", [0.6, 0.8]), (None, [0.6, 0.8]), ("value", [1.0, 1.0])])
def test_clipping(algorithm: str | None, expected: list[float]) -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer = torch.optim.SGD(parameters, lr=1.0)
    Precision().clip_gradients(optimizer)  # 0: nothing
    assert parameters[0].grad.item() == 3.0
    Precision().clip_gradients(optimizer, 1.0, algorithm)
    found = [parameter.grad.item() for parameter in parameters if parameter.grad is not None]
    assert found == pytest.approx(expected, abs=1e-4)


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
    precision.unscale_gradients(optimizer)
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
    fused = torch.optim.Adam([parameter], fused=True)
    precision.unscale_gradients(fused)  # its step does that
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        precision.clip_gradients(fused, 1.0)
    with pytest.raises(MisconfigurationException, match="LBFGS"):
        precision.step(torch.optim.LBFGS([parameter]))
