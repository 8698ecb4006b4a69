"""What flags of Lightning 1.x did inside the Trainer, as callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from raylight.callbacks.base import Callback
from raylight.utilities.grads import grad_norm

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.state import TrainerView


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
