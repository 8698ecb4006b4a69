"""TorchSyncBatchNorm, there and back."""

from __future__ import annotations

import torch
from torch import nn

from raylight.strategies.layer_sync import TorchSyncBatchNorm


def test_there_and_back() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.BatchNorm1d(2)), nn.BatchNorm2d(2, affine=False))
    model[1](torch.randn(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    synchronized = TorchSyncBatchNorm().apply(model)
    assert [type(each) for each in synchronized.modules()].count(nn.SyncBatchNorm) == 2
    reverted = TorchSyncBatchNorm().revert(synchronized.eval())
    assert reverted is synchronized
    assert not any(isinstance(each, nn.SyncBatchNorm) for each in reverted.modules())
    after = reverted.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(each.training for each in reverted.modules())
    reverted[2](torch.randn(4, 2, 5, 5))  # type: ignore[index]
