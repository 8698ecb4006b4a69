"""MetricStore, fed by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from raylight.strategies import SingleDeviceStrategy
from raylight.utilities.exceptions import MisconfigurationException
from raylight.worker.metrics import EPOCH_ONLY, LEVELS, MetricStore, reduction_name

DEFAULTS: dict[str, Any] = {
    "prog_bar": False, "logger": None, "on_step": None, "on_epoch": None, "reduce_fx": "mean", "enable_graph": False,
    "sync_dist": False, "sync_dist_group": None, "add_dataloader_idx": True, "metric_attribute": None,
    "rank_zero_only": False,
}  # fmt: skip


def log(store: MetricStore, name: str, value: Any, batch_size: int | None = 1, **flags: Any) -> None:
    """As ``LightningModule.log`` does it."""
    store.add(name, value, tuple({**DEFAULTS, **flags}.values()), batch_size)


def make(training: bool = True, hook: str | None = None, model: Any = None) -> MetricStore:
    store = MetricStore(model or nn.Module(), SingleDeviceStrategy(), training)
    store.hook = hook or ("training_step" if training else "validation_step")
    return store


def values(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def test_epoch_mean_is_weighted() -> None:
    store = make()
    for value, size in ((1.0, 3), (5.0, 1)):
        store.start_batch(torch.ones(size))
        log(store, "x", value, batch_size=None, on_epoch=True)
    assert values(store.logged_values()) == {"x_step": 5.0}
    store.end_batches()
    store.reduce_epoch()
    assert values(store.logged_values()) == {"x_epoch": 2.0}
    assert values(store.callback_values()) == {"x": 2.0, "x_epoch": 2.0}


@pytest.mark.parametrize(
    ("reduce_fx", "expected"), [("mean", 2.0), ("avg", 2.0), ("sum", 6.0), ("min", 1.0), ("max", 3.0)]
)
@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_reductions(reduce_fx: str, expected: float, kind: Any) -> None:
    store = make(training=False)
    for value in (2.0, 1.0, 3.0):
        store.start_batch(torch.ones(1))
        log(store, "x", kind(value), reduce_fx=reduce_fx)
    store.end_batches()
    store.reduce_epoch()
    assert values(store.logged_values()) == {"x": expected}


@pytest.mark.parametrize(("given", "name"), [("MEAN", "mean"), (torch.sum, "sum"), (torch.max, "max"), ("avg", "mean")])
def test_reduction_names(given: Any, name: str) -> None:
    assert reduction_name(given) == name


@pytest.mark.parametrize("given", ["median", abs, None, torch.median])
def test_no_reduction(given: Any) -> None:
    with pytest.raises(MisconfigurationException, match="min,max,mean,sum"):
        reduction_name(given)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_small_types_are_summed_in_single_precision(dtype: torch.dtype) -> None:
    """300 ones are more than bfloat16 can count."""
    store = make(training=False)
    for _ in range(300):
        store.start_batch(torch.ones(1))
        log(store, "x", torch.ones((), dtype=dtype), reduce_fx="sum")
    store.end_batches()
    store.reduce_epoch()
    assert store.logged_values()["x"].dtype == torch.float32
    assert values(store.logged_values()) == {"x": 300.0}


def test_single_precision_also_where_the_default_is_smaller() -> None:
    """As in the forward of bf16-true, where torch's default dtype is bfloat16."""
    store = make(training=False)
    torch.set_default_dtype(torch.bfloat16)
    try:
        for _ in range(300):
            store.start_batch(torch.ones(1))
            log(store, "x", torch.ones(()), reduce_fx="sum")
    finally:
        torch.set_default_dtype(torch.float32)
    store.end_batches()
    store.reduce_epoch()
    assert values(store.logged_values()) == {"x": 300.0}


def test_graph_is_let_go_unless_kept() -> None:
    store = make()
    x = torch.ones((), requires_grad=True)
    store.start_batch(torch.ones(1))
    log(store, "x", x * 2)
    log(store, "kept", x * 2, enable_graph=True)
    found = store.logged_values()
    assert (found["x"].requires_grad, found["kept"].requires_grad) == (False, True)


def test_names_by_loader() -> None:
    store = make(training=False)
    for index in range(2):
        store.start_batch(torch.ones(1), dataloader_idx=index)
        log(store, "x", float(index), on_step=True, on_epoch=True)
        log(store, "y", float(index), prog_bar=True)
        log(store, f"own_{index}", 7.0, add_dataloader_idx=False)
        assert values(store.logged_values()) == {f"x_step/dataloader_idx_{index}": float(index)}
    store.end_batches()
    store.reduce_epoch()
    assert values(store.progress_bar_values()) == {"y/dataloader_idx_0": 0.0, "y/dataloader_idx_1": 1.0}
    assert store.dataloader_values(2) == [
        {"x_epoch/dataloader_idx_0": 0.0, "y/dataloader_idx_0": 0.0, "own_0": 7.0},
        {"x_epoch/dataloader_idx_1": 1.0, "y/dataloader_idx_1": 1.0, "own_1": 7.0},
    ]


def test_evaluation_shows_callbacks_no_step() -> None:
    store = make(training=False)
    store.start_batch(torch.ones(1))
    log(store, "x", 1.0, on_step=True)
    assert store.callback_values() == {}


def test_reset_forgets_values_and_flags() -> None:
    store = make()
    log(store, "x", 1.0)
    store.reset()
    log(store, "x", 2.0, on_epoch=True)
    store.reduce_epoch()
    assert values(store.callback_values()) == {"x": 2.0, "x_epoch": 2.0}


def test_same_name_in_two_hooks() -> None:
    store = make()
    store.start_batch(torch.ones(1))
    log(store, "x", 1.0)
    store.hook = "on_train_batch_end"
    log(store, "x", 2.0, prog_bar=True)
    assert values(store.logged_values()) == {"x": 2.0}


def test_metric_objects() -> None:
    import torchmetrics

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleDict({"mean": torchmetrics.MeanMetric()})

    model = Model()
    metric = model.inner["mean"]
    store = make(model=model)
    for value in (1.0, 3.0):
        store.start_batch(torch.ones(1))
        metric(value)
        log(store, "m", metric, on_step=True, on_epoch=True)
        assert values(store.logged_values()) == {"m_step": value}
    store.end_batches()
    store.reduce_epoch()
    assert values(store.logged_values()) == {"m_epoch": 2.0}
    store.reset()
    assert metric.update_count == 0


def test_every_hook_has_one_rule() -> None:
    assert set(LEVELS) & EPOCH_ONLY == set()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"on_step": False, "on_epoch": False}, "not useful"),
        ({"sync_dist_group": object()}, "Reduce over the group yourself"),
    ],
)
def test_refused_flags(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(MisconfigurationException, match=said):
        log(make(), "x", 1.0, **flags)


def test_nothing_under_barebones() -> None:
    store = MetricStore(nn.Module(), SingleDeviceStrategy(), training=True, enabled=False)
    store.hook = "training_step"
    with pytest.warns(UserWarning, match="Logging can impact raw speed so it is disabled"):
        log(store, "x", 1.0)
    assert store.callback_values() == {}
