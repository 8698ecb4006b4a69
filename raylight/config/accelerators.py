"""accelerator, devices, num_nodes and num_workers -> how many workers, what each needs, and whether Ray is used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from raylight.accelerators import Accelerator, AcceleratorRegistry, CPUAccelerator
from raylight.config.flags import TrainerConfig, TypedFlagError
from raylight.utilities.exceptions import MisconfigurationException

ACCELERATORS = ("auto", "cpu", "gpu", "cuda")
ELSEWHERE = ("tpu", "mps")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a run's workers go."""

    device_type: str
    """"cpu" or "cuda"."""
    num_workers: int
    """Workers in all: the world size; the largest, where it may change."""
    num_nodes: int
    """Nodes that the workers must be spread over evenly; 1 leaves it to Ray."""
    resources: dict[str, float]
    """Ray resources of one worker."""
    use_ray: bool
    """False: the one worker is this process."""
    device_index: int
    """CUDA device of the worker when it is this process; in a Ray worker it is always its own first."""
    fewer: tuple[int, ...] = ()
    """Other numbers of workers that a run may have, descending; empty where the number is fixed."""
    is_elastic: bool = False
    """The number of workers may change."""
    keeps_global_batch: bool = False
    """Fewer workers take as many samples for an optimizer step as the largest number of them."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of workers that the run may have, descending."""
        return (self.num_workers, *self.fewer)

    @property
    def device(self) -> torch.device:
        """Of the worker when it is this process."""
        return torch.device("cuda", self.device_index) if self.device_type == "cuda" else torch.device("cpu")

    @property
    def backend(self) -> str:
        """torch.distributed backend."""
        return "nccl" if self.device_type == "cuda" else "gloo"


def wants_ray(config: TrainerConfig) -> bool:
    """Whether the run goes to Ray, as far as that can be told without asking a cluster."""
    if config.launcher != "auto":
        return config.launcher == "ray"
    if config.num_workers is not None or config.resources_per_worker is not None or config.num_nodes > 1:
        return True
    device_type = _device_type(config, 0)
    needs_remote_gpu = device_type == "cuda" and not torch.cuda.is_available()
    return needs_remote_gpu or _count(config.devices, device_type, torch.cuda.device_count()) > 1


def place(config: TrainerConfig, cluster_gpus: int = 0) -> Placement:
    """Work out the placement.

    Args:
        cluster_gpus: GPUs of the Ray cluster; 0 when Ray is not used.

    Raises:
        ValueError: The accelerator does not exist.
        MisconfigurationException: It is not there, or the devices asked for are not.
    """
    use_ray = wants_ray(config)
    device_type = _device_type(config, cluster_gpus if use_ray else 0)
    present = cluster_gpus if use_ray else torch.cuda.device_count()
    per_node = _count(config.devices, device_type, present)
    asked = config.num_workers
    elastic = isinstance(asked, tuple)
    num_workers = asked[1] if isinstance(asked, tuple) else asked if asked is not None else per_node * config.num_nodes
    _check_count(config, num_workers, per_node)
    if not use_ray:
        _check_local(config, device_type, num_workers, present)
    return Placement(
        device_type=device_type,
        num_workers=num_workers,
        num_nodes=config.num_nodes,
        resources=_resources(config, device_type),
        use_ray=use_ray,
        device_index=_first_index(config.devices),
        fewer=_fewer(config) if elastic else (),
        is_elastic=elastic,
        keeps_global_batch=elastic and config.elastic == "global_batch",
    )


def _fewer(config: TrainerConfig) -> tuple[int, ...]:
    """The numbers of workers below the largest with which a run of num_workers=(min, max) can go on."""
    assert isinstance(config.num_workers, tuple)
    least, most = config.num_workers
    counts = range(most - 1, least - 1, -1)
    if config.elastic == "local_batch":
        return tuple(counts)
    accumulated = config.accumulate_grad_batches
    if isinstance(accumulated, dict):
        accumulated = math.gcd(*{0: 1, **accumulated}.values())
    step = most * accumulated
    fitting = tuple(count for count in counts if step % count == 0)
    if counts and not fitting:
        raise MisconfigurationException(
            f"num_workers={config.num_workers}: fewer than {most} workers cannot keep the global batch, as no number "
            f"from {least} to {most - 1} divides the {step} batches of an optimizer step (max workers x "
            "accumulate_grad_batches). Lower the minimum, change accumulate_grad_batches, or use elastic='local_batch'."
        )
    return fitting


def _device_type(config: TrainerConfig, cluster_gpus: int) -> str:
    name = config.accelerator
    if isinstance(name, Accelerator):
        return _own_device_type(name)
    if not isinstance(name, str) or name not in ACCELERATORS:
        if isinstance(name, str) and name in ELSEWHERE:
            raise MisconfigurationException(
                f"`{name.upper()}Accelerator` can not run on your system since the accelerator is not available: "
                "raylight knows 'cpu', 'gpu' and 'auto'."
            )
        known = ", ".join([*ACCELERATORS, *sorted(AcceleratorRegistry.available_accelerators() - {*ACCELERATORS})])
        raise ValueError(
            f"You selected an invalid accelerator name: `accelerator={name!r}`. Available names are: {known}."
        )
    has_gpu = torch.cuda.is_available() or cluster_gpus > 0
    if name == "auto":
        return "cuda" if has_gpu else "cpu"
    return "cpu" if name == "cpu" else "cuda"


def _own_device_type(accelerator: Accelerator) -> str:
    """Type of the devices that an Accelerator object gives."""
    if not accelerator.is_available():
        raise MisconfigurationException(
            f"`{type(accelerator).__qualname__}` can not run on your system since the accelerator is not available. "
            "Use accelerator='cpu', or launcher='ray' with accelerator='gpu' on a cluster that has GPUs."
        )
    device_type: str = accelerator.get_parallel_devices(accelerator.parse_devices(1))[0].type
    if device_type not in ("cpu", "cuda"):
        raise MisconfigurationException(
            f"{type(accelerator).__qualname__} gives devices of type {device_type!r}: raylight runs on cpu and cuda."
        )
    return device_type


def _count(devices: Any, device_type: str, present: int) -> int:
    """Workers on one node that ``devices`` asks for."""
    if devices == "auto":
        return max(present, 1) if device_type == "cuda" else 1
    if devices in ([], (), 0, "0"):
        raise MisconfigurationException(
            f"`Trainer(devices={devices!r})` value is not a valid input using {device_type} accelerator: "
            "give at least one device."
        )
    if device_type == "cpu":
        try:
            return CPUAccelerator.parse_devices(devices)
        except TypeError as error:
            raise TypedFlagError(f"{error} Got devices={devices!r}.") from None
    return _count_gpus(devices, present)


def _count_gpus(devices: Any, present: int) -> int:
    # Whether they are there is another question: on Ray they are on other machines.
    if isinstance(devices, str):
        devices = [int(part) for part in devices.split(",") if part.strip()] if "," in devices else _parse_int(devices)
    if isinstance(devices, list | tuple) and all(type(index) is int for index in devices):
        if len(set(devices)) < len(devices):
            raise MisconfigurationException(f"Device ID's (GPU) must be unique, got devices={devices!r}.")
        return len(devices)
    if type(devices) is not int:
        raise TypedFlagError(
            f"Device IDs (GPU/TPU) must be an int, a string, a sequence of ints, but you passed {devices!r}."
        )
    if devices < -1:
        raise MisconfigurationException(f"devices={devices!r} must be 'auto', a count >= 1, -1, or a list of indices.")
    return max(present, 1) if devices == -1 else devices


def _parse_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise TypedFlagError(f"devices={text!r} must be 'auto', a count, or indices such as '0,1'.") from None


def _first_index(devices: Any) -> int:
    if isinstance(devices, str) and "," in devices:
        return int(devices.split(",")[0])
    return int(devices[0]) if isinstance(devices, list | tuple) and devices else 0


def _check_count(config: TrainerConfig, num_workers: int, per_node: int) -> None:
    if isinstance(config.num_workers, tuple):
        if config.devices != "auto" or config.num_nodes > 1:
            raise MisconfigurationException(
                f"num_workers={config.num_workers} is wherever Ray finds room: leave out devices and num_nodes."
            )
        return
    if config.num_workers is not None and config.devices != "auto" and per_node * config.num_nodes != num_workers:
        raise MisconfigurationException(
            f"num_workers={num_workers} contradicts devices={config.devices!r} x num_nodes={config.num_nodes}: "
            "give one or the other."
        )


def _check_local(config: TrainerConfig, device_type: str, num_workers: int, present: int) -> None:
    if num_workers > 1 or config.num_nodes > 1:
        raise MisconfigurationException(
            f"launcher='local' runs one worker in this process, but {num_workers} are asked for: "
            "use launcher='ray', or devices=1."
        )
    if device_type == "cuda" and not torch.cuda.is_available():
        raise MisconfigurationException(
            ("No supported gpu backend found! " if config.accelerator == "gpu" else "")
            + "`CUDAAccelerator` can not run on your system since the accelerator is not available, but "
            f"accelerator={config.accelerator!r} asks for it: use accelerator='cpu', or launcher='ray' on a cluster "
            "that has GPUs."
        )
    if device_type == "cuda" and _first_index(config.devices) >= present:
        raise MisconfigurationException(
            f"You requested gpu: {config.devices!r}\n But your machine only has: {list(range(present))}"
        )


def _resources(config: TrainerConfig, device_type: str) -> dict[str, float]:
    resources: dict[str, float] = {"CPU": 1.0, **({"GPU": 1.0} if device_type == "cuda" else {})}
    return {**resources, **(config.resources_per_worker or {})}
