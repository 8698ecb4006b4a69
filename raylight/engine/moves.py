"""When a run should go on with other workers: there is room for more of them, or a node of theirs is about to end.

Runs on the driver.
"""

from __future__ import annotations

import time

import ray
from ray.exceptions import RayError

from raylight.config.accelerators import Placement
from raylight.engine import cluster
from raylight.engine.seats import Seat
from raylight.utilities.rank_zero import log

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_LEAVE = 10.0
"""Before a node ends, in which fewer workers leave it rather than wait for room on others."""


class Moves:
    """Watches the cluster for a run.

    Args:
        placement: Of the run.
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._ending: dict[str, tuple[float, float]] = {}
        """Nodes that are about to end: when that became known (monotonic clock), and when (seconds since 1970)."""
        self._next_look = 0.0

    def is_time(self) -> bool:
        """Whether to look again; asked often."""
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + SECONDS_BETWEEN_LOOKS
        return True

    def look(self, seats: list[Seat]) -> list[Seat]:
        """Ask the cluster: seats whose nodes are about to end, each once."""
        now = time.monotonic()
        try:
            draining = cluster.draining_nodes()
        except (RayError, RuntimeError):  # the cluster is going down: the job tells
            return []
        drivers = ray.get_runtime_context().get_node_id()  # what ends with the driver's node cannot be moved
        new = {node: end for node, end in draining.items() if node not in self._ending and node != drivers}
        found = [seat for seat in seats if seat.info is not None and seat.info.node_id in new]
        for node in {seat.info.node_id for seat in found if seat.info is not None}:
            self._ending[node] = now, new[node]
            log.warning("Node %s is about to end: room for its workers is sought on others.", node[:12])
        return found

    def leaves(self, seat: Seat) -> bool:
        """Whether the seat is on a node that is about to end."""
        return seat.info is not None and seat.info.node_id in self._ending

    def are_due(self, seats: list[Seat], ready: list[Seat], elastic_wait: float) -> bool:
        """Whether it is time to change.

        Args:
            seats: Of the workers.
            ready: Of processes that could be workers, too.
            elastic_wait: Seconds to wait for room on other nodes before fewer go on.
        """
        if not self._ending and not ready:
            return False
        leaving = [seat for seat in seats if self.leaves(seat)]
        count = len(seats) - len(leaving) + len(ready)
        after = next((size for size in self._placement.sizes if size <= count), 0)
        if not leaving:
            return after > len(seats)
        return after >= len(seats) or (after > 0 and any(self._is_urgent(seat, elastic_wait) for seat in leaving))

    def _is_urgent(self, seat: Seat, elastic_wait: float) -> bool:
        assert seat.info is not None
        since, end = self._ending[seat.info.node_id]
        return time.monotonic() - since > elastic_wait or end - time.time() < SECONDS_TO_LEAVE
