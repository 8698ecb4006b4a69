"""A run goes on with another number of workers: what its ranks had is divided anew.

Runs in every worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raylight.utilities.rank_zero import rank_zero_info
from raylight.worker.metrics import merge_entries
from raylight.worker.model_state import is_metric, merge_metric_states

if TYPE_CHECKING:
    from raylight.worker.run import Run


def merged(run: Run, parts: list[dict[str, Any]], rank: int) -> dict[str, Any]:
    """What ``rank`` of the run's workers goes on with, in the form of ``exact.dump``.

    Each has the part of the rank that it takes the place of, and what the ranks have gathered that have no successor.
    Random numbers, which are each rank's own, begin anew on a rank that there was not.

    Args:
        run: On the new workers.
        parts: What ``exact.dump`` gave on each of the former ranks.
        rank: Among the new ones.
    """
    own = parts[rank :: run.strategy.world_size]
    first = own[0] if own else parts[0]
    modules = dict(run.model.named_modules())
    gathered = {
        path: merge_metric_states(modules[path], [part["torchmetrics"][path] for part in own])
        for path in (first["torchmetrics"] if own else ())
        if path in modules
    }
    return {
        **first,
        "gradients": _mean([part["gradients"] for part in parts if part]),
        "generators": first["loaders"]["generators"] if first["loaders"] is not None else None,
        "rng": first["rng"] if own else None,
        "loaders": None,
        "metrics": merge_entries([part["metrics"] for part in own]),
        "torchmetrics": gathered,
        "former_world_size": len(parts),
    }


def convert(run: Run, state: dict[str, Any]) -> None:
    """Count batches as these workers do, and share the rest of the epoch among them.

    Args:
        run: Whose training data is there, and whose counters are still those of a former worker.
        state: What ``merged`` gave.
    """
    counters, data = run.state, run.train_data
    assert data is not None
    former = state["former_world_size"]
    counters.total_batches = round(counters.total_batches * former / run.strategy.world_size)
    if state["rng"] is None:  # a rank that there was not: what its Metrics have from the checkpoint is another's
        metrics: list[Any] = [module for module in run.model.modules() if is_metric(module)]
        for metric in metrics:
            metric.reset()
    if state["epoch"] != counters.epoch or not counters.batches_done:
        return
    done = state.get("done_by_all")
    if done is None:
        done = counters.batches_done * former
        rank_zero_info(
            f"The checkpoint was saved by a fixed number of {former} workers: where that is not the maximum of "
            "num_workers=(min, max), the order of samples in this epoch is another one now."
        )
    data.use_generators(state["generators"])
    counters.batches_done = counters.batches_trained = data.take_over(done)
    counters.batch_idx = counters.batches_done - 1


def _mean(gradients: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """As the workers would average them."""
    return {name: torch.stack([each[name] for each in gradients]).mean(0) for name in gradients[0]}
