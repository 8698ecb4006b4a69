"""What a rank needs beside a checkpoint to go on as if nothing had happened.

Random numbers, the loaders' place in the epoch, metrics in progress, and gradients that wait for their step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raylight.utilities import seed, tree
from raylight.worker import resizing
from raylight.worker.model_state import METRIC_COUNTERS, is_metric, metric_state, set_metric_state

if TYPE_CHECKING:
    from raylight.worker.run import Run


def dump(run: Run) -> dict[str, Any]:
    """This rank's own part, in plain types; its tensors are the run's own."""
    state = run.state
    within = run.train_data is not None and not state.epoch_is_over
    return {
        "epoch": state.epoch,
        "rng": _rng_state(run.strategy.device),
        "loaders": run.train_data.place(state.batches_trained) if within and run.train_data is not None else None,
        "share": run.train_data.share if within and run.train_data is not None else None,
        "done_by_all": run.train_data.done_by_all(state.batches_trained) if run.train_data is not None else None,
        "metrics": [] if state.epoch_is_over else run.fit_metrics.state_dict(),
        "torchmetrics": _metric_states(run),
        "gradients": _gradients(run),
    }


def restore(run: Run, state: dict[str, Any]) -> None:
    """Put back what ``dump`` gave, when the model, its optimizers and its loaders are there."""
    device = run.strategy.device
    if "former_world_size" in state:
        resizing.convert(run, state)
    if state["epoch"] == run.state.epoch:
        _restore_epoch(run, state, device)
    if state["rng"] is not None:
        _set_rng_state(device, state["rng"])
    else:
        seed.seed_rng(seed.global_seed() + run.strategy.global_rank + run.state.total_batches)


def _restore_epoch(run: Run, state: dict[str, Any], device: torch.device) -> None:
    """What belongs to the epoch that was at work, where it is not over since."""
    run.fit_metrics.load_state_dict(tree.to_device(state["metrics"], device))
    modules = dict(run.model.named_modules())
    for path, values in state["torchmetrics"].items():
        if path in modules:
            set_metric_state(modules[path], tree.to_device(values, device))
    parameters = dict(run.model.named_parameters())
    for name, gradient in state["gradients"].items():
        parameters[name].grad = gradient.to(device, copy=True)
    place = state["loaders"]
    if place is not None and run.train_data is not None:
        run.train_data.share = state.get("share")
        if run.train_data.is_exhausted(run.state.batches_done):  # it repeats one that does not count
            run.train_data.take_over(state["done_by_all"])
            return
        run.train_data.start(run.state.batches_done, place)


def _rng_state(device: torch.device) -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"cpu": seed.packed_rng_state(), "cuda": cuda}


def _set_rng_state(device: torch.device, state: dict[str, Any]) -> None:
    seed.set_packed_rng_state(state["cpu"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def _metric_states(run: Run) -> dict[str, Any]:
    """By module path; without those of an evaluation that is at work, which begin anew with it."""
    evaluated = run.metrics.logged_metrics if run.metrics is not run.fit_metrics else []
    return {
        path: {**metric_state(module), **{name: getattr(module, name, None) for name in METRIC_COUNTERS}}
        for path, module in run.model.named_modules()
        if is_metric(module) and not any(module is each for each in evaluated)
    }


def _gradients(run: Run) -> dict[str, Tensor]:
    """Those that wait for their step; in manual optimization all that are there."""
    if run.model.automatic_optimization and not run.state.position().window_is_open:
        return {}
    return {name: each.grad for name, each in run.model.named_parameters() if each.grad is not None}
