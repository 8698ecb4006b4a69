"""One training batch: forward, backward, and the step of one or more optimizers."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raylight.core.legacy import toggle, untoggle
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_warn
from raylight.utilities.signatures import accepts, has_argument, requires
from raylight.worker import legacy
from raylight.worker.shadow import in_shadow

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from raylight.worker.run import Run

Step = Callable[..., Any]
"""The user's training step: ``(batch, batch_idx) -> its result``."""


def batch_trainer(run: Run) -> Callable[[Any, int], Any]:
    """What trains on a batch, ``(batch, batch_idx) -> outputs``, for this model."""
    train = run.recorder.call("run_training_batch", _batch_trainer(run, training_step_caller(run)))
    outputs = run.epoch_outputs
    if outputs is None:
        return train

    def keeping(batch: Any, batch_idx: int) -> Any:
        output = train(batch, batch_idx)
        if output != {}:  # skipped by returning None
            outputs.append(output)
        return output

    return keeping


def _batch_trainer(run: Run, step: Step) -> Callable[[Any, int], Any]:
    if run.throughput is not None:
        step = run.throughput.watch_step(step, synchronizes=not run.model.automatic_optimization)
    if not run.model.automatic_optimization:
        return functools.partial(_train_batch_manually, run, step)
    if not run.optimizers:
        raise MisconfigurationException("configure_optimizers returned no optimizer; return None to train without.")
    if run.state.skip_backward:
        return functools.partial(_train_batch_forward_only, run, step)
    train = _train_batch_with_closure if run.needs_closure else train_batch
    if len(run.optimizers) > 1:
        return functools.partial(_train_batch_with_each, run, train, step)
    return functools.partial(train, run, step)


def training_step_caller(run: Run) -> Step:
    """Calls the model's training_step, through the strategy's wrapper, with the arguments that it takes."""
    user_step = run.model.training_step
    step = run.recorder.call(run.strategy_action("training_step"), run.strategy.training_step())
    step = legacy.with_step_end(run, "training", step)
    if has_argument(user_step, "dataloader_iter"):
        return functools.partial(_step_with_iterator, run, step)
    if run.train_data is not None and run.train_data.is_uneven:
        step = in_shadow(run, step)
    if len(run.optimizers) > 1 and run.model.automatic_optimization:
        return step
    if requires(user_step, "optimizer_idx"):
        return lambda batch, batch_idx: step(batch, batch_idx, 0)
    if accepts(user_step, "batch_idx", 2):
        return step
    return lambda batch, batch_idx: step(batch)


def _step_with_iterator(run: Run, step: Step, dataloader_iter: Any, batch_idx: int) -> Any:
    """``training_step(dataloader_iter)`` takes as many batches as it likes."""
    returned = step(dataloader_iter)
    run.state.is_last_batch = dataloader_iter.done
    return returned


def train_batch(run: Run, step: Step, batch: Any, batch_idx: int, optimizer_idx: int = 0) -> Any:
    """Automatic optimization of one batch; the optimizer steps at the end of an accumulation window."""
    optimizer = run.optimizers[optimizer_idx]
    if run.state.is_accumulating:
        with run.strategy.no_sync() if run.strategy.distributed else _NOTHING:
            return forward_backward(run, step, optimizer, batch, batch_idx)
    outputs = forward_backward(run, step, optimizer, batch, batch_idx)
    if run.prepares_step:
        run.before_step(optimizer)
    run.precision.step(optimizer)
    run.state.global_step += 1
    return outputs


_NOTHING: contextlib.AbstractContextManager[None] = contextlib.nullcontext()


def forward_backward(run: Run, step: Step, optimizer: Optimizer, batch: Any, batch_idx: int) -> Any:
    """training_step, then clear the gradients (at the start of a window), then backward.

    Returns:
        What ``on_train_batch_end`` is given: the loss, divided by the accumulation factor and detached, in a dict.
    """
    metrics, accumulate = run.metrics, run.state.accumulate_grad_batches
    metrics.hook = "training_step"
    if run.precision.has_context:
        with run.precision.train_step_context():
            returned = step(batch, batch_idx)
    else:
        returned = step(batch, batch_idx)
    metrics.hook = None
    loss = returned if isinstance(returned, Tensor) else loss_of(returned, run)
    if loss is not None and accumulate > 1:
        loss = loss / accumulate
    if batch_idx % accumulate == 0:
        if run.hears_zero_grad:
            _zero_grad(run, optimizer, batch_idx)
        else:
            optimizer.zero_grad()
    if loss is None:
        return {}
    if run.hears_backward:
        run.announced_backward(loss)
    else:
        run.precision.scale_loss(loss).backward()
    if not run.keeps_outputs:
        return None
    extra = returned if isinstance(returned, dict) else {}
    return {**extra, "loss": loss.detach()}


def loss_of(returned: Any, run: Run) -> Tensor | None:
    """The loss in what training_step returned other than a tensor.

    Raises:
        MisconfigurationException: There is none.
        RuntimeError: None, where other workers wait for this one's gradients.
    """
    if returned is None:
        if run.strategy.world_size > 1:
            raise RuntimeError(
                "Skipping the `training_step` by returning None in distributed training is not supported. It is "
                "recommended that you rewrite your training logic to avoid having to skip the step in the first place."
            )
        rank_zero_warn("`training_step` returned `None`. If this was on purpose, ignore this warning...")
        return None
    if isinstance(returned, dict) and isinstance(returned.get("loss"), Tensor):
        loss: Tensor = returned["loss"]
        return loss
    if isinstance(returned, dict) and "loss" not in returned:
        raise MisconfigurationException(
            "In automatic_optimization, when `training_step` returns a dict, the 'loss' key needs to be present"
        )
    raise MisconfigurationException(
        "In automatic optimization, `training_step` must return a Tensor, a dict, or None (where the step will be "
        f"skipped). It returned a {type(returned).__name__}."
    )


def _zero_grad(run: Run, optimizer: Optimizer, batch_idx: int) -> None:
    """``optimizer.zero_grad()`` for a model that hears of it."""
    run.notify("on_before_zero_grad", optimizer)
    run.metrics.hook = "optimizer_zero_grad"
    run.calls.optimizer_zero_grad(run.state.epoch, batch_idx, optimizer)
    run.metrics.hook = None


def _train_batch_with_closure(run: Run, step: Step, batch: Any, batch_idx: int, optimizer_idx: int = 0) -> Any:
    """For an optimizer that calls the training step itself (LBFGS), or a model that overrides optimizer_step."""
    optimizer = run.optimizers[optimizer_idx]
    if run.state.is_accumulating:
        return train_batch(run, step, batch, batch_idx, optimizer_idx)
    outputs: Any = _NEVER_RUN

    def closure() -> Any:
        nonlocal outputs
        with torch.enable_grad():
            outputs = forward_backward(run, step, optimizer, batch, batch_idx)
        run.metrics.hook = "optimizer_step"
        return outputs.get("loss") if isinstance(outputs, dict) else None

    run.metrics.hook = "optimizer_step"
    run.calls.optimizer_step(run.state.epoch, batch_idx, run.lightning_optimizers[optimizer_idx], closure)
    if outputs is _NEVER_RUN:
        raise MisconfigurationException(
            "The closure hasn't been executed. HINT: did you call `optimizer_closure()` in your `optimizer_step` hook? "
            "It could also happen because the `optimizer.step(optimizer_closure)` call did not execute it internally."
        )
    run.state.global_step += 1
    run.metrics.hook = None
    return outputs


_NEVER_RUN = object()


def _train_batch_forward_only(run: Run, step: Step, batch: Any, batch_idx: int) -> Any:
    """training_step alone; at the epoch's end the optimizer steps on the gradients that are left, as in Lightning."""
    outputs: Any = None

    def closure() -> Any:
        nonlocal outputs
        with torch.enable_grad(), run.strategy.no_sync() if run.strategy.distributed else _NOTHING:
            outputs = _train_batch_manually(run, step, batch, batch_idx)
        return outputs.get("loss")

    if run.state.is_accumulating:
        closure()
        return outputs
    if run.precision.scaler is None:
        run.calls.optimizer_step(run.state.epoch, batch_idx, run.lightning_optimizers[0], closure)
    else:
        closure()  # the gradients that are left are unscaled already, which the scaler would not know
    run.state.global_step += 1
    return outputs


def _train_batch_manually(run: Run, step: Step, batch: Any, batch_idx: int) -> Any:
    """training_step does everything."""
    run.metrics.hook = "training_step"
    if run.precision.has_context:
        with run.precision.train_step_context():
            returned = step(batch, batch_idx)
    else:
        returned = step(batch, batch_idx)
    run.metrics.hook = None
    if isinstance(returned, Tensor):
        return {"loss": returned.detach()}
    if returned is not None and not isinstance(returned, dict):
        raise MisconfigurationException(
            "In manual optimization, `training_step` must either return a Tensor or have no return."
        )
    return {} if returned is None else returned


# ------------------------------------------------------------------------------------------------ several optimizers


def active_optimizers(run: Run, batch_idx: int) -> list[int]:
    """Indices of the optimizers that a batch is for: all, or the one whose turn it is by their frequencies."""
    if not run.frequencies:
        return list(range(len(run.optimizers)))
    place = batch_idx % sum(run.frequencies)
    return [next(i for i, end in enumerate(itertools.accumulate(run.frequencies)) if place < end)]


def _train_batch_with_each(run: Run, train: Callable[..., Any], step: Step, batch: Any, batch_idx: int) -> list[Any]:
    """Train with each optimizer whose turn it is; gradients flow to its own parameters only.

    Returns:
        A list of their outputs, as in Lightning 1.x.
    """
    outputs = []
    for index in active_optimizers(run, batch_idx):
        with _at_work(run, index):
            outputs.append(train(run, lambda b, i, index=index: step(b, i, index), batch, batch_idx, index))
    return outputs


@contextlib.contextmanager
def _at_work(run: Run, index: int) -> Iterator[None]:
    run.optimizer_idx = index
    optimizer = run.optimizers[index]
    toggle(run.model, optimizer, index)
    try:
        yield
    finally:
        untoggle(run.model, optimizer, index)
