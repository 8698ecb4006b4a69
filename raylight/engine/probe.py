"""What a node tells of itself, and how far it is to the others.

This module is sent to the nodes by value, so that one without raylight can answer: it imports nothing of raylight.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import time
from pathlib import Path
from typing import Any

PACKAGES = ("raylight", "torch", "ray", "numpy", "torchmetrics", "torchvision", "pyarrow", "tensorboard")
PINGS = 20
ROUNDS = 5


def report() -> dict[str, Any]:
    """This process's machine."""
    shared = Path("/dev/shm")
    size = shutil.disk_usage(shared) if shared.is_dir() else None
    return {
        "host": socket.gethostname(),
        "cores": os.cpu_count() or 1,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "errors": {name: error for name in ("torch", "raylight") if (error := _import_error(name))},
        "cuda": _cuda(),
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "processes": resource.getrlimit(resource.RLIMIT_NPROC),
        "shm": None if size is None else (size.total, size.free),
    }


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    if package == "raylight":  # on PYTHONPATH
        with contextlib.suppress(Exception):
            return str(importlib.import_module(package).__version__)
    return None


def _import_error(package: str) -> str:
    try:
        importlib.import_module(package)
    except Exception as error:  # whatever it is, no worker could start here
        return f"{type(error).__name__}: {error}"
    return ""


def _cuda() -> dict[str, Any]:
    try:
        import torch
    except Exception:  # told as an error
        return {"built": None, "count": 0, "has_device": _has_device()}
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" and "RAY_RAYLET_PID" in os.environ:
        _see_gpus_of_node(int(os.environ["RAY_RAYLET_PID"]))
    return {"built": torch.version.cuda, "count": torch.cuda.device_count(), "has_device": _has_device()}


def _has_device() -> bool:
    return Path("/dev/nvidiactl").exists()


def _see_gpus_of_node(raylet: int) -> None:
    """Ray hides all GPUs from an actor that asks for none: see those that the node's own process does."""
    variables: dict[bytes, bytes] = {}
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{raylet}/environ").read_bytes().split(b"\0")
        variables = dict(line.partition(b"=")[::2] for line in lines)
    inherited = variables.get(b"CUDA_VISIBLE_DEVICES")
    if inherited is None:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = inherited.decode()


class Probe:
    """An actor on the node that is asked."""

    def __init__(self) -> None:
        self._store: Any = None

    def report(self) -> dict[str, Any]:
        return report()

    def clock(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def sees(self, path: str) -> bool:
        """Whether a file or an object of a store is there."""
        if "://" not in path:
            return os.path.exists(path)
        from raylight.checkpoint import storage

        return storage.exists(path)

    def open_store(self, world_size: int) -> tuple[str, int]:
        """Runs in rank 0: address and port at which it listens for the others to meet."""
        import ray
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self._store = TCPStore("localhost", 0, world_size, is_master=True, wait_for_workers=False)
        return ray.util.get_node_ip_address(), self._store.port

    def measure(
        self, rank: int, world_size: int, meeting: tuple[str, int], backend: str, megabytes: int, seconds: float
    ) -> tuple[float, float]:
        """Collective: meet in a process group, and reduce tensors over it.

        Returns:
            Seconds of the fastest all_reduce of one number; bytes per second that each rank sends in one of so many
            megabytes.
        """
        import torch
        import torch.distributed as dist
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self._choose_device()
        limit = datetime.timedelta(seconds=seconds)
        store = self._store or TCPStore(*meeting, world_size, timeout=limit)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
        try:
            device = torch.device("cuda" if backend == "nccl" else "cpu")
            one, many = torch.ones(1, device=device), torch.ones(megabytes * 250_000, device=device)
            for tensor in (one, many):  # the first ones make the connections
                self._reduce(tensor)
            round_trip = min(self._reduce(one) for _ in range(PINGS))
            fastest = min(self._reduce(many) for _ in range(ROUNDS))
        finally:
            dist.destroy_process_group()
        sent = 4 * many.numel() * 2 * (world_size - 1) / world_size
        return round_trip, sent / fastest

    def _choose_device(self) -> None:
        """As a worker does."""
        import ray

        with contextlib.suppress(ImportError):  # without raylight there can be no worker
            from raylight.engine import network

            network.choose_device(ray.util.get_node_ip_address())

    def _reduce(self, tensor: Any) -> float:
        import torch
        import torch.distributed as dist

        begin = time.perf_counter()
        dist.all_reduce(tensor)
        if tensor.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - begin
