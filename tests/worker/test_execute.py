"""How a Job ends on its rank where it does not end well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ranks import QUIET, Measuring, do, samples
from torch.utils.data import DataLoader, TensorDataset

import raylight as pl
from raylight.config.messages import DataSource, TrainerFn
from raylight.worker.control import LeaveFit, NoSnapshots


class LeavesAtOnce(NoSnapshots):
    """The run goes on elsewhere after its first batch."""

    due = 1

    def take(self, run: Any) -> None:
        raise LeaveFit(1)


class Saves(pl.Callback):
    """A checkpoint in the background, before the run leaves."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.torn_down = False

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        with trainer.strategy.checkpoint_io.in_background(True):
            trainer.save_checkpoint(self.path)

    def teardown(self, *_: Any, **__: Any) -> None:
        self.torn_down = True


def leave(callback: pl.Callback) -> None:
    data = DataSource(train=DataLoader(TensorDataset(samples(4))))
    with pytest.raises(LeaveFit):
        do(TrainerFn.FITTING, Measuring(), 0, 1, data, callbacks=[callback], snapshots=LeavesAtOnce(), **QUIET)


def test_leaving_waits_for_files(tmp_path: Path) -> None:
    callback = Saves(str(tmp_path / "a.ckpt"))
    leave(callback)
    assert (tmp_path / "a.ckpt").exists()
    assert callback.torn_down


def test_a_file_that_is_not_written_keeps_nobody_from_leaving() -> None:
    callback = Saves("/dev/null/a.ckpt")
    with pytest.warns(UserWarning, match="A checkpoint was not written: .*/dev/null/a.ckpt"):
        leave(callback)
    assert callback.torn_down
