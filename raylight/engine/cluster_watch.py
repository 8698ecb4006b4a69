"""Whether the cluster is still there while a job is at work: its head, and this machine's node.

Ray ends a driver that is without its head for a minute. Where its node ends and the head tells of that, Ray ends the
driver at once, and nothing can be done.

Runs on the driver.
"""

from __future__ import annotations

import socket
import time
from typing import NoReturn

import ray

from raylight.engine.address import is_reached
from raylight.utilities.exceptions import ClusterError

SECONDS_BETWEEN_LOOKS = 5.0
PATIENCE = 15.0
"""Seconds that a head may be away, as one that is started again under its address is."""
SECONDS_OF_AN_END = 2.0
"""That a node takes to end, from the end of its workers on."""


class ClusterWatch:
    """Asks now and then whether the head and this machine's node can be reached."""

    def __init__(self) -> None:
        self._head = ray.get_runtime_context().gcs_address
        self._node = str(ray._private.worker._global_node.raylet_socket_name)  # type: ignore[attr-defined]
        self._seen = self._next = time.monotonic()

    def look(self) -> None:
        """Called often.

        Raises:
            ClusterError: The node is gone, or the head was not reached for ``PATIENCE``. We have left Ray then.
        """
        if time.monotonic() >= self._next:
            self.is_there()
            self._next = time.monotonic() + SECONDS_BETWEEN_LOOKS

    def is_there(self) -> bool:
        """Whether it is at this moment.

        Raises:
            ClusterError: As of ``look``.
        """
        if not _listens(self._node):
            _leave("Ray has ended on this machine")
        if is_reached(self._head, seconds=1.0):
            self._seen = time.monotonic()
            return True
        if time.monotonic() - self._seen > PATIENCE:
            _leave(f"its head, {self._head}, was not reached for {PATIENCE:g} s")
        return False

    def wait(self, all_are_lost: bool) -> None:
        """Workers were lost: is the cluster there? Returns when it is.

        Args:
            all_are_lost: All workers, which may be the beginning of its end.

        Raises:
            ClusterError: As of ``look``.
        """
        self._seen = began = time.monotonic()
        settled = SECONDS_OF_AN_END if all_are_lost else 0.0
        while not self.is_there() or time.monotonic() - began < settled:
            time.sleep(0.1)


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as tried:
        return tried.connect_ex(path) == 0


def _leave(why: str) -> NoReturn:
    ray.shutdown()
    raise ClusterError(
        f"The Ray cluster is gone: {why}. To go on from the last checkpoint, start a cluster, and the script again "
        "with fit(ckpt_path='last'), or 'auto' where it was that already."
    )
