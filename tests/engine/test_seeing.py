"""What one sees of a run on two workers: the line below its bars, and its names on the cluster."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
import small_models
import torch
from torch.utils.data import DataLoader, Dataset

import raylight as pl
from raylight.callbacks.progress.drawn_bar import DrawnBar
from raylight.engine import following, pool

pytestmark = pytest.mark.ray
SHOWN: list[str] = []
"""Lines of the driver's; a worker has a list of its own."""


class Recording(DrawnBar):
    """A bar on what counts as a terminal."""

    is_enabled = True  # type: ignore[assignment]
    shows_line = True  # type: ignore[assignment]

    def draw(self, trainer: Any, event: Any) -> None:
        """Nothing: this is about the line."""

    def show_line(self, text: str) -> None:
        SHOWN.append(text)


class SlowOnRankOne(Dataset[Any]):
    """Eight samples a batch take rank 1 at least 40 ms, and rank 0 16 ms."""

    def __len__(self) -> int:
        return 8 * 2 * 40

    def __getitem__(self, index: int) -> Any:
        import os

        time.sleep(0.005 if os.environ["RANK"] == "1" else 0.002)
        return torch.ones(4), torch.ones(1)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    SHOWN.clear()
    monkeypatch.setattr(following, "SECONDS_BETWEEN_PACES", 0.2)


@pytest.mark.usefixtures("often")
def test_the_line_names_the_rank_that_waits_for_data(two_workers: Callable[..., pl.Trainer]) -> None:
    trainer = two_workers(callbacks=[Recording()], enable_progress_bar=True)
    trainer.fit(small_models.Linear(), DataLoader(SlowOnRankOne(), batch_size=8))
    assert len(SHOWN) >= 3
    pattern = r"2 workers \| ([\d.]+) samples/s \| ([\d.]+) ms per batch, rank 1 is slowest by ([\d.]+) ms and waits "
    told = re.fullmatch(pattern + r"([\d.]+) ms for data \| 0 incidents", SHOWN[-1])
    assert told is not None, SHOWN[-1]
    per_second, batch, lag, data = map(float, told.groups())
    assert 40 <= data <= batch
    assert 10 <= lag <= batch
    assert per_second == pytest.approx(2 * 8 / batch * 1000, rel=0.25)


@pytest.mark.usefixtures("often")
def test_an_evaluation_has_a_line_too(two_workers: Callable[..., pl.Trainer]) -> None:
    class Evaluated(small_models.Linear):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch))

    trainer = two_workers(callbacks=[Recording()], enable_progress_bar=True)
    trainer.validate(Evaluated(), DataLoader(SlowOnRankOne(), batch_size=8), verbose=False)
    assert any("rank 1 is slowest" in line for line in SHOWN), SHOWN


def test_without_a_bar_no_pace_is_asked_for(
    two_workers: Callable[..., pl.Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PaceMaker", None)  # calling it would fail
    two_workers().fit(small_models.Linear(), small_models.batches())
    with pytest.raises(TypeError):
        two_workers(callbacks=[Recording()], enable_progress_bar=True).fit(
            small_models.Linear(), small_models.batches()
        )


def test_workers_and_their_placement_group_are_named_after_the_script(
    two_workers: Callable[..., pl.Trainer], tmp_path: Any
) -> None:
    import ray
    from ray.util import placement_group_table

    trainer = two_workers()
    trainer.fit(small_models.Linear(), small_models.batches())
    run = pool._pool._places.run_name  # type: ignore[union-attr]
    assert run.startswith("pytest-")
    names = ray.util.list_named_actors()
    assert len(names) == 2
    assert all(re.fullmatch(rf"raylight:{run}:worker\d+", name) for name in names), names
    held = [entry["name"] for entry in placement_group_table().values() if entry["state"] == "CREATED"]
    assert held == [f"raylight:{run}"]
