"""What is done to each batch before the model sees it: the transfer hooks, the device, the precision's dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raylight.utilities.model_helpers import is_overridden
from raylight.utilities.rank_zero import WarningCache
from raylight.utilities.signatures import accepts

if TYPE_CHECKING:
    from raylight.worker.run import Run

warning_cache = WarningCache()

HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
"""In the order of their calls."""


def find_transfers(run: Run) -> list[Callable[..., Any]]:
    """What must be done to a batch; nothing for a plain run on CPU."""
    found = {hook: step for hook in HOOKS if (step := _transfer_step(run, hook)) is not None}
    if run.recorder.records:
        move, after = found["transfer_batch_to_device"], found.pop("on_after_batch_transfer")
        found["transfer_batch_to_device"] = run.recorder.call(
            run.strategy_action("batch_to_device"), lambda batch, index: after(move(batch, index), index)
        )
    if run.precision.converts_input:
        return [lambda batch, _: run.precision.convert_input(batch), *found.values()]
    return list(found.values())


def _transfer_step(run: Run, hook: str) -> Callable[..., Any] | None:
    """``(batch, dataloader_idx) -> batch``: a transfer hook of the datamodule or the model; None: nothing to do."""
    moves = hook == "transfer_batch_to_device"
    owner = _owner_of(run, hook)
    if owner is None:
        if not run.recorder.records and not (moves and run.strategy.device.type != "cpu"):
            return None
        owner = run.hooked
    step: Callable[..., Any] = getattr(owner, hook)
    if moves and not accepts(step, "dataloader_idx", 3):  # as before Lightning 1.4
        return lambda batch, _: step(batch, run.strategy.device)
    return (lambda batch, index: step(batch, run.strategy.device, index)) if moves else step


def _owner_of(run: Run, hook: str) -> Any:
    """The datamodule or the model, whichever has its own ``hook``; the datamodule wins."""
    datamodule = run.source.datamodule
    if not is_overridden(hook, datamodule):
        return run.hooked if run.overrides(hook) else None
    if is_overridden(hook, run.model):
        warning_cache.warn(
            f"You have overridden `{hook}` in both `LightningModule` and `LightningDataModule`. It will use the "
            "implementation from `LightningDataModule` instance."
        )
    return run.hooked_data
