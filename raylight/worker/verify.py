"""Whether a call can work, asked on the driver before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylight.config.messages import DataSource, TrainerFn
from raylight.core.datamodule import LightningDataModule
from raylight.core.module import LightningModule
from raylight.utilities.exceptions import MisconfigurationException, UnpicklableError
from raylight.utilities.rank_zero import rank_zero_warn
from raylight.worker.listeners import overrides

if TYPE_CHECKING:
    from raylight.worker.state import TrainerView

STEPS = {
    TrainerFn.FITTING: ("training_step", "train"),
    TrainerFn.VALIDATING: ("validation_step", "val"),
    TrainerFn.TESTING: ("test_step", "test"),
    TrainerFn.PREDICTING: ("predict_step", "predict"),
}


def verify(trainer: TrainerView, fn: TrainerFn, model: LightningModule, data: DataSource) -> None:
    """Check that model and data have what ``fn`` needs.

    Raises:
        MisconfigurationException: A step, an optimizer or a loader is missing, or a flag cannot work with the model.
    """
    step, prefix = STEPS[fn]
    if fn == TrainerFn.PREDICTING:
        if not overrides(model, "predict_step", LightningModule) and not overrides(model, "forward", LightningModule):
            raise MisconfigurationException("`Trainer.predict` requires `forward` or `predict_step` to run.")
    else:
        _require(model, step, fn)
    if not has_loader(prefix, model, data):
        raise MisconfigurationException(
            f"An invalid dataloader was passed to `Trainer.{fn}({prefix}_dataloaders=...)`: there is none. Either pass "
            f"the dataloader to `.{fn}()`, or implement `def {prefix}_dataloader(self):` in your "
            "LightningModule/LightningDataModule."
        )
    if fn == TrainerFn.FITTING:
        _verify_fit(trainer, model, data)


def has_loader(prefix: str, model: LightningModule, data: DataSource) -> bool:
    """Whether "train", "val", "test" or "predict" data is given or can be asked for."""
    if getattr(data, prefix) is not None:
        return True
    name = f"{prefix}_dataloader"
    if data.datamodule is not None:
        return overrides(data.datamodule, name, LightningDataModule)
    return overrides(model, name, LightningModule)


def _require(model: LightningModule, name: str, fn: TrainerFn) -> None:
    if not overrides(model, name, LightningModule):
        raise MisconfigurationException(
            f"No `{name}()` method defined. `Trainer.{fn}` expects as minimum `{name}()` to be defined in "
            f"{type(model).__name__}."
        )


def _verify_fit(trainer: TrainerView, model: LightningModule, data: DataSource) -> None:
    _require(model, "configure_optimizers", TrainerFn.FITTING)
    validates, has_val = overrides(model, "validation_step", LightningModule), has_loader("val", model, data)
    if has_val and not validates:
        rank_zero_warn("You passed in a `val_dataloader` but have no `validation_step`. Skipping val loop.")
    if validates and not has_val:
        rank_zero_warn("You defined a `validation_step` but have no `val_dataloader`. Skipping val loop.")
    if model.automatic_optimization:
        return
    if trainer.config.gradient_clip_val:
        raise MisconfigurationException(
            "Automatic gradient clipping is not supported for manual optimization. Remove "
            f"`Trainer(gradient_clip_val={trainer.config.gradient_clip_val})` and call `self.clip_gradients` in "
            "`training_step`."
        )
    if trainer.config.accumulate_grad_batches != 1:
        raise MisconfigurationException(
            "Automatic gradient accumulation is not supported for manual optimization. Remove "
            f"`Trainer(accumulate_grad_batches={trainer.config.accumulate_grad_batches})` and step the optimizer "
            "every so many batches yourself."
        )


def verify_portable(model: Any, datamodule: Any, callbacks: list[Any]) -> None:
    """Check that everything can be sent to worker processes.

    Raises:
        UnpicklableError: Something cannot; the attribute is named.
    """
    named = [("model", model), ("datamodule", datamodule)]
    named += [(f"callback {type(callback).__name__}", callback) for callback in callbacks]
    for what, obj in named:
        if obj is None:
            continue
        error = _pickling_error(obj)
        if error is not None:
            path, culprit = _culprit(obj, type(obj).__name__)
            raise UnpicklableError(
                f"The {what} cannot be sent to the workers: {path} ({_describe(culprit)}) cannot be pickled. "
                "Create it in `setup()`, which runs in every worker, or use launcher='local'."
            ) from error


def _pickling_error(obj: Any) -> Exception | None:
    from ray import cloudpickle

    try:
        cloudpickle.dumps(obj)
    except Exception as error:  # whatever the object's class raises, it cannot travel
        return error
    return None


def _culprit(obj: Any, path: str) -> tuple[str, Any]:
    """The innermost attribute or item that cannot be pickled by itself, and the way to it."""
    items = [(f"{path}[{key!r}]", value) for key, value in obj.items()] if isinstance(obj, dict) else []
    if isinstance(obj, list | tuple):
        items = [(f"{path}[{index}]", value) for index, value in enumerate(obj)]
    state = obj.__getstate__() if hasattr(obj, "__getstate__") else getattr(obj, "__dict__", None)
    if isinstance(state, dict) and not items:
        items = [(f"{path}.{name}", value) for name, value in state.items()]
    for way, value in items:
        if _pickling_error(value) is not None:
            return _culprit(value, way)
    return path.replace("._modules['", ".").replace("']", ""), obj


def _describe(obj: Any) -> str:
    return f"a {type(obj).__module__}.{type(obj).__qualname__}"
