"""The hooks of a run, and their order.

``cb`` are the callbacks in their order, ``model`` the LightningModule, ``data`` the LightningDataModule::

    fit:
        model.configure_callbacks; data.prepare_data, model.prepare_data
        data.setup, cb.setup, model.setup; model.configure_model
        [from a checkpoint] cb.on_load_checkpoint, cb.load_state_dict, model.on_load_checkpoint
        model.configure_optimizers
        on_fit_start                                        # "on_..." alone: cb first, then model
        on_sanity_check_start, EVALUATE(validation), on_sanity_check_end
        on_train_start
        for each epoch:
            on_train_epoch_start
            for each batch:
                model.on_before_batch_transfer, transfer_batch_to_device, on_after_batch_transfer
                on_train_batch_start                        # model returns -1: the rest of the epoch is skipped
                model.training_step
                on_before_zero_grad, model.optimizer_zero_grad      # first batch of an accumulation window
                on_before_backward, model.backward, on_after_backward
                on_before_optimizer_step, model.configure_gradient_clipping, optimizer step   # last batch of it
                model.lr_scheduler_step
                on_train_batch_end
                if validation is due: EVALUATE(validation)
            cb.on_train_epoch_end (those that monitor nothing), model.on_train_epoch_end, the other callbacks
        on_train_end
        on_fit_end
        data.teardown, cb.teardown, model.teardown

    EVALUATE(stage), stage in validation, test, predict:
        model.on_<stage>_model_eval
        on_<stage>_start, on_<stage>_epoch_start
        for each batch: on_<stage>_batch_start, model.<stage>_step, on_<stage>_batch_end
        on_<stage>_epoch_end, on_<stage>_end
        model.on_<stage>_model_train

While a call runs, a callback has ``log`` and ``log_dict`` of the model: ``self.log(...)`` in a hook logs a metric.

Callbacks run in every worker, on a copy of the user's object; rank 0's ``state_dict`` and plain attributes come back
to the driver when the call ends. A hook nobody overrides costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.optim import Optimizer

    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView


class Callback:
    """Base of all callbacks: every hook does nothing."""

    _comes_last = False
    """After all others, whatever their order; ``on_train_epoch_end`` after the model's too."""

    _of_this_process: tuple[str, ...] = ()
    """Attributes that mean nothing to another process, such as times of its clock."""

    @property
    def state_key(self) -> str:
        """Name under which this callback's state stands in a checkpoint; must differ between two stateful callbacks."""
        return type(self).__qualname__

    def _generate_state_key(self, **settings: Any) -> str:
        """A key that tells apart several callbacks of one class by their ``settings``."""
        return f"{type(self).__qualname__}{settings!r}"

    def _listens_to(self, hook: str) -> bool:
        """Whether ``hook``, which this class overrides, has anything to do as this callback is set up.

        Asked once, when a call starts; False spares every batch the call of a hook that would do nothing.
        """
        return True

    # What stands in a checkpoint
    def state_dict(self) -> dict[str, Any]:
        """What to keep in a checkpoint; plain types and tensors only."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""

    def on_save_checkpoint(self, trainer: TrainerView, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint has been put together and is about to be written; it may be changed in place."""

    def on_load_checkpoint(self, trainer: TrainerView, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint has been read, before anything is restored from it."""

    # Once per call of fit, validate, test or predict
    def setup(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        """The call begins; ``stage`` is "fit", "validate", "test" or "predict"."""

    def teardown(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        """The call ends, whether or not it succeeded."""

    def on_exception(self, trainer: TrainerView, pl_module: LightningModule, exception: BaseException) -> None:
        """The call is about to end with ``exception``, KeyboardInterrupt included."""

    # fit
    def on_fit_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """Model, data and optimizers are ready."""

    def on_fit_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """Training and its clean-up are over."""

    def on_sanity_check_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """The validation sanity check begins."""

    def on_sanity_check_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """The validation sanity check ended."""

    def on_train_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """The first epoch of this call is about to begin."""

    def on_train_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """The last epoch of this call ended."""

    def on_train_epoch_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """An epoch begins."""

    def on_train_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """An epoch ended; callbacks that monitor a metric come after the model here."""

    def on_train_batch_start(
        self, trainer: TrainerView, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A batch is on the device."""

    def on_train_batch_end(
        self, trainer: TrainerView, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A batch has been trained on; ``outputs["loss"]`` is divided by the accumulation factor, as in Lightning."""

    def on_before_zero_grad(self, trainer: TrainerView, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Gradients are about to be cleared."""

    def on_before_backward(self, trainer: TrainerView, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """``loss.backward()`` comes next."""

    def on_after_backward(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """Gradients of this batch are there, not yet unscaled."""

    def on_before_optimizer_step(self, trainer: TrainerView, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Gradients are unscaled and not yet clipped."""

    # validate, and validation in fit
    def on_validation_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """Validation begins."""

    def on_validation_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """Validation ended and its metrics are in ``trainer.callback_metrics``."""

    def on_validation_epoch_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """The first validation batch comes next."""

    def on_validation_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """The last validation batch is done."""

    def on_validation_batch_start(
        self, trainer: TrainerView, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A batch is on the device."""

    def on_validation_batch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """``validation_step`` returned ``outputs``."""

    # test
    def on_test_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """Testing begins."""

    def on_test_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """Testing ended."""

    def on_test_epoch_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """The first test batch comes next."""

    def on_test_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """The last test batch is done."""

    def on_test_batch_start(
        self, trainer: TrainerView, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A batch is on the device."""

    def on_test_batch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """``test_step`` returned ``outputs``."""

    # predict
    def on_predict_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """Predicting begins."""

    def on_predict_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """Predicting ended."""

    def on_predict_epoch_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """The first batch to predict comes next."""

    def on_predict_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """The last batch to predict is done."""

    def on_predict_batch_start(
        self, trainer: TrainerView, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A batch is on the device."""

    def on_predict_batch_end(
        self,
        trainer: TrainerView,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """``predict_step`` returned ``outputs``."""


HOOKS: tuple[str, ...] = ("setup", "teardown", *(name for name in vars(Callback) if name.startswith("on_")))
"""Names of all hooks that a callback can have, in the order of this file."""
