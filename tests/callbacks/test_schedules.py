from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any

import pytest
from pytorch_lightning.callbacks import GradientAccumulationScheduler as LightningScheduler
from pytorch_lightning.callbacks import Timer as LightningTimer
from pytorch_lightning.trainer.states import RunningStage

from raylight.callbacks import GradientAccumulationScheduler, Timer
from raylight.utilities.exceptions import MisconfigurationException


@pytest.mark.parametrize("scheduling", [{0: 2}, {4: 2}, {2: 4, 5: 1}, {0: 3, 1: 1}])
def test_factors_are_lightnings(scheduling: dict[int, int]) -> None:
    given = dict(scheduling)
    ours = GradientAccumulationScheduler(scheduling)
    assert scheduling == given
    lightnings = LightningScheduler(scheduling)
    assert [ours.get_accumulate_grad_batches(epoch) for epoch in range(8)] == [
        lightnings.get_accumulate_grad_batches(epoch) for epoch in range(8)
    ]
    assert ours.going_to_accumulate_grad_batches() == lightnings.going_to_accumulate_grad_batches()
    assert ours.scheduling == lightnings.scheduling
    assert ours.epochs == lightnings.epochs


@pytest.mark.parametrize(
    ("scheduling", "error"),
    [
        ({}, TypeError),
        ({-1: 2}, MisconfigurationException),
        ({"1": 2}, MisconfigurationException),
        ({1: 0}, MisconfigurationException),
        ({1: 2.5}, MisconfigurationException),
    ],
)
def test_invalid_scheduling(scheduling: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        GradientAccumulationScheduler(scheduling)


@pytest.mark.parametrize(
    "duration", ["00:00:00:22", "12:12:12:12", timedelta(weeks=52), {"weeks": 5, "days": 2}, timedelta(0), None]
)
def test_durations_are_lightnings(duration: Any) -> None:
    assert Timer(duration).time_remaining() == LightningTimer(duration).time_remaining()


@pytest.mark.parametrize("duration", ["6:00:00", "60 minutes", "1:2:3:4", ""])
def test_invalid_duration(duration: str) -> None:
    with pytest.raises(MisconfigurationException, match=r"is not a valid duration. Expected .* DD:HH:MM:SS"):
        Timer(duration)


def test_invalid_interval() -> None:
    with pytest.raises(MisconfigurationException, match=r"Unsupported parameter value `Timer\(interval=invalid\)`"):
        Timer(interval="invalid")


def test_timer_state_is_lightnings() -> None:
    ours, lightnings = Timer(), LightningTimer()
    assert ours.state_key == lightnings.state_key
    assert ours.state_dict() == lightnings.state_dict()
    state = {"time_elapsed": {"train": 12.5, "validate": 3.0}}
    ours.load_state_dict(state)
    lightnings.load_state_dict(state)
    assert ours.state_dict() == lightnings.state_dict()
    assert ours.time_elapsed() == 12.5


def test_stage_by_enum_and_by_name() -> None:
    timer = Timer()
    timer._begin("validate")
    assert timer.start_time(RunningStage.VALIDATING) == timer.start_time("validate")
    assert timer.start_time("validate") is not None
    assert timer.start_time() is None
    with pytest.raises(ValueError, match="'training' is not a stage"):
        timer.start_time("training")


def test_clock_of_a_second_run_starts_anew() -> None:
    trainer: Any = None
    module: Any = None
    timer = Timer()
    timer.on_train_start(trainer, module)
    timer.on_train_end(trainer, module)
    timer.on_train_start(trainer, module)
    assert timer.end_time() is None
    assert timer.time_elapsed() >= 0


def test_exception_stops_the_clock() -> None:
    trainer: Any = None
    module: Any = None
    timer = Timer()
    timer.on_train_start(trainer, module)
    timer.on_exception(trainer, module, KeyboardInterrupt())
    assert timer.time_elapsed() == timer.time_elapsed()
    assert timer.end_time() is not None
    assert timer.end_time("validate") is None


def test_timer_travels_to_workers() -> None:
    timer = pickle.loads(pickle.dumps(Timer(timedelta(hours=1))))
    assert timer.time_remaining() == 3600
