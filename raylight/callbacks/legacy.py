"""What flags of Lightning 1.x did inside the Trainer, as callbacks; and the hooks of 1.x."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from raylight.callbacks.base import Callback
from raylight.utilities.grads import grad_norm
from raylight.utilities.rank_zero import rank_zero_deprecation
from raylight.utilities.signatures import count_required

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView


OLD_HOOKS: dict[str, tuple[str, ...]] = {
    "on_pretrain_routine_end": ("on_fit_start",),
    "on_pretrain_routine_start": ("on_fit_start",),
    "on_epoch_start": ("on_train_epoch_start", "on_validation_epoch_start", "on_test_epoch_start"),
    "on_epoch_end": ("on_train_epoch_end", "on_validation_epoch_end", "on_test_epoch_end"),
    "on_batch_start": ("on_train_batch_start",),
    "on_batch_end": ("on_train_batch_end",),
}
"""Hooks of 1.x, of callbacks and models, and those of today that they are called beside: before these, or after where
their name ends in "end"."""
OLD_CALLBACK_HOOKS = ("on_init_start", "on_init_end", "on_keyboard_interrupt", *OLD_HOOKS)
"""Hooks of 1.x that callbacks have."""


def old_listener(owner: Any, hook: str, num_arguments: int) -> Callable[..., Any] | None:
    """The method ``hook`` of a callback or model, with a notice; None without one that takes so many arguments."""
    method: Callable[..., Any] | None = (
        getattr(owner, hook, None) if hasattr(type(owner), hook) or hook in vars(owner) else None
    )
    if method is None or not callable(method) or count_required(method) != num_arguments:
        return None
    places = ", ".join(OLD_HOOKS.get(hook, ("on_exception",) if "interrupt" in hook else ("setup",)))
    rank_zero_deprecation(f"`{type(owner).__name__}.{hook}` is a hook of Lightning 1.x: use {places}.")
    return method


def tell_of_init(callbacks: list[Any], trainer: TrainerView) -> None:
    """Call ``on_init_start`` and ``on_init_end`` of the callbacks that have them; the Trainer is made."""
    for hook in ("on_init_start", "on_init_end"):
        for callback in callbacks:
            method = old_listener(callback, hook, 1)
            if method is not None:
                method(trainer)


class GradientNormLogger(Callback):
    """``Trainer(track_grad_norm=p)``: log the gradients' norms at every optimizer step, before they are clipped.

    A model's own ``log_grad_norm(norms)`` takes the place of ``log_dict``.
    """

    def __init__(self, norm_type: float | int | str) -> None:
        self.norm_type = norm_type

    def on_before_optimizer_step(self, trainer: TrainerView, pl_module: LightningModule, optimizer: Optimizer) -> None:
        separator = trainer.loggers[0].group_separator if len(trainer.loggers) == 1 else "/"
        norms = grad_norm(pl_module, self.norm_type, separator)
        if not norms:
            return
        own = getattr(pl_module, "log_grad_norm", None)
        if own is not None:
            own(norms)
        else:
            pl_module.log_dict(norms, on_step=True, on_epoch=True, prog_bar=False, logger=bool(trainer.loggers))


class TerminateOnNaN(Callback):
    """``Trainer(terminate_on_nan=True)``: end the run where a loss or a parameter is not finite.

    Waits for the device at every batch.

    Raises:
        ValueError: In the hooks, naming the loss or the parameter.
    """

    def on_before_backward(self, trainer: TrainerView, pl_module: LightningModule, loss: Tensor) -> None:
        if not torch.isfinite(loss).all():
            raise ValueError(f"The loss returned in `training_step` is {loss.detach()}.")

    def on_train_batch_end(
        self, trainer: TrainerView, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for name, parameter in pl_module.named_parameters():
            if not torch.isfinite(parameter).all():
                raise ValueError(
                    f"Detected nan and/or inf values in `{name}`."
                    " Check your forward pass for numerically unstable operations."
                )
