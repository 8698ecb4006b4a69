"""EarlyStopping without a Trainer: arguments, messages and state equal Lightning's."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping as LightningEarlyStopping
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason as LightningReason

from raylight.callbacks import EarlyStopping
from raylight.callbacks.early_stopping import EarlyStoppingReason
from raylight.utilities.exceptions import MisconfigurationException


def test_reasons_are_lightnings() -> None:
    assert {each.name: each.value for each in EarlyStoppingReason} == {
        each.name: each.value for each in LightningReason
    }


def test_unknown_mode() -> None:
    with pytest.raises(MisconfigurationException, match="`mode` can be min, max, got best"):
        EarlyStopping("val_loss", mode="best")


SEQUENCES: dict[str, tuple[dict[str, Any], list[float]]] = {
    "improves": ({}, [3.0, 2.0, 1.0]),
    "patience": ({"patience": 2}, [1.0, 1.0, 1.0, 1.0]),
    "max": ({"mode": "max", "patience": 1}, [1.0, 2.0, 1.0]),
    "min_delta": ({"min_delta": 0.5, "patience": 2}, [3.0, 2.6, 2.4, 2.0]),
    "min_delta_max": ({"min_delta": 0.5, "patience": 2, "mode": "max"}, [1.0, 1.5, 1.6, 1.7]),
    "nan": ({}, [1.0, math.nan]),
    "inf_first": ({}, [math.inf]),
    "threshold": ({"stopping_threshold": 0.5}, [1.0, 0.4]),
    "threshold_max": ({"stopping_threshold": 0.5, "mode": "max"}, [0.1, 0.6]),
    "divergence": ({"divergence_threshold": 5.0}, [1.0, 6.0]),
    "divergence_max": ({"divergence_threshold": 0.5, "mode": "max"}, [0.4]),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_decisions_and_messages_are_lightnings(name: str) -> None:
    arguments, values = SEQUENCES[name]
    ours, lightnings = EarlyStopping("m", **arguments), LightningEarlyStopping("m", **arguments)
    for value in values:
        current = torch.tensor(value)
        assert ours._evaluate(current) == lightnings._evaluate_stopping_criteria(current)
        assert ours.state_dict() == lightnings.state_dict()


def test_state_is_lightnings() -> None:
    ours, lightnings = EarlyStopping("val_loss", mode="max"), LightningEarlyStopping("val_loss", mode="max")
    assert ours.state_key == lightnings.state_key
    assert ours.state_dict() == lightnings.state_dict()
    assert ours.min_delta == lightnings.min_delta


@pytest.mark.parametrize("with_reason", [True, False])
def test_state_is_taken_back(with_reason: bool) -> None:
    """Files of older versions have no reason."""
    state: dict[str, Any] = {
        "wait_count": 2,
        "stopped_epoch": 7,
        "best_score": torch.tensor(0.3),
        "patience": 5,
        "stopping_reason": 3,
        "stopping_reason_message": "patience",
    }
    if not with_reason:
        del state["stopping_reason"], state["stopping_reason_message"]
    ours, lightnings = EarlyStopping("val_loss"), LightningEarlyStopping("val_loss")
    ours.load_state_dict(state)
    lightnings.load_state_dict(state)
    assert ours.state_dict() == lightnings.state_dict()
    assert ours.wait_count == 2


def test_travels_to_workers() -> None:
    stopping = EarlyStopping("val_loss", patience=9)
    assert pickle.loads(pickle.dumps(stopping)).state_dict() == stopping.state_dict()
