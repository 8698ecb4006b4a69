"""How fast a run is: batches, samples, items and floating-point operations per second."""

from __future__ import annotations

from collections import deque

import torch

from raylight.utilities.device_flops import TFLOPS, Dtype
from raylight.utilities.flops import measure_flops
from raylight.utilities.rank_zero import rank_zero_warn

__all__ = ["Throughput", "get_available_flops", "measure_flops"]


class Throughput:
    """Rates over the last ``window_size`` updates.

    Args:
        available_flops: Operations per second that one device can do at the most; None: "device/mfu" is left out.
        world_size: Number of devices; the rates of all of them together are left out if it is 1.
        window_size: Updates to average over, at least 2; there are no rates before so many were made.
        separator: What stands between "device" and the name of a rate.

    Example::

        throughput = Throughput(window_size=10)
        start = time.perf_counter()
        for step in range(1, 100):
            work()
            throughput.update(time=time.perf_counter() - start, batches=step, samples=step * 32)
        throughput.compute()["device/samples_per_sec"]
    """

    def __init__(
        self, available_flops: float | None = None, world_size: int = 1, window_size: int = 100, separator: str = "/"
    ) -> None:
        assert world_size > 0
        assert window_size > 1
        self.available_flops = available_flops
        self.world_size = world_size
        self.separator = separator
        self._time: deque[float] = _IncreasingWindow(maxlen=window_size)
        self._batches: deque[float] = _IncreasingWindow(maxlen=window_size)
        self._samples: deque[float] = _IncreasingWindow(maxlen=window_size)
        self._lengths: deque[float] = _IncreasingWindow(maxlen=window_size)
        self._flops: deque[float] = deque(maxlen=window_size)

    def update(
        self, *, time: float, batches: int, samples: int, lengths: int | None = None, flops: int | None = None
    ) -> None:
        """Take note of how far this device is; everything but ``flops`` counts from the start, and must grow.

        Args:
            time: Seconds.
            batches: Batches.
            samples: Samples, no fewer than batches.
            lengths: Items in all samples, such as tokens; no fewer than samples. None: not counted.
            flops: Operations since the last update. None: not counted.

        Raises:
            ValueError: A count did not grow, or is too small.
            RuntimeError: ``lengths`` was given at some of the updates only.
        """
        self._time.append(time)
        if samples < batches:
            raise ValueError(f"Expected samples ({samples}) to be greater or equal than batches ({batches})")
        self._batches.append(batches)
        self._samples.append(samples)
        if lengths is not None:
            if lengths < samples:
                raise ValueError(f"Expected lengths ({lengths}) to be greater or equal than samples ({samples})")
            self._lengths.append(lengths)
            if len(self._samples) != len(self._lengths):
                raise RuntimeError(
                    f"If lengths are passed ({len(self._lengths)}), there needs to be the same number of samples"
                    f" ({len(self._samples)})"
                )
        if flops is not None:
            self._flops.append(flops * self.world_size)

    def compute(self) -> dict[str, float]:
        """The counts, and, once ``window_size`` updates were made, the rates."""
        metrics = {"time": self._time[-1], "batches": self._batches[-1], "samples": self._samples[-1]}
        if self._lengths:
            metrics["lengths"] = self._lengths[-1]
        for name, counts in (("batches", self._batches), ("samples", self._samples), ("items", self._lengths)):
            if _is_full(counts):
                per_device = (counts[-1] - counts[0]) / self._elapsed()
                metrics.update(self._rate(f"{name}_per_sec", per_device))
        if _is_full(self._flops):
            per_device = (sum(self._flops) - self._flops[0]) / self._elapsed() / self.world_size
            metrics.update(self._rate("flops_per_sec", per_device))
            if self.available_flops:
                metrics[f"device{self.separator}mfu"] = per_device / self.available_flops
        return metrics

    def reset(self) -> None:
        """Forget all updates."""
        for window in (self._time, self._batches, self._samples, self._lengths, self._flops):
            window.clear()

    def _elapsed(self) -> float:
        return self._time[-1] - self._time[0]

    def _rate(self, name: str, per_device: float) -> dict[str, float]:
        rates = {f"device{self.separator}{name}": per_device}
        return rates if self.world_size == 1 else {**rates, name: per_device * self.world_size}


class _IncreasingWindow(deque[float]):
    """The last values of a counter; one that stands still or runs backwards is refused."""

    def append(self, value: float) -> None:
        if self and self[-1] >= value:
            raise ValueError(f"Expected the value to increase, last: {self[-1]}, current: {value}")
        super().append(value)


def _is_full(window: deque[float]) -> bool:
    return len(window) == window.maxlen


def get_available_flops(device: torch.device, dtype: torch.dtype) -> int | None:
    """Operations per second that ``device`` can do at the most with dense matrices of ``dtype``; None: not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = next((speeds for chip, speeds in TFLOPS.items() if _is_chip(name.lower(), chip)), None)
    if known is None:
        rank_zero_warn(f"FLOPs not found for {name!r}: give ThroughputMonitor(available_flops=...).")
        return None
    key: Dtype = dtype
    if dtype is torch.float32 and "tfloat32" in known and torch.get_float32_matmul_precision() != "highest":
        key = "tfloat32"
    if key not in known:
        rank_zero_warn(f"{name!r} does not support {dtype}")
        return None
    return int(known[key] * 1e12)


def _is_chip(device_name: str, chip: str) -> bool:
    words = device_name.replace("-", " ").split()
    return all(word in words for word in chip.split())
