"""Errors that mean a lack of memory, and giving memory back."""

from __future__ import annotations

import gc
from typing import Any

import torch

from raylight.utilities import tree


def recursive_detach(in_dict: Any, to_cpu: bool = False) -> Any:
    """``in_dict`` with the tensors in it, at any depth, detached from their graph; on the CPU if so asked."""
    return tree.to_cpu(in_dict) if to_cpu else tree.detach(in_dict)


def is_oom_error(exception: BaseException) -> bool:
    """Whether ``exception`` says that memory is exhausted, the device's or the computer's."""
    return is_cuda_out_of_memory(exception) or is_cudnn_snafu(exception) or is_out_of_cpu_memory(exception)


def is_cuda_out_of_memory(exception: BaseException) -> bool:
    return _says(exception, "CUDA", "out of memory")


def is_cudnn_snafu(exception: BaseException) -> bool:
    """cuDNN's way to say that it found no memory to work in."""
    return _says(exception, "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED.")


def is_out_of_cpu_memory(exception: BaseException) -> bool:
    return _says(exception, "DefaultCPUAllocator: can't allocate memory")


def _says(exception: BaseException, *texts: str) -> bool:
    if not isinstance(exception, RuntimeError) or len(exception.args) != 1:
        return False
    return all(text in str(exception.args[0]) for text in texts)


def garbage_collection_cuda() -> None:
    """Collect garbage, and give the memory that torch keeps cached back to the GPU."""
    gc.collect()
    try:
        torch.cuda.empty_cache()
    except RuntimeError as error:
        if not is_oom_error(error):  # even giving memory back can fail for want of it
            raise
