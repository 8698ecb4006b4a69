"""Uneven shards: a worker that has run out of batches repeats its last one, and the repetition counts for nothing.

So all workers take the same steps, call the same hooks and meet in the same collectives, and the gradient is the one
that torch's ``Join`` gives: the sum over those that have data, divided by the number of workers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from raylight.worker.model_state import is_metric, metric_state, set_metric_state

if TYPE_CHECKING:
    from raylight.worker.run import Run


def in_shadow(run: Run, step: Callable[..., Any]) -> Callable[..., Any]:
    """``step``, with a loss of weight 0 and nothing logged where the batch at work is a repetition."""

    def called(*args: Any) -> Any:
        if run.train_data is None or not run.train_data.in_shadow:
            return step(*args)
        with _unlogged(run):
            return _weightless(step(*args))

    return called


def _weightless(returned: Any) -> Any:
    if isinstance(returned, Tensor):
        return returned * 0.0
    if isinstance(returned, dict) and isinstance(returned.get("loss"), Tensor):
        return {**returned, "loss": returned["loss"] * 0.0}
    return returned


@contextlib.contextmanager
def _unlogged(run: Run) -> Iterator[None]:
    """What is logged inside goes nowhere, and Metrics keep their state."""
    kept = run.metrics
    run.metrics = run.make_metrics(training=True)
    run.metrics.start_batch(kept.batch)
    run.metrics.hook = kept.hook
    states = [(module, metric_state(module)) for module in run.model.modules() if is_metric(module)]
    try:
        yield
    finally:
        run.metrics = kept
        for module, state in states:
            set_metric_state(module, state)
