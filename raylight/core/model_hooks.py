"""Hooks that a LightningModule has beside those of the data: same names, order and moments as a Callback's.

``raylight.callbacks.base`` tells when each is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


class CheckpointHooks:
    """What else stands in a checkpoint."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint has been put together and is about to be written; it may be changed in place."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A checkpoint has been read, before anything is restored from it."""


class ModelHooks(CheckpointHooks):
    """Every hook does nothing, but for those that set the model's mode and clear its gradients."""

    def on_fit_start(self) -> None: ...

    def on_fit_end(self) -> None: ...

    def on_train_start(self) -> None: ...

    def on_train_end(self) -> None: ...

    def on_train_epoch_start(self) -> None: ...

    def on_train_epoch_end(self) -> None: ...

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        """Return -1 to skip this batch and the rest of the epoch."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None: ...

    def on_before_zero_grad(self, optimizer: Optimizer) -> None: ...

    def on_before_backward(self, loss: Tensor) -> None: ...

    def on_after_backward(self) -> None: ...

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None: ...

    def on_validation_start(self) -> None: ...

    def on_validation_end(self) -> None: ...

    def on_validation_epoch_start(self) -> None: ...

    def on_validation_epoch_end(self) -> None: ...

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...

    def on_test_start(self) -> None: ...

    def on_test_end(self) -> None: ...

    def on_test_epoch_start(self) -> None: ...

    def on_test_epoch_end(self) -> None: ...

    def on_test_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...

    def on_test_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...

    def on_predict_start(self) -> None: ...

    def on_predict_end(self) -> None: ...

    def on_predict_epoch_start(self) -> None: ...

    def on_predict_epoch_end(self) -> None: ...

    def on_predict_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...

    def on_predict_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...

    def configure_model(self) -> None:
        """Build layers late, where the run's device and precision are known. Must do nothing when called again."""

    def configure_sharded_model(self) -> None:
        """The old name of ``configure_model``; called as well."""

    # The model's mode. The on_..._model_train hooks are called only where overridden: otherwise each submodule gets
    # back the mode it had before the evaluation.
    def on_validation_model_eval(self) -> None:
        _module(self).eval()

    def on_validation_model_train(self) -> None:
        _module(self).train()

    def on_test_model_eval(self) -> None:
        _module(self).eval()

    def on_test_model_train(self) -> None:
        _module(self).train()

    def on_predict_model_eval(self) -> None:
        _module(self).eval()

    def on_predict_model_train(self) -> None:
        _module(self).train()

    def on_validation_model_zero_grad(self) -> None:
        """Called before validation inside fit, unless gradients are being accumulated."""
        _module(self).zero_grad()


def _module(hooks: Any) -> nn.Module:
    module: nn.Module = hooks
    return module
