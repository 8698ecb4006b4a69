"""A time limit that all ranks reach at the same step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raylight.worker.trainer_view import TrainerView

_MAX_STEPS_BETWEEN_ASKS = 100  # bounds how late a limit is noticed when steps become slower


class SharedDeadline:
    """Tells every rank at the same step that rank 0's clock has passed a limit.

    Clocks differ between nodes, so rank 0 decides and tells the others. That is a collective, and one per step would
    cost more than many a step; so rank 0 is asked half-way to the limit, half-way again and so on.
    A single worker looks at its clock at every step.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget the pace of the steps; every rank must do so at the same step."""
        self._steps_until_ask = 1
        self._steps_since_ask = 0
        self._asked_at: float | None = None

    def reached(self, trainer: TrainerView, remaining: float) -> bool:
        """Whether ``remaining`` seconds are over, by rank 0's clock. Every rank must call it once per training step."""
        if trainer.world_size == 1:
            return remaining <= 0
        self._steps_since_ask += 1
        if self._steps_since_ask < self._steps_until_ask:
            return False
        reached, self._steps_until_ask = trainer.strategy.broadcast((remaining <= 0, self._steps_to_wait(remaining)))
        self._steps_since_ask = 0
        self._asked_at = time.monotonic()
        return bool(reached)

    def _steps_to_wait(self, remaining: float) -> int:
        if self._asked_at is None:
            return 1
        seconds_per_step = (time.monotonic() - self._asked_at) / self._steps_since_ask
        steps_left = remaining / max(seconds_per_step, 1e-9)
        return int(min(max(steps_left / 2, 1), _MAX_STEPS_BETWEEN_ASKS))
