"""Stochastic weight averaging as a flag of Lightning 1.x asked for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raylight.callbacks.stochastic_weight_avg import StochasticWeightAveraging

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView


class StochasticWeightAveragingAtOwnRate(StochasticWeightAveraging):  # type: ignore[misc, unused-ignore]
    """``Trainer(stochastic_weight_avg=True)``: averages at the learning rates that the optimizer has by then."""

    def __init__(self) -> None:
        super().__init__(swa_lrs=1.0)  # replaced before it is used

    def on_train_epoch_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if trainer.current_epoch <= self.swa_start:
            self._swa_lrs = [float(group["lr"]) for group in trainer.optimizers[0].param_groups]
        super().on_train_epoch_start(trainer, pl_module)
