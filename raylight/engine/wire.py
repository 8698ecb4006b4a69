"""How the driver asks the workers and waits for them, apart from what it asks, so that others can stand for Ray."""

from __future__ import annotations

from typing import Any, Protocol

import ray


class Wire(Protocol):
    """Between the driver and the workers."""

    def ask(self, worker: Any, method: str, *args: Any) -> Any:
        """Have a worker answer while it runs; a reference to the answer."""
        ...

    def wait(self, references: list[Any], seconds: float | None, count: int = 1) -> list[Any]:
        """Those that are ready when ``count`` are, or after ``seconds``; None: however long it takes."""
        ...

    def get(self, reference: Any) -> Any:
        """What a reference, or each of a list of them, stands for; what has gone wrong there is raised."""
        ...


class RayWire:
    """By Ray's own means."""

    def ask(self, worker: Any, method: str, *args: Any) -> Any:
        return getattr(worker, method).options(concurrency_group="control").remote(*args)

    def wait(self, references: list[Any], seconds: float | None, count: int = 1) -> list[Any]:
        ready: list[Any] = ray.wait(references, num_returns=count, timeout=seconds)[0]
        return ready

    def get(self, reference: Any) -> Any:
        return ray.get(reference)
