"""Averages of the weights after each step or epoch, used in validation and at the end of training."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from raylight.callbacks.base import Callback
from raylight.core.module import LightningModule
from raylight.utilities.rank_zero import rank_zero_info, rank_zero_warn

if TYPE_CHECKING:
    from raylight.worker.trainer_view import TrainerView

PREFIX = "module."
"""Of the model's weights in torch's AveragedModel."""


class WeightAveraging(Callback):
    """Keep an average of the model's weights; validate with it, and end training with it.

    A checkpoint's ``state_dict`` holds the average; ``current_model_state`` the weights that training goes on from, and
    ``averaging_state`` the rest of torch's AveragedModel.

    >>> class EveryThousandSteps(WeightAveraging):
    ...     def should_update(self, step_idx=None, epoch_idx=None):
    ...         return step_idx is not None and step_idx % 1000 == 999

    Args:
        device: Where the average is kept; None: where the model is trained.
        use_buffers: Average buffers as well, such as the statistics of batch-norm layers; False leaves them as they
            were when training began.
        **kwargs: Other arguments of ``torch.optim.swa_utils.AveragedModel``: ``avg_fn`` or ``multi_avg_fn``. Without
            them the average is the mean.
    """

    def __init__(self, device: torch.device | str | int | None = None, use_buffers: bool = True, **kwargs: Any) -> None:
        self._device = torch.device(device) if isinstance(device, str) else device
        self._use_buffers = use_buffers
        self._kwargs = kwargs
        self._average_model: AveragedModel | None = None
        self._latest_update_step = 0
        """Optimizer steps taken at the last update."""
        self._latest_update_epoch = -1

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether to take the current weights into the average; to be overridden. By default, after every step.

        Args:
            step_idx: 0-based index of the optimizer step just taken; None at the end of an epoch.
            epoch_idx: 0-based index of the epoch that ends; None after a step.
        """
        return step_idx is not None

    # ------------------------------------------------------------------------------------------------ hooks

    def setup(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if getattr(type(pl_module), "configure_model") is not LightningModule.configure_model:  # noqa: B009
            rank_zero_warn(
                "You're using the WeightAveraging callback with a model that overrides the configure_model callback. "
                "WeightAveraging doesn't support sharding model layers, so you may run out of memory."
            )
            pl_module.configure_model()  # the copy needs all layers
        device = trainer.strategy.root_device if self._device is None else self._device
        self._average_model = AveragedModel(pl_module, device=device, use_buffers=self._use_buffers, **self._kwargs)
        self._latest_update_step = trainer.global_step
        self._latest_update_epoch = trainer.current_epoch - 1

    def on_train_batch_end(
        self, trainer: TrainerView, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        steps = trainer.global_step
        if steps > self._latest_update_step and self.should_update(step_idx=steps - 1):
            self._averaged().update_parameters(pl_module)
            self._latest_update_step = steps

    def on_train_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch
        if epoch > self._latest_update_epoch and self.should_update(epoch_idx=epoch):
            self._averaged().update_parameters(pl_module)
            self._latest_update_epoch = epoch

    def on_train_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self._copy_average_to_current(pl_module)

    def on_validation_epoch_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if self._average_model is not None:
            self._swap_models(pl_module)

    def on_validation_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if self._average_model is not None:
            self._swap_models(pl_module)

    # ------------------------------------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        return {"latest_update_step": self._latest_update_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._latest_update_step = state_dict["latest_update_step"]

    def on_save_checkpoint(self, trainer: TrainerView, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._average_model is None:
            rank_zero_info(
                "You're using the WeightAveraging callback, but saving a checkpoint outside the 'fit' stage. The state "
                "of the WeightAveraging callback won't be saved in the checkpoint. If training has finished, the "
                "average model parameters will be saved to the state_dict in the checkpoint."
            )
            return
        state = self._average_model.state_dict()
        weights = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = weights
        checkpoint["averaging_state"] = {k: value for k, value in state.items() if not k.startswith(PREFIX)}

    def on_load_checkpoint(self, trainer: TrainerView, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """The model has ``state_dict`` already."""
        if self._average_model is None:
            rank_zero_warn(
                "You're using the WeightAveraging callback, but loading a checkpoint outside the 'fit' stage. The "
                "WeightAveraging state cannot be restored. If you're using the checkpoint for prediction or testing, "
                "you can ignore this warning. To disable the warning, remove the WeightAveraging callback."
            )
        elif "current_model_state" in checkpoint and "averaging_state" in checkpoint:
            rank_zero_info("Found current_model_state in the checkpoint. This will be used to initialize the model.")
            weights = {PREFIX + name: value for name, value in checkpoint["state_dict"].items()}
            self._average_model.load_state_dict({**weights, **checkpoint["averaging_state"]})
            pl_module.load_state_dict(checkpoint["current_model_state"])
        else:
            rank_zero_warn(
                "The checkpoint was not created with WeightAveraging. Both the current and the average model will be "
                "initialized with state_dict."
            )
            self._average_model.module.load_state_dict(deepcopy(checkpoint["state_dict"]), strict=False)

    # ------------------------------------------------------------------------------------------------ weights

    def _averaged(self) -> AveragedModel:
        assert self._average_model is not None, "setup() makes it when fit begins"
        return self._average_model

    def _swap_models(self, pl_module: LightningModule) -> None:
        """Exchange the model's parameters and buffers for the averaged ones."""
        for average, current in self._pairs(pl_module):
            kept = average.clone()
            average.copy_(current)
            current.copy_(kept)

    def _copy_average_to_current(self, pl_module: LightningModule) -> None:
        for average, current in self._pairs(pl_module):
            current.copy_(average)

    def _pairs(self, pl_module: LightningModule) -> Iterator[tuple[Tensor, Tensor]]:
        """Each averaged parameter and buffer with the model's."""
        average = self._averaged().module
        for one, other in zip(_tensors(average), _tensors(pl_module), strict=True):
            yield one.data, other.data


class EMAWeightAveraging(WeightAveraging):
    """Keep an exponential moving average of the model's weights.

    Args:
        device: As for WeightAveraging.
        use_buffers: As for WeightAveraging.
        decay: Share of the old average in the new one.
        update_every_n_steps: Optimizer steps between two updates; 0: never after a step.
        update_starting_at_step: 0-based index of the first step after which to update; None: the first.
        update_starting_at_epoch: 0-based index of the first epoch at whose end to update as well; None: never.
        **kwargs: As for WeightAveraging, without ``avg_fn``.
    """

    def __init__(
        self,
        device: torch.device | str | int | None = None,
        use_buffers: bool = True,
        decay: float = 0.999,
        update_every_n_steps: int = 1,
        update_starting_at_step: int | None = None,
        update_starting_at_epoch: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(device=device, use_buffers=use_buffers, **kwargs, avg_fn=get_ema_avg_fn(decay=decay))
        self.update_every_n_steps = update_every_n_steps
        self.update_starting_at_step = update_starting_at_step
        self.update_starting_at_epoch = update_starting_at_epoch

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is not None:
            every, first = self.update_every_n_steps, self.update_starting_at_step or 0
            return every > 0 and step_idx >= first and step_idx % every == 0
        first_epoch = self.update_starting_at_epoch
        return first_epoch is not None and epoch_idx is not None and epoch_idx >= first_epoch


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(module.parameters(), module.buffers())
