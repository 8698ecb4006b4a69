"""Lightning 1.x as models and callbacks speak it, adapted to today's calls; asked once, when a call starts.

- ``training/validation/test_epoch_end(outputs)``: called with what the steps returned, before ``on_..._epoch_end``.
- ``training/validation/test_step_end(output)``: called with what a step returned; its result takes the place of that.
- Hooks with older arguments (``optimizer_idx``, a ``dataloader_idx`` that is always there): they get them.
- Several optimizers in automatic optimization (``training_step(batch, batch_idx, optimizer_idx)``): see
  ``raylight.worker.optimization``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from raylight.callbacks.legacy import OLD_HOOKS, old_listener
from raylight.core.legacy import BEFORE, TODAY
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_deprecation, rank_zero_warn
from raylight.utilities.signatures import POSITIONAL, count_required, has_argument

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.run import Run

OPTIMIZER_IDX = ("optimizer_idx", "opt_idx", "optimizer_i")

REMOVED = {
    "get_progress_bar_dict": "override get_metrics of a progress bar callback",
    "tbptt_split_batch": "split the batch in training_step, with manual optimization",
    "on_train_dataloader": "use setup or train_dataloader",
    "on_val_dataloader": "use setup or val_dataloader",
    "on_test_dataloader": "use setup or test_dataloader",
    "on_predict_dataloader": "use setup or predict_dataloader",
    "on_post_move_to_device": "tie the weights in configure_model",
    "on_hpc_save": "use on_save_checkpoint",
    "on_hpc_load": "use on_load_checkpoint",
}
"""Hooks of old that nothing calls any more, and what to use instead."""


def warn_of_old_hooks(model: LightningModule) -> None:
    """Name the model's methods that Lightning called once and nothing calls now, and those that have a new name."""
    for name, remedy in REMOVED.items():
        if callable(getattr(type(model), name, None)):
            rank_zero_warn(f"`{type(model).__name__}.{name}` is not called any more, in Lightning neither: {remedy}.")
    if "configure_sharded_model" in vars(type(model)):
        rank_zero_deprecation("`configure_sharded_model` is the old name of `configure_model`: rename it.")
    if getattr(model, "truncated_bptt_steps", 0):
        raise MisconfigurationException(
            f"`{type(model).__name__}.truncated_bptt_steps` is not supported, as in Lightning 2: split the batch in "
            "`training_step`, with `self.automatic_optimization = False`."
        )


def tell_of_old_methods(model: LightningModule, callbacks: list[Any]) -> None:
    """All that a call of fit would say of methods of Lightning 1.x, without a run."""
    warn_of_old_hooks(model)
    for name in ("training", "validation"):
        epoch_end_hook(model, name)
        step_end_hook(model, name)
    for hook in OLD_HOOKS:
        old_listener(model, hook, 0)
        for callback in callbacks:
            old_listener(callback, hook, 2)


# ------------------------------------------------------------------------------------------------ outputs


def epoch_end_hook(model: LightningModule, name: str) -> Callable[[Any], Any] | None:
    """The model's ``<name>_epoch_end(outputs)``, where name is "training", "validation" or "test"; None without one."""
    hook: Callable[[Any], Any] | None = getattr(model, f"{name}_epoch_end", None)
    if hook is not None:
        stage = "train" if name == "training" else name
        rank_zero_deprecation(
            f"`{name}_epoch_end(outputs)` is Lightning 1.x and keeps all outputs of an epoch in memory. Collect what "
            f"you need in `{name}_step` and use it in `on_{stage}_epoch_end`."
        )
    return hook


def end_epoch(run: Run, name: str, outputs: list[Any]) -> None:
    """Call the model's ``<name>_epoch_end`` with the outputs of an epoch's steps, which are forgotten then."""
    hook = f"{name}_epoch_end"
    outer, run.metrics.hook = run.metrics.hook, hook
    returned = getattr(run.model, hook)(outputs)
    run.metrics.hook = outer
    if returned is not None and name != "training":
        rank_zero_warn(f"What `{hook}` returns is not used, as in Lightning 1.x since 1.2: log it with self.log.")
    elif returned is not None:
        raise MisconfigurationException(
            f"`{hook}` expects a return of None. HINT: remove the return statement in `{hook}`; use self.log."
        )


def step_end_hook(model: LightningModule, name: str) -> Callable[[Any], Any] | None:
    """The model's ``<name>_step_end(output)``; None without one."""
    hook: Callable[[Any], Any] | None = getattr(model, f"{name}_step_end", None)
    if hook is not None:
        rank_zero_deprecation(f"`{name}_step_end(output)` is Lightning 1.x: do its work at the end of `{name}_step`.")
    return hook


def with_step_end(run: Run, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
    """``step`` followed by the model's ``<name>_step_end``, where it has one."""
    step_end = step_end_hook(run.model, name)
    if step_end is None:
        return step

    def both(*args: Any) -> Any:
        output = step(*args)
        outer, run.metrics.hook = run.metrics.hook, f"{name}_step_end"
        changed = step_end(output)
        run.metrics.hook = outer
        return output if changed is None else changed

    return both


# ------------------------------------------------------------------------------------------------ arguments


@dataclass
class ModelCalls:
    """The model's methods of ``TODAY``, to be called with the arguments named there."""

    optimizer_step: Callable[..., Any]
    optimizer_zero_grad: Callable[..., Any]
    configure_gradient_clipping: Callable[..., Any]
    lr_scheduler_step: Callable[..., Any]


def model_calls(run: Run) -> ModelCalls:
    """The model's own methods; those with the arguments of 1.x are given these."""
    return ModelCalls(**{name: _adapted(run, name) for name in TODAY})


def _adapted(run: Run, name: str) -> Callable[..., Any]:
    method = getattr(run.model, name)
    hooked: Callable[..., Any] = getattr(run.hooked, name)
    named = any(has_argument(method, argument) for argument in OPTIMIZER_IDX)
    if not named and count_required(method) <= len(TODAY[name]):
        return hooked
    rank_zero_deprecation(
        f"`{name}({', '.join(inspect.signature(method).parameters)})` has the arguments of Lightning 1.x; today's are "
        f"({', '.join(TODAY[name])})."
    )
    parameters = inspect.signature(method).parameters.values()
    takes_all = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    count = len(BEFORE[name]) if takes_all else sum(p.kind in POSITIONAL for p in parameters)

    def call(*args: Any, **named: Any) -> Any:
        values = {
            "optimizer": run.optimizers[run.optimizer_idx],
            **dict(zip(TODAY[name], args, strict=False)),
            **named,
            "on_tpu": False,
            "using_native_amp": run.precision.has_context,
            "using_lbfgs": isinstance(run.optimizers[run.optimizer_idx], torch.optim.LBFGS),
        }
        values["optimizer_idx"] = _index(run, values)
        return hooked(*[values[argument] for argument in BEFORE[name][:count]])

    return call


def backward_arguments(run: Run) -> Callable[[], tuple[Any, ...]]:
    """What the model's ``backward`` takes beside the loss: optimizer and optimizer_idx in 1.x, nothing today."""
    method = run.model.backward
    if not any(has_argument(method, argument) for argument in OPTIMIZER_IDX):
        return tuple
    rank_zero_deprecation("`backward(loss, optimizer, optimizer_idx)` is Lightning 1.x: take (loss).")
    return lambda: (run.optimizers[run.optimizer_idx], run.optimizer_idx)


def _index(run: Run, values: dict[str, Any]) -> int:
    """Of the optimizer that a scheduler drives, else of the one at work."""
    owner = getattr(values.get("scheduler"), "optimizer", None)
    driven = [index for index, optimizer in enumerate(run.optimizers) if optimizer is owner]
    return driven[0] if driven else run.optimizer_idx


HOOK_ARGUMENTS: dict[str, tuple[int, Callable[[Run], Any]]] = {
    "on_train_batch_start": (2, lambda run: 0),
    "on_train_batch_end": (3, lambda run: 0),
    **{
        f"on_{stage}_batch_{end}": (count, lambda run: 0)
        for stage in ("validation", "test", "predict")
        for end, count in (("start", 2), ("end", 3))
    },
    "on_before_optimizer_step": (1, lambda run: run.optimizer_idx),
    "on_train_epoch_end": (0, lambda run: run.epoch_outputs),
    "on_predict_epoch_end": (0, lambda run: run.predict_loop.by_loader),
}
"""Hooks that had one argument more: how many they have today, and the value of the other."""


def with_old_argument(run: Run, hook: str, listener: Callable[..., Any], required: int) -> Callable[..., Any]:
    """``listener``, which requires so many arguments, given the one more that its hook had in 1.x where it wants it."""
    if hook not in HOOK_ARGUMENTS:
        return listener
    count, value = HOOK_ARGUMENTS[hook]
    if required <= count:
        return listener

    @functools.wraps(listener)
    def called(*args: Any) -> Any:
        return listener(*args) if len(args) > count else listener(*args, value(run))

    return called


def add_old_hooks(run: Run, listeners: dict[str, list[Callable[..., Any]]]) -> None:
    """Have the hooks of old called beside those that took their place: of the callbacks first, then of the model."""
    for old, places in OLD_HOOKS.items():
        called = [
            functools.partial(run.recorder.call(_action(callback, old), method), run.trainer, run.model)
            for callback in run.callbacks
            if (method := old_listener(callback, old, 2)) is not None
        ]
        if old_listener(run.model, old, 0) is not None:
            called.append(getattr(run.hooked, old))
        for place in places if called else ():
            silent: list[Callable[..., Any]] = [functools.partial(_without_arguments, each) for each in called]
            first, last = (listeners[place], silent) if old.endswith("end") else (silent, listeners[place])
            listeners[place] = [*first, *last]


def _action(callback: Any, hook: str) -> str:
    return f"[Callback]{callback.state_key}.{hook}"


def _without_arguments(listener: Callable[[], Any], *args: Any) -> None:
    listener()


def tell_of_interrupt(run: Run) -> None:
    """Call ``on_keyboard_interrupt`` of the callbacks that have it."""
    for callback in run.callbacks:
        method = old_listener(callback, "on_keyboard_interrupt", 2)
        if method is not None:
            method(run.trainer, run.model)


def take_returned_state(callback: Any, returned: Any, checkpoint: dict[str, Any]) -> None:
    """What ``on_save_checkpoint`` of a callback returned was its state, before ``state_dict`` existed."""
    if returned:
        rank_zero_deprecation(
            f"`{type(callback).__name__}.on_save_checkpoint` returns a state, which is Lightning 1.x: use `state_dict`."
        )
        checkpoint["callbacks"][callback.state_key] = returned


def wants_own_state(callback: Any) -> bool:
    """Whether ``on_load_checkpoint`` of a callback is to be given its own state, not the whole checkpoint."""
    return has_argument(callback.on_load_checkpoint, "callback_state")


def needs_outputs(listeners: dict[str, list[Callable[..., Any]]]) -> bool:
    """Whether a listener of ``on_train_epoch_end`` requires the outputs of the epoch's steps."""
    return any(count_required(listener) > 0 for listener in listeners["on_train_epoch_end"])
