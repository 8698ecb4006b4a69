"""The ``loops`` part of a checkpoint: Lightning's nested counters, to and from where training stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Position:
    """Where training stands."""

    epoch: int = 0
    """Index of the epoch at work: epochs completed."""
    epoch_is_open: bool = False
    """Its start hooks are done."""
    epoch_is_over: bool = False
    """All of its batches are done, and its end hooks have begun."""
    batches_done: int = 0
    """Batches of this epoch that are trained on; counting goes on from there."""
    batch_is_open: bool = False
    """The last of these has not ended its hooks yet."""
    is_last_batch: bool = False
    total_batches: int = 0
    """Batches trained on, over all epochs."""
    global_step: int = 0
    """Optimizer steps."""
    logger_step: int = 0
    """Batches that stepped."""
    epoch_steps: int = 0
    """Optimizer steps in this epoch."""
    scheduler_steps: int = 0
    epoch_scheduler_steps: int = 0
    batches_begun: int = 0
    """1 where a batch has begun that is not trained on yet."""
    is_accumulating: bool = False
    """The batch at work ends without an optimizer step."""
    window_is_open: bool = False
    """Gradients of batches trained on wait for their optimizer step."""
    val_batches: int = 0
    """Batches of the last validation."""
    epoch_val_batches: int = 0
    """Batches of all validations of this epoch."""


def to_loops(position: Position, automatic: bool) -> dict[str, Any]:
    """Lightning 2.x's ``loops`` dict for a position in fit."""
    p = position
    open_batches = int(p.batch_is_open)
    steps = _steps(p.global_step, p.epoch_steps) if automatic else _steps(0)
    cleared = int(automatic and p.window_is_open)
    zero_grads = {
        name: dict.fromkeys(("ready", "started", "completed"), counts["completed"] + cleared)
        for name, counts in steps.items()
    }
    if automatic and p.batches_begun and not p.is_accumulating:
        for counts in steps.values():
            counts["ready"] += 1
    batches = {
        "total": _counts(p.total_batches, open_batches, p.batches_begun),
        "current": _counts(p.batches_done, open_batches, p.batches_begun),
        "is_last_batch": p.is_last_batch,
    }
    val_batches = {
        "total": _counts(p.epoch_val_batches),
        "current": _counts(p.val_batches),
        "is_last_batch": p.val_batches > 0,
    }
    epochs = {
        "ready": p.epoch + int(p.epoch_is_open),
        "completed": p.epoch,
        "started": p.epoch + int(p.epoch_is_open),
        "processed": p.epoch + int(p.epoch_is_over),
    }
    fit_loop = {
        "state_dict": {},
        "epoch_loop.state_dict": {"_batches_that_stepped": p.logger_step},
        "epoch_loop.batch_progress": batches,
        "epoch_loop.scheduler_progress": _steps(p.scheduler_steps, p.epoch_scheduler_steps),
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.automatic_optimization.optim_progress": {"optimizer": {"step": steps, "zero_grad": zero_grads}},
        "epoch_loop.manual_optimization.state_dict": {},
        "epoch_loop.manual_optimization.optim_step_progress": (
            _steps(0) if automatic else _steps(p.global_step, p.global_step)  # never reset
        ),
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": val_batches,
        "epoch_progress": {"total": dict(epochs), "current": dict(epochs)},
    }
    return {
        "fit_loop": fit_loop,
        "validate_loop": _evaluation_loop(),
        "test_loop": _evaluation_loop(),
        "predict_loop": {"state_dict": {}, "batch_progress": {"total": _counts(0), "current": _counts(0)}},
    }


def from_checkpoint(checkpoint: dict[str, Any]) -> Position:
    """The position that a checkpoint was saved at; without ``loops``, from its top-level epoch and global_step."""
    fit_loop = (checkpoint.get("loops") or {}).get("fit_loop")
    if not fit_loop or "epoch_progress" not in fit_loop:
        epoch, global_step = checkpoint.get("epoch", 0), checkpoint.get("global_step", 0)
        return Position(epoch=epoch, global_step=global_step, logger_step=global_step)

    def count(loop: str, *path: str) -> int:
        """A number of ``loop``; 0 where a file of an older version has none."""
        value = fit_loop.get(loop, {})
        for name in path:
            value = value.get(name, {})
        return value or 0

    def epochs(name: str) -> int:
        return count("epoch_progress", "current", name)

    def batches(name: str) -> int:
        return count("epoch_loop.batch_progress", "current", name)

    step = ("epoch_loop.automatic_optimization.optim_progress", "optimizer", "step")
    automatic = count(*step, "total", "completed")
    manual = count("epoch_loop.manual_optimization.optim_step_progress", "total", "completed")
    return Position(
        epoch=epochs("completed"),
        epoch_is_open=epochs("started") > epochs("completed"),
        epoch_is_over=epochs("processed") > epochs("completed"),
        batches_done=batches("processed"),
        batch_is_open=batches("processed") > batches("completed"),
        is_last_batch=bool(count("epoch_loop.batch_progress", "is_last_batch")),
        total_batches=count("epoch_loop.batch_progress", "total", "processed"),
        global_step=automatic or manual,
        epoch_steps=count(*step, "current", "completed"),
        logger_step=count("epoch_loop.state_dict", "_batches_that_stepped"),
        scheduler_steps=count("epoch_loop.scheduler_progress", "total", "completed"),
        epoch_scheduler_steps=count("epoch_loop.scheduler_progress", "current", "completed"),
        val_batches=count("epoch_loop.val_loop.batch_progress", "current", "ready"),
    )


def loader_states(checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    """The states of the training loaders that keep one; empty where none did."""
    fit_loop = (checkpoint.get("loops") or {}).get("fit_loop") or {}
    states: list[dict[str, Any]] = (fit_loop.get("state_dict") or {}).get("combined_loader", [])
    return states


def _counts(done: int, still_open: int = 0, begun: int = 0) -> dict[str, int]:
    return {"ready": done + begun, "completed": done - still_open, "started": done + begun, "processed": done}


def _steps(done: int, in_epoch: int = 0) -> dict[str, dict[str, int]]:
    return {"total": {"ready": done, "completed": done}, "current": {"ready": in_epoch, "completed": in_epoch}}


def _evaluation_loop() -> dict[str, Any]:
    return {
        "state_dict": {},
        "batch_progress": {"total": _counts(0), "current": _counts(0), "is_last_batch": False},
    }
