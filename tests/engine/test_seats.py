"""Spare processes of a pool: which of them can take a lost one's place. Processes that hang or are slow are made up."""

from __future__ import annotations

from typing import Any

import pytest
from ray.exceptions import RayActorError

from raylight.config.accelerators import Placement
from raylight.engine import seats
from raylight.engine.actor import WorkerInfo
from raylight.engine.seats import Seat, Seats

INFO = WorkerInfo("node", "host", 1, (), 1)
PLACEMENT = Placement(device_type="cpu", num_workers=1, num_nodes=1, resources={}, use_ray=True, device_index=0)
LATE = object()
"""An answer that does not come."""


class Spare:
    """A process that has booted, or not, and answers a ping in some way."""

    def __init__(self, boots: Any = INFO, answers: Any = None) -> None:
        self.boots, self.answers = boots, answers
        self.prepare = self.ping = self

    def options(self, **_: Any) -> Spare:
        return self

    def remote(self) -> Any:
        return self.answers


class MadeUpRay:
    """Answers are their own references."""

    def __init__(self) -> None:
        self.killed: list[Spare] = []

    def wait(self, references: list[Any], timeout: float, num_returns: int = 1) -> tuple[list[Any], list[Any]]:
        return [each for each in references if each is not LATE], [each for each in references if each is LATE]

    def get(self, references: Any) -> Any:
        for each in references if isinstance(references, list) else [references]:
            if isinstance(each, Exception):
                raise each
        return references

    def kill(self, spare: Spare) -> None:
        self.killed.append(spare)


def test_only_a_spare_that_lives_takes_a_lost_ones_place(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = MadeUpRay()
    monkeypatch.setattr(seats, "ray", ray)
    monkeypatch.setattr(seats, "get_current_placement_group", lambda: None)
    places, seat = Seats(PLACEMENT, 1.0), Seat(None, 0, None)
    dead, hung, coming, well = Spare(answers=RayActorError()), Spare(answers=LATE), Spare(boots=LATE), Spare()
    stillborn = Spare(boots=RayActorError())
    places._spares = [(each.boots, each, seat) for each in (dead, hung, coming, stillborn, well)]
    monkeypatch.setattr(places, "_start", lambda *_, **__: Spare())
    places.keep_spares(3, [seat])
    assert ray.killed == [dead, hung, stillborn]
    assert [each[1] for each in places._spares[:2]] == [coming, well]
    assert len(places._spares) == 3
    places._spares = [(each.boots, each, seat) for each in (dead, coming, well)]
    assert places._take_spare("node") is well
    assert places._take_spare("node") is None, "it is on its way"
    assert [each[1] for each in places._spares] == [coming]
