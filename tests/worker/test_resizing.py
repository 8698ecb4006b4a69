"""What the ranks have gathered, after their number has changed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchmetrics import MeanMetric, MetricCollection, PearsonCorrCoef

from raylight.worker import resizing
from raylight.worker.metrics import merge_entries
from raylight.worker.model_state import METRIC_COUNTERS, is_metric, metric_state, set_metric_state


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scores = MetricCollection({"mean": MeanMetric()})


def states(model: torch.nn.Module) -> dict[str, Any]:
    return {
        path: {**metric_state(module), **{name: getattr(module, name) for name in METRIC_COUNTERS}}
        for path, module in model.named_modules()
        if is_metric(module)
    }


def part(value: float, gradient: float) -> dict[str, Any]:
    model = Model()
    model.scores["mean"].update(value, weight=1.0)
    entry = {
        "name": "loss", "hook": "training_step", "on_step": False, "on_epoch": True, "reduction": "mean",
        "prog_bar": False, "logger": True, "enable_graph": False, "sync_dist": True, "rank_zero_only": False,
        "dataloader_idx": None, "suffix": "", "total": torch.tensor(value), "weight": 1.0,
    }  # fmt: skip
    return {
        "torchmetrics": states(model), "metrics": [entry], "gradients": {"weight": torch.tensor(gradient)},
        "loaders": None, "rng": b"", "epoch": 0, "done_by_all": 4,
    }  # fmt: skip


def merged(model: Model, world_size: int, rank: int, parts: list[dict[str, Any]]) -> dict[str, Any]:
    run: Any = SimpleNamespace(model=model, strategy=SimpleNamespace(world_size=world_size))
    return resizing.merged(run, parts, rank)


def test_fewer_ranks_have_what_all_had() -> None:
    parts = [part(1.0, 1.0), part(2.0, 3.0), part(6.0, 5.0)]
    totals, means = [], []
    for rank in range(2):
        model = Model()
        state = merged(model, 2, rank, parts)
        for path, values in state["torchmetrics"].items():
            set_metric_state(model.get_submodule(path), values)
        means.append((float(model.scores["mean"].mean_value), float(model.scores["mean"].weight)))
        totals.append((float(state["metrics"][0]["total"]), state["metrics"][0]["weight"]))
        assert state["gradients"] == {"weight": torch.tensor(3.0)}
        assert state["rng"] == b""
    assert totals == means == [(7.0, 2.0), (2.0, 1.0)]


def test_a_rank_that_there_was_not_has_gathered_nothing() -> None:
    state = merged(Model(), 2, 1, [part(1.0, 1.0)])
    assert (state["rng"], state["metrics"], state["torchmetrics"]) == (None, [], {})


def test_extremes_and_sums() -> None:
    def entry(reduction: str, total: float) -> dict[str, Any]:
        return {**part(0.0, 0.0)["metrics"][0], "reduction": reduction, "total": torch.tensor(total)}

    found = [
        float(merge_entries([[entry(reduction, 1.0)], [entry(reduction, 3.0)]])[0]["total"])
        for reduction in ("min", "max", "sum")
    ]
    assert found == [1.0, 3.0, 4.0]


def test_a_state_that_cannot_be_merged_is_named() -> None:
    model = torch.nn.Module()
    model.add_module("correlation", PearsonCorrCoef())
    parts = [{**part(1.0, 1.0), "torchmetrics": states(model)} for _ in range(2)]
    with pytest.warns(UserWarning, match="of a PearsonCorrCoef cannot be merged"):
        merged(model, 1, 0, parts)  # type: ignore[arg-type]
