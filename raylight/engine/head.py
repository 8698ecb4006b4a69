"""The head of the cluster while a job is at work: whether it is still there. After 60 s without, Ray ends the driver.

Runs on the driver.
"""

from __future__ import annotations

import time

import ray

from raylight.engine.address import is_reached
from raylight.utilities.exceptions import ClusterError

SECONDS_BETWEEN_LOOKS = 5.0
PATIENCE = 15.0
"""Seconds that a head may be away, as one that is started again under its address is."""


class HeadWatch:
    """Asks now and then whether the head can be reached."""

    def __init__(self) -> None:
        self._address = ray.get_runtime_context().gcs_address
        self._seen = self._next = time.monotonic()

    def look(self) -> None:
        """Called often.

        Raises:
            ClusterError: It has not been reached for ``PATIENCE``. The connection to Ray is ended then.
        """
        now = time.monotonic()
        if now < self._next:
            return
        if is_reached(self._address, seconds=1.0):
            self._seen = now
        elif now - self._seen > PATIENCE:
            ray.shutdown()  # else Ray would end this process
            raise ClusterError(
                f"The Ray cluster is gone: its head, {self._address}, was not reached for {PATIENCE:g} s. To go on "
                "from the last checkpoint, start a cluster, and the script again with fit(ckpt_path='last'), or 'auto' "
                "where it was that already."
            )
        self._next = time.monotonic() + SECONDS_BETWEEN_LOOKS

    def wait(self) -> None:
        """Something was lost: is the head there?

        Raises:
            ClusterError: As of ``look``.
        """
        self._seen, self._next = time.monotonic(), 0.0
        while not is_reached(self._address, seconds=1.0):
            self._next = 0.0
            self.look()
            time.sleep(0.5)
