"""What a worker tells Ray's metrics, which each node serves to Prometheus. Runs in every worker, beside the run."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import psutil  # Ray brings it along
import torch
from ray.util.metrics import Counter, Gauge

from raylight.worker.throughput import Throughput

SECONDS_BETWEEN = 1.0
TAGS = ("run", "rank", "node")
GAUGES = {
    "step_seconds": "Seconds from one batch to the next, of training or of an evaluation.",
    "data_wait_seconds": "Of these, seconds for which the rank waits for data.",
    "loss": "What training_step returned, a second or so ago.",
    "memory_bytes": "Resident memory of the process.",
    "gpu_memory_bytes": "Memory that tensors take on the rank's GPU.",
}
SAMPLES = "Samples that were taken from the loaders, of training and of evaluations."


@dataclass(frozen=True)
class Reading:
    """A ``Throughput`` at one moment."""

    batches: int
    samples: int
    waited: float
    at: float

    @classmethod
    def of(cls, throughput: Throughput) -> Reading:
        return cls(throughput.batches, throughput.samples, throughput.waited, throughput.at)


class Gauges:
    """Sets ``raylight_...`` about once a second while a run is at work; afterwards Ray lets the values expire."""

    def __init__(self) -> None:
        self._gauges: dict[str, Gauge] = {}
        self._samples: Counter | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, throughput: Throughput, tags: dict[str, str], device: torch.device) -> None:
        """A run begins, of which ``throughput`` tells."""
        if self._samples is None:
            self._gauges = {name: Gauge(f"raylight_{name}", text, TAGS) for name, text in GAUGES.items()}
            self._samples = Counter("raylight_samples", SAMPLES, TAGS)
        self._over.clear()
        self._thread = threading.Thread(
            target=self._follow, args=(throughput, tags, device), name="raylight-gauges", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """The run is over."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _follow(self, throughput: Throughput, tags: dict[str, str], device: torch.device) -> None:
        last, values = Reading.of(throughput), dict[str, float]()
        is_over = False
        while not is_over:
            is_over = self._over.wait(SECONDS_BETWEEN)
            now = Reading.of(throughput)
            values |= _per_batch(last, now) or _standing(values, now)
            values |= _memory(device)
            if throughput.loss is not None:
                values["loss"] = throughput.loss
            self._set(values, now.samples - last.samples, tags)
            last = now

    def _set(self, values: dict[str, float], samples: int, tags: dict[str, str]) -> None:
        for name, value in values.items():
            self._gauges[name].set(value, tags)
        if samples and self._samples is not None:
            self._samples.inc(samples, tags)


def _per_batch(last: Reading, now: Reading) -> dict[str, float]:
    """Of the batches between two readings; nothing where there is none, or it is the first."""
    count = now.batches - last.batches
    if not count or not last.batches:
        return {}
    return {"step_seconds": (now.at - last.at) / count, "data_wait_seconds": (now.waited - last.waited) / count}


def _standing(values: dict[str, float], now: Reading) -> dict[str, float]:
    """No batch has come: a rank that stands still shows how long it does."""
    if "step_seconds" not in values:
        return {}
    return {"step_seconds": max(values["step_seconds"], time.perf_counter() - now.at)}


def _memory(device: torch.device) -> dict[str, float]:
    memory = {"memory_bytes": float(psutil.Process().memory_info().rss)}
    if device.type == "cuda":
        memory["gpu_memory_bytes"] = float(torch.cuda.memory_allocated(device))
    return memory
