"""TrainerConfig: checks, and what several flags together mean."""

from __future__ import annotations

import dataclasses
import pickle
from datetime import timedelta
from typing import Any

import pytest

from raylight.config.flags import TrainerConfig
from raylight.utilities.exceptions import MisconfigurationException, UnknownFlagError


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"accumulate_grad_batches": {0: 1, 4: 8}},
        {"val_check_interval": timedelta(minutes=5)},
        {"val_check_interval": "00:01:00:00"},
        {"check_val_every_n_epoch": None, "val_check_interval": 100},
        {"limit_train_batches": 0, "limit_val_batches": 1.0, "overfit_batches": 10},
        {"gradient_clip_val": 0.0, "gradient_clip_algorithm": "value"},
        {"max_epochs": -1, "max_steps": 0, "num_sanity_val_steps": -1, "log_every_n_steps": 0},
        {"deterministic": "warn"},
        {"profiler": None, "plugins": None, "model_registry": None},
    ],
    ids=str,
)
def test_accepted(flags: dict[str, Any]) -> None:
    config = TrainerConfig.from_flags(**flags)
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"accumulate_grad_batches": 0}, "accumulate_grad_batches=0 must be"),
        ({"accumulate_grad_batches": {}}, "accumulate_grad_batches={} must map"),
        ({"accumulate_grad_batches": {-1: 2}}, "must map"),
        ({"limit_val_batches": 1.5}, "invalid value 1.5 for limit_val_batches"),
        ({"limit_val_batches": "all"}, "must be a share"),
        ({"limit_val_batches": True}, "must be a share"),
        ({"deterministic": "always"}, "must be True, False or 'warn'"),
        ({"launcher": "slurm"}, "must be one of 'auto', 'local', 'ray'"),
        ({"max_failures": -1}, "max_failures=-1 must be an int >= 0"),
        ({"spare_workers": 1.5}, "spare_workers=1.5 must be an int >= 0"),
        ({"snapshot_every_n_steps": 0}, "snapshot_every_n_steps=0 must be >= 1"),
        ({"hang_timeout": 0}, "hang_timeout=0 must be a number of seconds > 0, or None"),
        ({"multiple_trainloader_mode": "sequential"}, "must be one of 'max_size_cycle', 'min_size', 'max_size'"),
        ({"num_workers": 0}, "num_workers=0 must be an int >= 1, or a tuple (min, max) of two"),
        ({"num_workers": (0, 2)}, "num_workers=(0, 2) must be an int >= 1, or a tuple (min, max) of two"),
        ({"num_workers": (3, 2)}, "num_workers=(3, 2): the minimum comes first"),
        ({"num_workers": (1, 2), "elastic": "batch"}, "elastic='batch' must be one of"),
        ({"elastic_wait": -1}, "elastic_wait=-1 must be a number of seconds >= 0"),
        ({"num_workers": 2, "launcher": "local"}, "needs Ray"),
        ({"resources_per_worker": 2}, "must be a dict"),
        ({"max_epochs": 1.5}, "max_epochs=1.5 must be an int or None"),
        ({"check_val_every_n_epoch": 0}, "must be >= 1"),
    ],
    ids=str,
)
def test_refused(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(MisconfigurationException) as caught:
        TrainerConfig.from_flags(**flags)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "guess"),
    [("max_epoch", "max_epochs"), ("gpu", "accelerator='gpu'"), ("epochs", "max_epochs"), ("callback", "callbacks")],
)
def test_guess(name: str, guess: str) -> None:
    with pytest.raises(UnknownFlagError, match=f"did you mean {guess}"):
        TrainerConfig.from_flags(**{name: 1})


def test_nothing_like_it() -> None:
    with pytest.raises(UnknownFlagError, match=r"^Trainer\.__init__\(\) got an unexpected keyword argument 'xyzzy'\.$"):
        TrainerConfig.from_flags(xyzzy=1)


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainerConfig().max_epochs = 3  # type: ignore[misc]


def test_launcher_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLIGHT_LAUNCHER", "local")
    assert TrainerConfig().launcher == "local"
    assert TrainerConfig(launcher="ray").launcher == "ray"


@pytest.mark.parametrize(
    ("flags", "limits"),
    [
        ({}, (1.0, 1.0, 1.0, 1.0)),
        ({"limit_train_batches": 3, "limit_val_batches": 0, "limit_test_batches": 0.5}, (3, 0, 0.5, 1.0)),
        ({"overfit_batches": 2, "limit_train_batches": 3}, (2, 2, 1.0, 1.0)),
        ({"fast_dev_run": True, "overfit_batches": 2}, (2, 2, 1, 1)),
        ({"limit_train_batches": 3.0, "limit_val_batches": 1, "overfit_batches": 0.0}, (3, 1, 1.0, 1.0)),
        ({"fast_dev_run": 4}, (4, 4, 4, 4)),
    ],
)
def test_limits(flags: dict[str, Any], limits: tuple[float, ...]) -> None:
    config = TrainerConfig(**flags)
    found = tuple(config.limit(stage) for stage in ("train", "val", "test", "predict"))
    assert [(type(value), value) for value in found] == [(type(value), value) for value in limits]


def test_every_flag_says_what_it_is() -> None:
    """``True`` where a bool is asked for is no number elsewhere."""
    for name in ("max_epochs", "num_nodes", "max_steps", "accumulate_grad_batches", "gradient_clip_val"):
        with pytest.raises(MisconfigurationException, match=name):
            TrainerConfig(**{name: True})
