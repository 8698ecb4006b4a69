"""LayerSync: layers whose statistics are computed over all workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class LayerSync(ABC):
    """Base of what makes a model's layers act together on all workers; one worker alone does without."""

    @abstractmethod
    def apply(self, model: nn.Module) -> nn.Module:
        """``model`` with layers that synchronize."""

    @abstractmethod
    def revert(self, model: nn.Module) -> nn.Module:
        """``model`` with layers that do not, as before ``apply``."""


class TorchSyncBatchNorm(LayerSync):
    """BatchNorm layers as torch.nn.SyncBatchNorm."""

    def apply(self, model: nn.Module) -> nn.Module:
        synchronized: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return synchronized

    def revert(self, model: nn.Module) -> nn.Module:
        """``model`` with BatchNorm layers that take inputs of any dimension, weights and statistics kept."""
        if isinstance(model, nn.SyncBatchNorm):
            return _reverted(model)
        for name, child in model.named_children():
            reverted = self.revert(child)
            if reverted is not child:
                setattr(model, name, reverted)
        return model


def _reverted(layer: nn.SyncBatchNorm) -> nn.Module:
    # SyncBatchNorm has forgotten which of the three BatchNorms it was; they differ in this check alone.
    plain = _AnyBatchNorm(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    for name, parameter in layer.named_parameters(recurse=False):
        setattr(plain, name, parameter)
    for name, buffer in layer.named_buffers(recurse=False):
        setattr(plain, name, buffer)
    plain.train(layer.training)
    return plain


class _AnyBatchNorm(_BatchNorm):
    def _check_input_dim(self, input: Tensor) -> Any:
        """Every shape that came this far has been accepted before."""
