"""Precision: what dtype the weights have, what the forward runs in, and how the loss is scaled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from raylight.utilities import tree
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_warn


class Precision:
    """32-true: everything as it is. Other kinds override what differs."""

    name = "32-true"
    scaler: Any = None
    """torch.amp.GradScaler of a kind that scales the loss; None for the others."""
    has_context = False
    """Whether ``forward_context`` does anything; the step path skips it otherwise."""
    converts_input = False
    """Whether ``convert_input`` does anything; likewise."""

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Cast the weights, before they go to the device."""
        return module

    def convert_input(self, batch: Any) -> Any:
        """Cast the batch."""
        return batch

    @contextlib.contextmanager
    def forward_context(self) -> Iterator[None]:
        """Surrounds training_step, validation_step, test_step and predict_step."""
        yield

    def scale_loss(self, loss: Tensor) -> Tensor:
        """The loss to call backward on."""
        return loss

    def unscale(self, optimizer: Optimizer) -> None:
        """Bring the gradients of ``optimizer`` to their true size; nothing to do where the loss is not scaled."""

    def step(self, optimizer: Optimizer, closure: Any = None) -> Any:
        """Step ``optimizer`` on unscaled gradients."""
        return optimizer.step() if closure is None else optimizer.step(closure)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps under the name of ``checkpoint_key``."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""


class MixedPrecision(Precision):
    """Weights in 32 bits, forward under torch.autocast; 16-mixed scales the loss on a GPU (torch.amp.GradScaler)."""

    has_context = True

    def __init__(self, name: str, device_type: str) -> None:
        self.name = name
        self.device_type = device_type
        self.dtype = torch.float16 if name == "16-mixed" else torch.bfloat16
        self.scaler = torch.amp.GradScaler(device_type) if self.dtype is torch.float16 else None

    @contextlib.contextmanager
    def forward_context(self) -> Iterator[None]:
        with torch.autocast(self.device_type, dtype=self.dtype):
            yield

    def scale_loss(self, loss: Tensor) -> Tensor:
        return loss if self.scaler is None else self.scaler.scale(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        if self.scaler is None:
            return
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            raise MisconfigurationException(
                f"The fused {type(optimizer).__name__} unscales its gradients itself, so they cannot be clipped or "
                "read before the step. Build it with fused=False, or use precision='bf16-mixed'."
            )
        self.scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer, closure: Any = None) -> Any:
        if self.scaler is None:
            return super().step(optimizer, closure)
        if isinstance(optimizer, torch.optim.LBFGS):
            raise MisconfigurationException("LBFGS calls its closure many times per step; a scaled loss cannot follow.")
        if closure is not None:
            closure()
        result = self.scaler.step(optimizer)
        self.scaler.update()
        return result

    def state_dict(self) -> dict[str, Any]:
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.scaler is not None and state:
            self.scaler.load_state_dict(state)


class TruePrecision(Precision):
    """Weights, inputs and new tensors of the forward all in one dtype: 64-true, 16-true or bf16-true."""

    has_context = True
    converts_input = True

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.name = name
        self.dtype = dtype

    def convert_module(self, module: nn.Module) -> nn.Module:
        return module.to(self.dtype)

    def convert_input(self, batch: Any) -> Any:
        return tree.convert_floats(batch, self.dtype)

    @contextlib.contextmanager
    def forward_context(self) -> Iterator[None]:
        default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


ALIASES = {
    None: "32-true",
    "32": "32-true",
    "64": "64-true",
    "16": "16-mixed",
    "bf16": "bf16-mixed",
}
TRUE_DTYPES = {"64-true": torch.float64, "16-true": torch.float16, "bf16-true": torch.bfloat16}
NAMES = ("64-true", "32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed")


def precision_name(precision: str | int | None) -> str:
    """The full name of what ``Trainer(precision=...)`` was given.

    Raises:
        ValueError: There is no such precision.
    """
    key = None if precision is None else str(precision)
    name = ALIASES.get(key, key)
    if name not in NAMES:
        raise ValueError(f"Precision {precision!r} is invalid. Allowed precision values: {NAMES}, {tuple(ALIASES)}")
    if key in ("16", "bf16"):
        rank_zero_warn(
            f"`precision={precision}` is supported for historical reasons but its usage is discouraged. "
            f"Please set your precision to {name} instead!"
        )
    return str(name)


def make_precision(precision: str | int | None, device_type: str) -> Precision:
    """The Precision that ``Trainer(precision=...)`` names, on "cpu" or "cuda"."""
    name = precision_name(precision)
    if name == "16-mixed" and device_type == "cpu":
        rank_zero_warn(
            "You passed `Trainer(accelerator='cpu', precision='16-mixed')` but AMP with fp16 is not supported on CPU. "
            "Using `precision='bf16-mixed'` instead."
        )
        name = "bf16-mixed"
    if name in TRUE_DTYPES:
        return TruePrecision(name, TRUE_DTYPES[name])
    return MixedPrecision(name, device_type) if name.endswith("mixed") else Precision()
