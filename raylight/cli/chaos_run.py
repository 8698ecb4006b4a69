"""One run of ``raylight chaos``: a script with its workers killed now and then, and what its ``fit`` calls gave.

Usage: python -m raylight.cli.chaos_run RESULT SECONDS SEED script.py [argument ...]
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from raylight.cli import run
from raylight.trainer import Trainer

ANY_NUMBER = 10**6
LOOK_SECONDS = 0.05


class Killer(threading.Thread):
    """Kills one of the workers that are at work, every so many seconds of work.

    Args:
        seconds: On average.
        seed: Of what is random: half to one and a half times the seconds, and which worker.
    """

    def __init__(self, seconds: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.kills = 0
        self._seconds = seconds
        self._random = random.Random(seed)
        self._over = threading.Event()

    def run(self) -> None:
        from raylight.engine import pool

        left = self._wait()
        while not self._over.wait(LOOK_SECONDS):
            workers = pool.workers_at_work()
            left -= LOOK_SECONDS if workers else 0.0
            if workers and left <= 0:
                with contextlib.suppress(ProcessLookupError):  # it is dead already
                    os.kill(self._random.choice(workers).pid, signal.SIGKILL)
                    self.kills += 1
                left = self._wait()

    def _wait(self) -> float:
        return self._seconds * self._random.uniform(0.5, 1.5)

    def end(self) -> None:
        self._over.set()
        self.join()


@contextlib.contextmanager
def recording(note: Callable[[Trainer, Any], None]) -> Iterator[None]:
    """In the block trainers survive any number of failures, and ``note`` is told of each ``fit`` that is over."""
    init, fit = Trainer.__init__, Trainer.fit

    @functools.wraps(init)
    def persistent(self: Trainer, *positional: Any, **flags: Any) -> None:
        init(self, *positional, **{**flags, "max_failures": ANY_NUMBER})

    @functools.wraps(fit)
    def noting(self: Trainer, model: Any, *positional: Any, **named: Any) -> None:
        fit(self, model, *positional, **named)
        note(self, model)

    Trainer.__init__, Trainer.fit = persistent, noting  # type: ignore[method-assign]
    try:
        yield
    finally:
        Trainer.__init__, Trainer.fit = init, fit  # type: ignore[method-assign]


def main() -> int:
    """Run the script; returns its exit status."""
    result, seconds, seed, *script = sys.argv[1:]
    fits: list[dict[str, Any]] = []
    incidents: list[str] = []

    def note(trainer: Trainer, model: Any) -> None:
        metrics = {name: torch.as_tensor(value) for name, value in trainer.callback_metrics.items()}
        fits.append({"weights": dict(model.state_dict()), "metrics": metrics, "steps": trainer.global_step})
        for each in trainer.incidents:
            incidents.append(f"step {each.step}, {each.seconds:.1f} s lost: {each.what.partition(':')[0]}")
        trainer.incidents.clear()

    killer = Killer(float(seconds), int(seed)) if float(seconds) else None
    if killer is not None:
        killer.start()
    with recording(note):
        status = run.main(script)
    if killer is not None:
        killer.end()
    torch.save({"fits": fits, "incidents": incidents, "kills": killer.kills if killer is not None else 0}, result)
    return status


if __name__ == "__main__":
    sys.exit(main())
