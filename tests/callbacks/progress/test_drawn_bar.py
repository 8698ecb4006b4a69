"""A bar whose run is in another process: that one's copy decides, the user's own draws."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

from raylight.callbacks import RichProgressBar, TQDMProgressBar
from raylight.config.messages import DataSource, Job, Progress, TrainerFn
from raylight.worker.control import StopRequest
from raylight.worker.execute import execute, single_rank


class Own(TQDMProgressBar):
    def init_train_tqdm(self) -> Any:
        bar = super().init_train_tqdm()
        bar.colour = "green"
        return bar

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.train_progress_bar.set_postfix({"nobody": "sees this"})  # a silent one here
        super().on_train_epoch_end(trainer, pl_module)

    def get_metrics(self, trainer: Any, pl_module: Any) -> Any:
        return {"mine": trainer.global_step}


def run_elsewhere(program: Any, trainer: Any) -> list[Any]:
    """The events of a fit on a copy of the trainer's callbacks, as in a worker."""
    model = program.model(val_losses=[1.0])
    trainer.attach(model, DataSource())
    engine, placement = trainer._start_engine(DataSource())
    job: Job = trainer._make_job(TrainerFn.FITTING, model, DataSource(), None, placement, True)
    job = dataclasses.replace(job, trainer=None, callbacks=copy.deepcopy(job.callbacks))
    events: list[Any] = []
    execute(job, single_rank(), torch.device("cpu"), events.append, StopRequest())
    return [event for event in events if isinstance(event, Progress)]


@pytest.mark.parametrize("kind", [Own, RichProgressBar])
def test_drawn_from_the_events_of_another_process(kind: Any, in_raylight: Any, capsys: Any) -> None:
    bar = kind()
    trainer = in_raylight.trainer(bar, enable_progress_bar=True, max_epochs=2)
    events = run_elsewhere(in_raylight, trainer)
    assert capsys.readouterr().out == ""
    for event in events:
        trainer._take_event(event)
    trainer._display.close()
    bars = {"sanity_check": 1, "validate": 2, "train": 1}
    assert {key: sum(event.done for event in events if event.key == key) for key in bars} == bars
    if kind is Own:
        drawn = capsys.readouterr().out
        assert "Epoch 1: 100%|" in drawn
        assert "mine=8" in drawn
        assert "nobody" not in drawn
        assert bar.train_progress_bar.colour == "green"
    else:
        assert bar.train_progress_bar.completed == 4


def test_a_copy_has_no_bars_of_its_own(in_raylight: Any) -> None:
    """Else they would come home from the worker, in place of the driver's."""
    for bar in (TQDMProgressBar(), RichProgressBar()):
        in_raylight.trainer(bar, enable_progress_bar=True, max_epochs=1).fit(in_raylight.model())
        assert not set(vars(copy.copy(bar))) & set(bar._OF_THIS_PROCESS)
