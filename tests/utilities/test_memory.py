"""Errors of memory are told apart as Lightning does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pytorch_lightning.utilities import memory as lightnings

from raylight.utilities import memory as ours

BOTH = pytest.mark.parametrize("memory", [lightnings, ours], ids=["lightning", "raylight"])


@BOTH
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("CUDA error: out of memory"), "is_cuda_out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "is_cuda_out_of_memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. Is it contiguous?"), "is_cudnn_snafu"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9"), "is_out_of_cpu_memory"),
        (RuntimeError("shape mismatch"), None),
        (RuntimeError(), None),
        (ValueError("CUDA out of memory"), None),
    ],
)
def test_kinds_of_errors(memory: Any, error: Exception, kind: str | None) -> None:
    kinds = ("is_cuda_out_of_memory", "is_cudnn_snafu", "is_out_of_cpu_memory")
    assert [name for name in kinds if getattr(memory, name)(error)] == ([kind] if kind else [])
    assert memory.is_oom_error(error) is (kind is not None)


@BOTH
def test_recursive_detach(memory: Any) -> None:
    x = torch.ones(2, requires_grad=True)
    detached = memory.recursive_detach({"a": x * 2, "b": [x * 3], "c": "text"}, to_cpu=True)
    assert not detached["a"].requires_grad
    assert not detached["b"][0].requires_grad
    assert detached["c"] == "text"


def test_garbage_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(message: str) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: fail("CUDA error: out of memory"))
    ours.garbage_collection_cuda()
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: fail("CUDA error: unspecified launch failure"))
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        ours.garbage_collection_cuda()
