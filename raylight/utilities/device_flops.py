"""What NVIDIA's data sheets promise: 10**12 floating-point operations per second, for dense matrices."""

from __future__ import annotations

from typing import TypeAlias

import torch

Dtype: TypeAlias = torch.dtype | str
"""A dtype, or "tfloat32": float32 whose products are rounded, as ``torch.set_float32_matmul_precision`` allows."""


def _speeds(fp64: float | None, fp32: float, tf32: float | None, bf16: float | None, fp16: float) -> dict[Dtype, float]:
    speeds: dict[Dtype, float | None] = {
        torch.float64: fp64,
        torch.float32: fp32,
        "tfloat32": tf32,
        torch.bfloat16: bf16,
        torch.float16: fp16,
    }
    return {dtype: speed for dtype, speed in speeds.items() if speed is not None}


TFLOPS: dict[str, dict[Dtype, float]] = {
    "h200 nvl": _speeds(30, 60, 418, 835, 835),
    "h200": _speeds(34, 67, 494.7, 989.4, 989.4),
    "h100 nvl": _speeds(30, 60, 418, 835, 835),
    "h100 pcie": _speeds(25.6, 51.2, 378, 756, 756),
    "h100": _speeds(33.5, 66.9, 494.7, 989.4, 989.4),
    "a100": _speeds(9.7, 19.5, 156, 312, 312),
    "a40": _speeds(None, 37.4, 74.8, 149.7, 149.7),
    "a10g": _speeds(None, 31.2, 35, 70, 70),
    "a6000": _speeds(None, 38.7, 77.4, 154.8, 154.8),
    "l40s": _speeds(None, 91.6, 183, 362, 362),
    "l40": _speeds(None, 90.5, 90.5, 181, 181),
    "l4": _speeds(None, 30.3, 60, 121, 121),
    "4090": _speeds(None, 82.6, 82.6, 165.2, 165.2),
    "3090": _speeds(None, 35.6, 35.6, 71, 71),
    "t4": _speeds(None, 8.1, None, None, 65),
    "v100 sxm2": _speeds(7.8, 15.7, None, None, 125),
    "v100 pcie": _speeds(7, 14, None, None, 112),
}
"""By words of the device's name; the first entry that fits is taken."""
