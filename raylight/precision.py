"""Precision: what dtype the weights have, what the forward runs in, and how the loss is scaled."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from raylight.utilities import tree
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from raylight.core.module import LightningModule


class Precision:
    """32-true: everything as it is. Other kinds override what differs; so may yours, for ``Trainer(plugins=...)``."""

    precision: str = "32-true"
    """Its name, such as "bf16-mixed": ``trainer.precision``."""
    scaler: Any = None
    """torch.amp.GradScaler of a kind that scales the loss; None for the others."""

    # What a class overrides, found when it is made: the step path skips the rest
    has_context = False
    converts_input = False
    handles_backward = False
    handles_step = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)

        def overrides(*names: str) -> bool:
            return any(getattr(cls, name) is not getattr(Precision, name) for name in names)

        contexts = (f"{stage}_step_context" for stage in ("train", "val", "test", "predict"))
        cls.has_context = overrides("forward_context", *contexts)
        cls.converts_input = overrides("convert_input")
        cls.handles_backward = overrides("pre_backward", "backward", "post_backward")
        cls.handles_step = overrides("optimizer_step")

    # Before training
    def convert_module(self, module: nn.Module) -> nn.Module:
        """Cast the weights, before they go to the device."""
        return module

    def tensor_init_context(self) -> AbstractContextManager[Any]:
        """Tensors that are made inside have this precision's dtype."""
        return contextlib.nullcontext()

    def module_init_context(self) -> AbstractContextManager[Any]:
        """Modules that are made inside have this precision's dtype; surrounds ``configure_model``."""
        return self.tensor_init_context()

    def connect(
        self, model: nn.Module, optimizers: list[Optimizer], lr_schedulers: list[Any]
    ) -> tuple[nn.Module, list[Optimizer], list[Any]]:
        """See, and maybe replace, the optimizers and schedulers of a fit; the model must stay the same."""
        return model, optimizers, lr_schedulers

    # A step
    def convert_input(self, data: Any) -> Any:
        """Cast the batch."""
        return data

    def convert_output(self, data: Any) -> Any:
        """Cast what a forward gave; no loop calls it."""
        return data

    def forward_context(self) -> AbstractContextManager[Any]:
        """Surrounds training_step, validation_step, test_step and predict_step."""
        return contextlib.nullcontext()

    def train_step_context(self) -> AbstractContextManager[Any]:
        """Surrounds training_step; likewise those below."""
        return self.forward_context()

    def val_step_context(self) -> AbstractContextManager[Any]:
        return self.forward_context()

    def test_step_context(self) -> AbstractContextManager[Any]:
        return self.forward_context()

    def predict_step_context(self) -> AbstractContextManager[Any]:
        return self.forward_context()

    def scale_loss(self, loss: Tensor) -> Tensor:
        """The loss to call backward on."""
        return loss

    def pre_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:
        """The loss to call backward on, after the hooks ``on_before_backward``."""
        return self.scale_loss(tensor)

    def backward(
        self, tensor: Tensor, model: LightningModule, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> None:
        """Compute the gradients of the scaled loss; ``optimizer`` is None in manual optimization."""
        model.backward(tensor, *args, **kwargs)

    def post_backward(self, tensor: Tensor, module: LightningModule) -> Tensor:
        """The gradients are there; the hooks ``on_after_backward`` come next."""
        return tensor.detach()

    def unscale_gradients(self, optimizer: Optimizer) -> None:
        """Bring the gradients of ``optimizer`` to their true size; nothing to do where the loss is not scaled."""

    def optimizer_step(
        self, optimizer: Optimizer, model: LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """Compute the gradients with ``closure``, let hooks and clipping see them, and step."""

        def announced() -> Any:
            result = closure()
            model._attached_run().before_step(optimizer)
            return result

        return self.step(optimizer, announced, **kwargs)

    def step(self, optimizer: Optimizer, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """Step ``optimizer``, on gradients that are there or that ``closure`` computes."""
        return optimizer.step(**kwargs) if closure is None else optimizer.step(closure, **kwargs)

    # Clipping
    def main_params(self, optimizer: Optimizer) -> Iterator[Tensor]:
        """The parameters whose gradients are clipped."""
        for group in optimizer.param_groups:
            yield from group["params"]

    def clip_gradients(
        self, optimizer: Optimizer, clip_val: int | float = 0.0, gradient_clip_algorithm: str | None = "norm"
    ) -> None:
        """Clip to a total norm ("norm"), or element by element ("value"); 0 clips nothing."""
        if clip_val <= 0:
            return
        if gradient_clip_algorithm == "value":
            self.clip_grad_by_value(optimizer, clip_val)
        else:
            self.clip_grad_by_norm(optimizer, clip_val)

    def clip_grad_by_value(self, optimizer: Optimizer, clip_val: int | float) -> None:
        nn.utils.clip_grad_value_(self.main_params(optimizer), clip_val)

    def clip_grad_by_norm(self, optimizer: Optimizer, clip_val: int | float) -> None:
        nn.utils.clip_grad_norm_(self.main_params(optimizer), clip_val)

    # In a checkpoint, under the name of the class
    def state_dict(self) -> dict[str, Any]:
        """What to keep in a checkpoint."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint that is not of weights only is being put together; it may be changed in place."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Training goes on from this checkpoint."""

    def teardown(self) -> None:
        """The call of fit, validate, test or predict is over."""


class MixedPrecision(Precision):
    """Weights in 32 bits, forward under torch.autocast.

    Args:
        precision: "16-mixed" or "bf16-mixed".
        device: Type of the device, "cpu" or "cuda".
        scaler: For "16-mixed", what scales the loss. None: a new torch.amp.GradScaler.

    Raises:
        ValueError: It is no mixed precision.
        MisconfigurationException: A scaler for "bf16-mixed", which needs none.
    """

    def __init__(self, precision: str, device: str, scaler: Any = None) -> None:
        if precision not in ("16-mixed", "bf16-mixed"):
            raise ValueError(
                f"Passed `{type(self).__name__}(precision={precision!r})`. "
                "Precision must be '16-mixed' or 'bf16-mixed'."
            )
        if precision == "bf16-mixed" and scaler is not None:
            raise MisconfigurationException(f"`precision='bf16-mixed'` does not use a scaler, found {scaler}.")
        if precision == "16-mixed" and scaler is None:
            usable = device != "cuda" or torch.cuda.is_available()  # a driver need not have the workers' GPU
            scaler = torch.amp.GradScaler(device, enabled=usable)
        self.precision = precision
        self.device = device
        self.scaler = scaler

    def autocast_context_manager(self) -> torch.autocast:
        """torch.autocast of this precision. Without its cache, which would lose gradients of weights that a
        ``torch.no_grad()`` block of the step has used before."""
        dtype = torch.bfloat16 if self.precision == "bf16-mixed" else torch.float16
        return torch.autocast(self.device, dtype=dtype, cache_enabled=False)

    def forward_context(self) -> AbstractContextManager[Any]:
        return self.autocast_context_manager()

    def scale_loss(self, loss: Tensor) -> Tensor:
        return loss if self.scaler is None else self.scaler.scale(loss)

    def unscale_gradients(self, optimizer: Optimizer) -> None:
        if self.scaler is not None and not _unscales_itself(optimizer):
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        if self.scaler is None:
            return super().step(optimizer, closure, **kwargs)
        if isinstance(optimizer, torch.optim.LBFGS):
            raise MisconfigurationException(
                "AMP and the LBFGS optimizer are not compatible: it calls its closure many times per step, and a "
                "scaled loss cannot follow."
            )
        if closure is not None:
            closure()
        result = self.scaler.step(optimizer, **kwargs)
        self.scaler.update()
        return result

    def clip_gradients(
        self, optimizer: Optimizer, clip_val: int | float = 0.0, gradient_clip_algorithm: str | None = "norm"
    ) -> None:
        if clip_val > 0 and self.scaler is not None and _unscales_itself(optimizer):
            raise RuntimeError(
                f"The current optimizer, {type(optimizer).__qualname__}, does not allow for gradient clipping because "
                "it performs unscaling of gradients internally. HINT: Are you using a 'fused' optimizer? Build it with "
                "fused=False, or use precision='bf16-mixed'."
            )
        super().clip_gradients(optimizer, clip_val, gradient_clip_algorithm)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.scaler is not None:
            self.scaler.load_state_dict(state_dict)


def _unscales_itself(optimizer: Optimizer) -> bool:
    """Whether ``optimizer.step`` does what the scaler would do before, as fused ones do."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


class TruePrecision(Precision):
    """Weights, inputs and new tensors of the forward all in one dtype."""

    dtype: torch.dtype

    def convert_module(self, module: nn.Module) -> nn.Module:
        return module.to(self.dtype)

    def convert_input(self, data: Any) -> Any:
        return tree.convert_floats(data, self.dtype)

    @contextlib.contextmanager
    def tensor_init_context(self) -> Iterator[None]:
        default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(default)

    def forward_context(self) -> AbstractContextManager[Any]:
        return self.tensor_init_context()


class DoublePrecision(TruePrecision):
    """64-true."""

    precision = "64-true"
    dtype = torch.float64


class HalfPrecision(TruePrecision):
    """16 bits throughout.

    Args:
        precision: "16-true" or "bf16-true".
    """

    DTYPES = {"16-true": torch.float16, "bf16-true": torch.bfloat16}
    precision = "16-true"

    def __init__(self, precision: str = "16-true") -> None:
        if precision not in self.DTYPES:
            raise ValueError(
                f"Passed `{type(self).__name__}(precision={precision!r})`. Precision must be '16-true' or 'bf16-true'."
            )
        self.precision = precision
        self.dtype = self.DTYPES[precision]


ALIASES = {
    None: "32-true",
    "32": "32-true",
    "64": "64-true",
    "16": "16-mixed",
    "bf16": "bf16-mixed",
}
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
    if name.endswith("mixed"):
        return MixedPrecision(name, device_type)
    if name in HalfPrecision.DTYPES:
        return HalfPrecision(name)
    return DoublePrecision() if name == "64-true" else Precision()
