"""Accelerators: what kind of device a run computes on. The Trainer's flags say how many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch

from raylight.utilities.aliases import lazy_names
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.registry import Registry

if TYPE_CHECKING:
    from raylight.worker.trainer_view import TrainerView

__all__ = ["Accelerator", "CPUAccelerator", "CUDAAccelerator", "MPSAccelerator", "find_usable_cuda_devices"]

__path__: list[str] = []
"""Lightning has a package here: ``raylight.utilities.aliases`` serves its modules."""
CPU_STATS_NEED = "Fetching CPU device stats requires `psutil` to be installed: pip install psutil."


class Accelerator(ABC):
    """Base of all kinds. One of your own, for ``Trainer(accelerator=...)``, must give devices of type cpu or cuda."""

    @abstractmethod
    def setup_device(self, device: torch.device) -> None:
        """Prepare ``device`` for this process."""

    @abstractmethod
    def teardown(self) -> None:
        """The call of fit, validate, test or predict is over."""

    @staticmethod
    @abstractmethod
    def parse_devices(devices: Any) -> Any:
        """``Trainer(devices=...)`` as ``get_parallel_devices`` takes it."""

    @staticmethod
    @abstractmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        """A device for each worker of a node."""

    @staticmethod
    @abstractmethod
    def auto_device_count() -> int:
        """Devices that ``devices="auto"`` means on this machine."""

    @staticmethod
    @abstractmethod
    def is_available() -> bool:
        """Whether this machine has such a device."""

    @staticmethod
    @abstractmethod
    def name() -> str:
        """Such as "cpu"."""

    def setup(self, trainer: TrainerView) -> None:  # noqa: B027  nothing to do is the usual case
        """A call of fit, validate, test or predict begins; the model goes to the device next."""

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        """Load and memory, as numbers by name, of ``device``."""
        raise NotImplementedError


class CPUAccelerator(Accelerator):
    """The processor's cores; each worker takes its share of them."""

    def setup_device(self, device: torch.device) -> None:
        if device.type != "cpu":
            raise MisconfigurationException(f"Device should be CPU, got {device} instead.")

    def teardown(self) -> None: ...

    @staticmethod
    def parse_devices(devices: Any) -> int:
        """The number of workers: an int > 0, or its digits.

        Raises:
            TypeError: It is something else.
        """
        if isinstance(devices, str) and devices.strip().isdigit():
            devices = int(devices)
        if not isinstance(devices, int) or devices <= 0:
            raise TypeError("`devices` selected with `CPUAccelerator` should be an int > 0.")
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device("cpu")] * CPUAccelerator.parse_devices(devices)

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "cpu"

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        """Percentages of the machine's memory, processors and swap space in use.

        Raises:
            ModuleNotFoundError: psutil is not installed.
        """
        try:
            import psutil
        except ImportError as error:
            raise ModuleNotFoundError(CPU_STATS_NEED) from error
        return {
            "cpu_vm_percent": psutil.virtual_memory().percent,
            "cpu_percent": psutil.cpu_percent(),
            "cpu_swap_percent": psutil.swap_memory().percent,
        }


class CUDAAccelerator(Accelerator):
    """NVIDIA GPUs, and AMD's under ROCm."""

    def setup_device(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise MisconfigurationException(f"Device should be GPU, got {device} instead")
        torch.cuda.set_device(device)

    def teardown(self) -> None:
        torch.cuda.empty_cache()

    @staticmethod
    def parse_devices(devices: Any) -> list[int] | None:
        """Indices of GPUs of this machine: of a count, -1 for all, a list, or such as "0,1". None: 0 are asked for.

        Raises:
            TypeError: It is something else.
            MisconfigurationException: There are no such GPUs, or one is named twice.
        """
        indices = _gpu_indices(devices)
        if indices is None:
            return None
        present = list(range(torch.cuda.device_count()))
        if not indices:
            raise MisconfigurationException("GPUs requested but none are available.")
        if len(set(indices)) < len(indices):
            raise MisconfigurationException("Device ID's (GPU) must be unique.")
        if not set(indices) <= set(present):
            raise MisconfigurationException(f"You requested gpu: {indices}\n But your machine only has: {present}")
        return indices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device("cuda", index) for index in devices]

    @staticmethod
    def auto_device_count() -> int:
        return torch.cuda.device_count()

    @staticmethod
    def is_available() -> bool:
        return torch.cuda.device_count() > 0

    @staticmethod
    def name() -> str:
        return "cuda"

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        """``torch.cuda.memory_stats``."""
        return torch.cuda.memory_stats(device)


class MPSAccelerator(Accelerator):
    """Apple's GPUs: a script may ask whether there is one, but raylight does not run on it.

    Raises:
        MisconfigurationException: When one is made.
    """

    def __init__(self) -> None:
        raise MisconfigurationException("raylight does not run on Apple's GPUs: use accelerator='cpu'.")

    def setup_device(self, device: torch.device) -> None: ...

    def teardown(self) -> None: ...

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return CUDAAccelerator.parse_devices(devices)

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [torch.device("mps", 0)]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return torch.backends.mps.is_available()

    @staticmethod
    def name() -> str:
        return "mps"


KINDS: dict[str, type[Accelerator]] = {"cpu": CPUAccelerator, "cuda": CUDAAccelerator}
"""By the type of torch's device."""


class _Accelerators(Registry):
    def available_accelerators(self) -> set[str]:
        """All names."""
        return set(self)


AcceleratorRegistry = _Accelerators("accelerator")
"""What ``Trainer(accelerator=...)`` may name; add kinds of your own."""
for _kind in KINDS.values():
    AcceleratorRegistry.register(_kind.name(), _kind, description=_kind.__name__)


def _gpu_indices(devices: Any) -> list[int] | None:
    message = "Device IDs (GPU/TPU) must be an int, a string, a sequence of ints, but you passed"
    if isinstance(devices, list | tuple):
        if wrong := [type(index).__name__ for index in devices if type(index) is not int]:
            raise TypeError(f"{message} a sequence of {wrong[0]}.")
        return list(devices) or None
    if type(devices) is str:
        text = devices.strip()
        devices = [int(part) for part in text.split(",") if part.strip()] if "," in text else int(text)
        return _gpu_indices(devices)
    if type(devices) is not int:
        raise TypeError(f"{message} {devices!r}.")
    if devices == 0:
        return None
    return list(range(torch.cuda.device_count() if devices == -1 else devices))


def find_usable_cuda_devices(num_devices: int = -1) -> list[int]:
    """Indices of GPUs of this machine that this process can use now: a tensor is put on each to find out.

    Args:
        num_devices: As many, the first that can be used; -1 for all.

    Raises:
        ValueError: The machine does not have so many.
        RuntimeError: It has, but others are using them exclusively.
    """
    if num_devices == 0:
        return []
    present = torch.cuda.device_count()
    asked = f"You requested to find {num_devices} devices but"
    if present == 0:
        raise ValueError(f"{asked} there are no visible CUDA devices on this machine.")
    if num_devices > present:
        raise ValueError(f"{asked} this machine only has {present} GPUs.")
    usable: list[int] = []
    for index in range(present):
        if len(usable) == num_devices:
            break
        if _can_be_used(index):
            usable.append(index)
    if num_devices != -1 and len(usable) < num_devices:
        taken = sorted(set(range(present)) - set(usable))
        raise RuntimeError(
            f"{asked} only {len(usable)} are currently available. The devices {taken} are occupied by other processes "
            "and can't be used at the moment."
        )
    return usable


def _can_be_used(index: int) -> bool:
    try:
        torch.tensor(0, device=torch.device("cuda", index))
    except RuntimeError:
        return False
    return True


def __getattr__(name: str) -> Any:
    if name == "XLAAccelerator":
        raise ImportError("raylight has no XLAAccelerator, as it does not run on TPUs: use accelerator='cpu' or 'gpu'.")
    return lazy_names(__name__)(name)
