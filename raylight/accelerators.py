"""The kinds of device that a worker computes on."""

from __future__ import annotations

from typing import Any

import torch

from raylight.utilities.exceptions import MisconfigurationException

__all__ = ["Accelerator", "CPUAccelerator", "CUDAAccelerator", "accelerator_of", "find_usable_cuda_devices"]


class Accelerator:
    """A kind of device. ``Trainer(accelerator=...)`` takes its name or an object."""

    @staticmethod
    def name() -> str:
        """What ``Trainer(accelerator=...)`` calls it; also the type of its ``torch.device``."""
        raise NotImplementedError

    @staticmethod
    def is_available() -> bool:
        """Whether this process has such a device."""
        raise NotImplementedError

    @staticmethod
    def auto_device_count() -> int:
        """Devices that ``devices="auto"`` means in this process."""
        raise NotImplementedError

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        """What ``Trainer(devices=...)`` means: a count, or a list of indices."""
        raise NotImplementedError

    @classmethod
    def get_parallel_devices(cls, devices: Any) -> list[torch.device]:
        """One device for each worker of a node."""
        raise NotImplementedError

    def setup_device(self, device: torch.device) -> None:
        """Raise MisconfigurationException where ``device`` is of another kind."""
        if device.type != self.name():
            raise MisconfigurationException(f"Device should be {self.name().upper()}, got {device} instead.")

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        """Numbers that tell how busy the device is, by name."""
        raise NotImplementedError


class CPUAccelerator(Accelerator):
    """The CPU: a worker is a process."""

    @staticmethod
    def name() -> str:
        return "cpu"

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def parse_devices(devices: Any) -> int:
        """A number of workers.

        Raises:
            TypeError: ``devices`` is no int > 0, nor a text that says one.
        """
        count = int(devices) if isinstance(devices, str) and devices.strip().isdigit() else devices
        if isinstance(count, bool) or not isinstance(count, int) or count <= 0:
            raise TypeError(f"`devices` selected with `CPUAccelerator` should be an int > 0, got devices={devices!r}.")
        return count

    @classmethod
    def get_parallel_devices(cls, devices: Any) -> list[torch.device]:
        return [torch.device("cpu")] * cls.parse_devices(devices)

    def get_device_stats(self, device: Any) -> dict[str, float]:
        """Percentages of this machine's CPU and memory in use; needs psutil."""
        import psutil

        return {
            "cpu_vm_percent": psutil.virtual_memory().percent,
            "cpu_percent": psutil.cpu_percent(),
            "cpu_swap_percent": psutil.swap_memory().percent,
        }


class CUDAAccelerator(Accelerator):
    """NVIDIA's and AMD's GPUs: a worker has one."""

    @staticmethod
    def name() -> str:
        return "cuda"

    @staticmethod
    def is_available() -> bool:
        return torch.cuda.is_available()

    @staticmethod
    def auto_device_count() -> int:
        return torch.cuda.device_count()

    @staticmethod
    def parse_devices(devices: Any) -> int | list[int]:
        """A count, -1 for all, or a list of indices.

        Raises:
            TypeError: ``devices`` is no int, text or sequence of ints.
            MisconfigurationException: An index is there twice, or the text is none of these.
        """
        if isinstance(devices, str):
            devices = _parse_text(devices)
        if type(devices) is int:
            if devices == 0 or devices < -1:
                raise MisconfigurationException(f"devices={devices} must be a count >= 1, -1 for all, or indices.")
            return int(devices)
        if not isinstance(devices, list | tuple) or any(type(index) is not int for index in devices):
            raise TypeError(
                f"Device IDs (GPU/TPU) must be an int, a string, a sequence of ints, but you passed {devices!r}."
            )
        if len(set(devices)) < len(devices):
            raise MisconfigurationException(f"Device ID's (GPU) must be unique, got {devices!r}.")
        return list(devices)

    @classmethod
    def get_parallel_devices(cls, devices: Any) -> list[torch.device]:
        parsed = cls.parse_devices(devices)
        if isinstance(parsed, int):
            parsed = list(range(cls.auto_device_count() if parsed == -1 else parsed))
        return [torch.device("cuda", index) for index in parsed]

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        """``torch.cuda.memory_stats``."""
        return torch.cuda.memory_stats(device)


def _parse_text(text: str) -> int | list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()] if "," in text else int(text)
    except ValueError:
        raise MisconfigurationException(
            f"devices={text!r} must be 'auto', a count, or indices such as '0,1'."
        ) from None


def accelerator_of(device_type: str) -> Accelerator:
    """The accelerator of "cpu" or "cuda"."""
    return CUDAAccelerator() if device_type == "cuda" else CPUAccelerator()


def find_usable_cuda_devices(num_devices: int = -1) -> list[int]:
    """Indices of GPUs that this process can use, which one in exclusive mode may refuse; -1: all that there are.

    Raises:
        ValueError: More are asked for than the machine has.
        RuntimeError: More are asked for than can be used.
    """
    if num_devices == 0:
        return []
    present = torch.cuda.device_count()
    if num_devices > present:
        raise ValueError(
            f"You requested to find {num_devices} devices but this machine only has {present} GPUs."
            if present
            else f"You requested to find {num_devices} devices but there are no visible CUDA devices on this machine."
        )
    usable: list[int] = []
    for index in range(present):
        if len(usable) == num_devices:
            break
        try:
            torch.zeros(1, device=torch.device("cuda", index))
        except RuntimeError:  # another process has it for itself
            continue
        usable.append(index)
    if num_devices != -1 and len(usable) < num_devices:
        raise RuntimeError(f"You requested to find {num_devices} devices but only {len(usable)} of them can be used.")
    return usable
