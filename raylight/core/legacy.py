"""What models of Lightning 1.x call on themselves, found where a model has nothing of that name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from raylight.utilities.rank_zero import rank_zero_deprecation
from raylight.utilities.signatures import has_argument

F = TypeVar("F", bound=Callable[..., Any])

TODAY: dict[str, tuple[str, ...]] = {
    "optimizer_step": ("epoch", "batch_idx", "optimizer", "optimizer_closure"),
    "optimizer_zero_grad": ("epoch", "batch_idx", "optimizer"),
    "configure_gradient_clipping": ("optimizer", "gradient_clip_val", "gradient_clip_algorithm"),
    "lr_scheduler_step": ("scheduler", "metric"),
}
"""Methods of a model that the loops call, and their arguments."""
BEFORE: dict[str, tuple[str, ...]] = {
    "optimizer_step": (
        "epoch", "batch_idx", "optimizer", "optimizer_idx", "optimizer_closure", "on_tpu", "using_native_amp",
        "using_lbfgs",
    ),
    "optimizer_zero_grad": ("epoch", "batch_idx", "optimizer", "optimizer_idx"),
    "configure_gradient_clipping": ("optimizer", "optimizer_idx", "gradient_clip_val", "gradient_clip_algorithm"),
    "lr_scheduler_step": ("scheduler", "optimizer_idx", "metric"),
}  # fmt: skip
"""The same in 1.x."""


def takes_old_arguments(method: F) -> F:
    """Decorate a method of ``TODAY`` to take the arguments of ``BEFORE`` too, as ``super()`` is given them."""
    today, before = TODAY[method.__name__], BEFORE[method.__name__]
    gone = set(before) - set(today)

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) + len(kwargs) <= len(today) and gone.isdisjoint(kwargs):
            return method(self, *args, **kwargs)
        given = {**dict(zip(before, args, strict=False)), **kwargs}
        return method(self, **{name: value for name, value in given.items() if name not in gone})

    return call  # type: ignore[return-value]


def toggle(model: Any, optimizer: Any, index: int) -> None:
    """The model's ``toggle_optimizer``, with the arguments that it takes."""
    method: Callable[..., None] = model.toggle_optimizer
    method(optimizer, index) if has_argument(method, "optimizer_idx") else method(optimizer)


def untoggle(model: Any, optimizer: Any, index: int) -> None:
    """Likewise ``untoggle_optimizer``, which in 1.x took the index."""
    method: Callable[..., None] = model.untoggle_optimizer
    method(index if has_argument(method, "optimizer_idx") else optimizer)


def _summarize(model: Any) -> Callable[..., Any]:
    def summarize(mode: str | None = "top", max_depth: int | None = None) -> Any:
        from raylight.utilities.model_summary import ModelSummary

        if max_depth is None:
            max_depth = {"top": 1, "full": -1}.get(mode or "", 0)
        return ModelSummary(model, max_depth=max_depth)

    return summarize


def _grad_norm(model: Any) -> Callable[..., Any]:
    def norms(norm_type: float | str, group_separator: str = "/") -> Any:
        from raylight.utilities.grads import grad_norm

        return grad_norm(model, norm_type, group_separator)

    return norms


def _bar_items(model: Any) -> Callable[[], dict[str, Any]]:
    def items() -> dict[str, Any]:
        version = getattr(model.logger, "version", None)
        return {} if version is None else {"v_num": version}

    return items


OLD_ATTRIBUTES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "summarize": (_summarize, "raylight.utilities.model_summary.ModelSummary(model, max_depth=1)"),
    "grad_norm": (_grad_norm, "raylight.utilities.grads.grad_norm(self, norm_type)"),
    "get_progress_bar_dict": (_bar_items, "get_metrics of a progress bar callback"),
    "datamodule": (lambda model: model.trainer.datamodule, "self.trainer.datamodule"),
    "use_amp": (
        lambda model: model._trainer is not None and model.trainer.precision.endswith("mixed"),
        "self.trainer.precision",
    ),
}
"""Name -> its value, and what to use instead."""


class OldAttributes:
    """Serves ``OLD_ATTRIBUTES``, each with a notice; what a model or its hyperparameters define comes first."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)  # type: ignore[misc]
        except AttributeError:
            if name not in OLD_ATTRIBUTES:
                raise
        value, instead = OLD_ATTRIBUTES[name]
        rank_zero_deprecation(f"`{type(self).__name__}.{name}` is Lightning 1.x: use {instead}.", stacklevel=7)
        return value(self)
