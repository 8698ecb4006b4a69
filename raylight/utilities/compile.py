"""LightningModules that ``torch.compile`` has wrapped."""

from __future__ import annotations

from typing import Any

from raylight.utilities.model_helpers import is_lightning_module

COMPILED = ("forward", "training_step", "validation_step", "test_step", "predict_step")
"""Methods that are compiled."""


def from_compiled(model: Any) -> Any:
    """The LightningModule behind ``torch.compile(module)``, its steps compiled.

    Raises:
        ValueError: ``model`` is not compiled, or what was compiled is no LightningModule.
    """
    from torch._dynamo import OptimizedModule

    if not isinstance(model, OptimizedModule):
        raise ValueError(f"`model` is required to be a `OptimizedModule`. Found a `{type(model).__name__}` instead.")
    original: Any = model._orig_mod
    if not is_lightning_module(original):
        raise ValueError(
            f"`model` is expected to be a compiled LightningModule. Found a `{type(original).__name__}` instead"
        )
    own = {name: vars(original)[name] for name in COMPILED if name in vars(original)}
    for name in COMPILED:
        setattr(original, name, model.dynamo_ctx(getattr(original, name)))
    original._compiler_ctx = {"compiler": "dynamo", "dynamo_ctx": model.dynamo_ctx, "originals": own}
    return original


def to_uncompiled(model: Any) -> Any:
    """The LightningModule without compilation; changes what ``from_compiled`` returned, in place.

    Args:
        model: What ``torch.compile`` or ``from_compiled`` gave.

    Raises:
        ValueError: It is neither.
        TypeError: What was compiled is no LightningModule.
    """
    from torch._dynamo import OptimizedModule

    original: Any = model._orig_mod if isinstance(model, OptimizedModule) else model
    if isinstance(model, OptimizedModule):
        if not is_lightning_module(original):
            raise TypeError(
                f"Unexpected error, the wrapped model should be a LightningModule, found {type(original).__name__}"
            )
    elif not is_lightning_module(model):
        raise ValueError("`model` must either be an instance of OptimizedModule or LightningModule")
    elif getattr(model, "_compiler_ctx", None) is None:
        raise ValueError(
            "`model` is required to be a compiled LightningModule. Found a non-compiled LightningModule instead."
        )
    if getattr(original, "_compiler_ctx", None) is not None:
        for name in COMPILED:
            vars(original).pop(name, None)
        vars(original).update(original._compiler_ctx["originals"])  # the others are methods of the class
        original._compiler_ctx = None
    return original
