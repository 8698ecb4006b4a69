"""Whether a call can work, asked on the driver before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raylight.config.messages import DataSource, TrainerFn
from raylight.core.datamodule import LightningDataModule
from raylight.core.module import LightningModule
from raylight.utilities.exceptions import MisconfigurationException
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
