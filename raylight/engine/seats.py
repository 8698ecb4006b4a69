"""Where a pool's workers sit: placement groups on the cluster, and the processes in them.

Runs on the driver.
"""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import get_current_placement_group, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raylight.config.accelerators import Placement
from raylight.engine import cluster
from raylight.engine.actor import WorkerActor, WorkerInfo
from raylight.engine.names import new_run_name

SECONDS_FOR_SPARES = 3.0
"""To answer: one that does not is no help when a worker is lost."""
CONTROL_THREADS = 6
"""Of a worker, for questions while it runs: two wait for news of it, the others answer at once."""


@dataclass
class Seat:
    """A place for a worker, and the process that is there or on its way."""

    group: Any
    """Placement group."""
    bundle: int
    worker: Any
    """Actor handle."""
    booting: Any = None
    """Reference to the process's WorkerInfo; None: it was not asked."""
    info: WorkerInfo | None = None
    """As of the last time that the workers were joined; None: never yet."""
    gpus: tuple[str, ...] = ()
    """Of its bundle. A spare process, which has none of its own, takes them over."""

    def ask(self) -> Any:
        """A reference to what the process tells of itself, once it is there."""
        if self.booting is None:
            self.booting = self.worker.boot.remote()
            self.worker.prepare.remote()  # while Ray passes the answer on, which takes some tenths of a second
        return self.booting

    @property
    def is_ready(self) -> bool:
        """Whether the process is there."""
        return bool(ray.wait([self.ask()], timeout=0)[0])


class Seats:
    """Makes and gives back the seats of one pool.

    Args:
        placement: How many, with what.
        resource_timeout: Seconds to wait for the cluster to have room.
    """

    def __init__(self, placement: Placement, resource_timeout: float) -> None:
        self._placement = placement
        self._resource_timeout = resource_timeout
        self._groups: list[Any] = []
        """Placement groups of its own, which are given back in the end."""
        self._spares: list[tuple[Any, Any, Seat]] = []
        """References to the WorkerInfo of processes that wait to take a lost one's place, these, and beside whom."""
        self.in_trial = get_current_placement_group() is not None
        self.run_name = new_run_name()
        """What the cluster knows these processes by."""
        self._numbers = itertools.count()
        """Of processes: one that takes another's place has a number of its own, as Ray asks for a name of its own."""
        self._group_numbers = itertools.count()

    def take(self) -> list[Seat]:
        """As many as there are to be or, where their number may change, as there is room for.

        Raises:
            ResourceError: There is no room.
        """
        trials_group = get_current_placement_group()
        if trials_group is not None:
            return [self._seat(trials_group, b) for b in cluster.bundles_of_trial(trials_group, self._placement)]
        placement = self._placement
        count = cluster.fitting_count(placement)
        if placement.fewer:  # each can be given back by itself
            seats = [self._seat(self._reserve([placement.resources], "PACK"), 0) for _ in range(count)]
            for seat in seats[: placement.sizes[-1]]:
                cluster.wait_for_room(seat.group, placement, placement.sizes[-1], self._resource_timeout)
            return seats
        nodes, per_node = placement.num_nodes, count // placement.num_nodes
        # One bundle per worker; several nodes: one bundle per node, so that Ray cannot put them together.
        if nodes > 1:
            node_resources = {name: amount * per_node for name, amount in placement.resources.items()}
            group = self._reserve([node_resources] * nodes, "STRICT_SPREAD")
        else:
            group = self._reserve([placement.resources] * count, "PACK")
        cluster.wait_for_room(group, placement, count, self._resource_timeout)
        return [self._seat(group, i // per_node if nodes > 1 else i) for i in range(count)]

    def add(self) -> Seat:
        """One more, wherever there is room for it, or will be."""
        seat = self._seat(self._reserve([self._placement.resources], "PACK"), 0)
        seat.booting = seat.worker.prepare.remote()  # a run that is at work need not wait for what it imports
        return seat

    def _reserve(self, bundles: list[dict[str, float]], strategy: str) -> Any:
        number = next(self._group_numbers)
        name = f"raylight:{self.run_name}"  # Ray asks for one of its own for each
        group = placement_group(bundles, strategy, name=f"{name}:{number}" if number else name)
        self._groups.append(group)  # from now on give_back() does so
        return group

    def _seat(self, group: Any, bundle: int) -> Seat:
        return Seat(group, bundle, self._start(group, bundle))

    def _start(self, group: Any, bundle: int, spare: bool = False) -> Any:
        """A process in a bundle of a placement group; a spare one takes none of its resources."""
        resources = {} if spare else dict(self._placement.resources)
        options: dict[str, Any] = {
            "num_cpus": resources.pop("CPU", 0),
            "num_gpus": resources.pop("GPU", 0),
            "memory": resources.pop("memory", None),
            "resources": resources,
            "concurrency_groups": {"control": CONTROL_THREADS},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, bundle),
        }
        # No runtime_env: with one, Ray could not use the processes that it has started in advance.
        name = f"raylight:{self.run_name}:worker{next(self._numbers)}"  # a rank it gets later, and may change
        return ray.remote(**options)(WorkerActor).options(name=name).remote(name, self.run_name)

    def renew(self, seat: Seat) -> None:
        """A new process in the place of one that is lost: a spare one on that node, if there is one."""
        ray.kill(seat.worker)
        spare = self._take_spare(seat.info.node_id) if seat.info is not None else None
        seat.worker, seat.booting = spare or self._start(seat.group, seat.bundle), None

    def leave(self, seat: Seat) -> None:
        """The seat is not needed any more."""
        ray.kill(seat.worker)
        for place in [each for each in self._spares if each[2] is seat]:
            ray.kill(place[1])
            self._spares.remove(place)
        if seat.group in self._groups and len(seat.group.bundle_specs) == 1:
            self._groups.remove(seat.group)
            remove_placement_group(seat.group)

    # ------------------------------------------------------------------------------------------------ spares

    def keep_spares(self, count: int, seats: list[Seat]) -> None:
        """Have ``count`` processes ready to take the place of lost ones, on the nodes of ``seats`` in turn."""
        self._checked_spares()
        while len(self._spares) > count:
            ray.kill(self._spares.pop()[1])
        for number in range(len(self._spares), count):
            seat = seats[number % len(seats)]
            spare = self._start(seat.group, seat.bundle, spare=True)
            self._spares.append((spare.prepare.remote(), spare, seat))

    def _take_spare(self, node_id: str) -> Any:
        """A spare process on the node; None where there is none that lives."""
        for place in self._checked_spares():
            booting, spare, _ = place
            if ray.get(booting).node_id == node_id:
                self._spares.remove(place)
                return spare
        return None

    def _checked_spares(self) -> list[tuple[Any, Any, Seat]]:
        """Let go of the dead, and return those that are there and answer; others may still be on their way."""
        there = [place for place in self._spares if ray.wait([place[0]], timeout=0)[0]]
        pings = [spare.ping.options(concurrency_group="control").remote() for _, spare, _ in there]
        answered = ray.wait(pings, num_returns=len(pings), timeout=SECONDS_FOR_SPARES)[0] if pings else []
        living = []
        for place, ping in zip(there, pings, strict=True):
            if ping in answered and _is_well([place[0], ping]):
                living.append(place)
            else:
                self._spares.remove(place)
                ray.kill(place[1])
        return living

    # ------------------------------------------------------------------------------------------------ end

    def give_back(self, seats: list[Seat]) -> None:
        """End all processes, and let the cluster have its resources."""
        spares, self._spares = self._spares, []
        groups, self._groups = self._groups, []
        for worker in [*(seat.worker for seat in seats), *(spare for _, spare, _ in spares)]:
            ray.kill(worker)
        for group in groups:
            with contextlib.suppress(Exception):  # the cluster has forgotten it
                remove_placement_group(group)  # ends actors that were still starting, too


def _is_well(answers: list[Any]) -> bool:
    """Whether these, which have come, tell of no error."""
    try:
        ray.get(answers)
    except RayError:
        return False
    return True
