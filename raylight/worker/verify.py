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
    from raylight.worker.trainer_view import TrainerView

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
        if model.predict_step is None:
            raise MisconfigurationException("`predict_step` cannot be None to run `Trainer.predict`")
        if not overrides(model, "predict_step", LightningModule) and not overrides(model, "forward", LightningModule):
            raise MisconfigurationException("`Trainer.predict` requires `forward` method to run: or `predict_step`.")
    else:
        _require(model, step, fn)
    if trainer.config.limit(prefix) > 0 and not has_loader(prefix, model, data):
        _ask_in_vain(f"{prefix}_dataloader", fn, data.datamodule or model)
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
    if overrides(model, name, LightningModule):
        return
    if fn != TrainerFn.FITTING:
        raise MisconfigurationException(f"No `{name}()` method defined to run `Trainer.{fn}`.")
    raise MisconfigurationException(
        f"No `{name}()` method defined. Lightning `Trainer` expects as minimum a `training_step()`, "
        "`train_dataloader()` and `configure_optimizers()` to be defined."
    )


def _ask_in_vain(name: str, fn: TrainerFn, owner: LightningModule | LightningDataModule) -> None:
    """Raise what a missing loader raises: the base class does where the method is not overridden."""
    hook = getattr(owner, name)
    if hook is not None:
        hook()
    raise TypeError(
        f"An invalid dataloader was passed to `Trainer.{fn}({given_as(fn)}=...)`. Found None. Either pass the "
        f"dataloader to the `.{fn}()` method OR implement `def {name}(self):` in your "
        "LightningModule/LightningDataModule."
    )


def given_as(fn: TrainerFn) -> str:
    """The argument that a call's loaders are given as."""
    return "train_dataloaders" if fn == TrainerFn.FITTING else "dataloaders"


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
    if isinstance(trainer.config.num_workers, tuple) and trainer.config.elastic == "global_batch":
        raise MisconfigurationException(
            "num_workers=(min, max) keeps the global batch by accumulating gradients, which is not possible in manual "
            "optimization. Use elastic='local_batch', or a fixed num_workers."
        )
    if trainer.config.accumulate_grad_batches != 1:
        raise MisconfigurationException(
            "Automatic gradient accumulation is not supported for manual optimization. Remove "
            f"`Trainer(accumulate_grad_batches={trainer.config.accumulate_grad_batches})` and step the optimizer "
            "every so many batches yourself."
        )
