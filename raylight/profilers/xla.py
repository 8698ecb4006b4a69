"""XLAProfiler: a name that scripts import; raylight does not run on TPUs."""

from __future__ import annotations

from raylight.profilers.base import Profiler
from raylight.utilities.exceptions import MisconfigurationException


class XLAProfiler(Profiler):
    """Not available.

    Raises:
        MisconfigurationException: Always.
    """

    def __init__(self, port: int = 9012) -> None:
        raise MisconfigurationException(
            "XLAProfiler records TPUs, which raylight does not run on: use PyTorchProfiler ('pytorch') for CPU and GPU."
        )

    def start(self, action_name: str) -> None: ...

    def stop(self, action_name: str) -> None: ...
