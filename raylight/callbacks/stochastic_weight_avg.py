"""Stochastic weight averaging: the mean of the weights of the last epochs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import SWALR

from raylight.callbacks.base import Callback
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_info, rank_zero_warn

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView

Average = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(average so far, new weights, how many are in the average) -> new average``"""


class StochasticWeightAveraging(Callback):
    """Average the weights of the last epochs, taken at their start, under a learning rate of its own.

    The model ends with the average. One that has batch-norm layers gets another epoch, in which batches only go
    forward, so that their statistics fit the average; its optimizer steps once more at the end of that epoch, on the
    gradients that are left, as it does in Lightning.

    Args:
        swa_lrs: Learning rate while averaging, of all parameter groups or a list of one for each.
        swa_epoch_start: Epoch, counted from 1, or share of ``max_epochs``, from which on weights are averaged.
        annealing_epochs: Epochs in which the learning rate goes over to ``swa_lrs``.
        annealing_strategy: "cos" or "linear".
        avg_fn: How the average takes in new weights, see ``avg_fn``; None: the mean.
        device: Where the average is kept; None: where the model is.

    Raises:
        MisconfigurationException: An argument cannot be; or, when training starts, the model has several optimizers or
            schedulers, or ``swa_epoch_start`` is a share of a number of epochs without limit.
    """

    def __init__(
        self,
        swa_lrs: float | list[float],
        swa_epoch_start: int | float = 0.8,
        annealing_epochs: int = 10,
        annealing_strategy: str = "cos",
        avg_fn: Average | None = None,
        device: torch.device | str | None = torch.device("cpu"),  # noqa: B008  immutable
    ) -> None:
        _check_start(swa_epoch_start)
        _check_rates(swa_lrs)
        if annealing_strategy not in ("cos", "linear"):
            raise MisconfigurationException(
                f"annealing_strategy should be 'cos' or 'linear'. Got {annealing_strategy!r}."
            )
        if avg_fn is not None and not callable(avg_fn):
            raise MisconfigurationException("The `avg_fn` should be callable.")
        if device is not None and not isinstance(device, torch.device | str):
            raise MisconfigurationException(f"device is expected to be a torch.device or a str. Found {device}")
        # What was asked for
        self._swa_lrs = swa_lrs
        self._swa_epoch_start = swa_epoch_start
        self._annealing_epochs = annealing_epochs
        self._annealing_strategy = annealing_strategy
        self._avg_fn = avg_fn or self.avg_fn
        self._device = device

        # Where it stands
        self.n_averaged: Tensor | None = None
        """How many weights are in the average; None before the first."""
        self.momenta: dict[_BatchNorm, float | None] = {}
        """Of the batch-norm layers, while their statistics are made anew."""
        self._max_epochs = 0
        """Without the epoch for batch-norm layers."""
        self._model_contains_batch_norm = False
        self._accumulate_grad_batches = 1
        self._average_model: LightningModule | None = None
        self._swa_scheduler: SWALR | None = None
        self._reset()

    def _reset(self) -> None:
        self.n_averaged = None
        self._initialized = False
        self._swa_scheduler = None
        self._scheduler_state: dict[str, Any] | None = None
        self._init_n_averaged = 0
        self._latest_update_epoch = -1

    @property
    def swa_start(self) -> int:
        """First epoch that is averaged, 0-based; known when training has started."""
        start = self._swa_epoch_start
        return max((int(start * self._max_epochs) if isinstance(start, float) else start) - 1, 0)

    @property
    def swa_end(self) -> float:
        """Last epoch that is averaged, 0-based; inf where ``max_epochs`` is -1."""
        return float("inf") if self._max_epochs == -1 else self._max_epochs - 1

    # ------------------------------------------------------------------------------------------------ hooks

    def setup(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        """Copy the model before it moves to its device."""
        if stage == "fit":
            self._reset()
            self._average_model = deepcopy(pl_module)

    def on_fit_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if len(trainer.optimizers) != 1:
            raise MisconfigurationException("SWA currently works with 1 `optimizer`.")
        if len(trainer.lr_scheduler_configs) > 1:
            raise MisconfigurationException("SWA currently not supported for more than 1 `lr_scheduler`.")
        assert trainer.max_epochs is not None
        if isinstance(self._swa_epoch_start, float) and trainer.max_epochs == -1:
            raise MisconfigurationException(
                "SWA with `swa_epoch_start` as a float is not supported when `max_epochs=-1`. Please provide "
                "`swa_epoch_start` as an integer."
            )
        self._max_epochs = trainer.max_epochs
        self._model_contains_batch_norm = self.pl_module_contains_batch_norm(pl_module)
        if self._updates_batch_norm:
            trainer.fit_loop.max_epochs = trainer.max_epochs + 1
        if self._scheduler_state is not None:
            trainer.lr_scheduler_configs.clear()

    def on_train_epoch_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch
        averaging = self.swa_start <= epoch <= self.swa_end
        if averaging and not self._initialized:
            self._start_averaging(trainer, pl_module)
        if averaging and epoch > self._latest_update_epoch:
            assert self._average_model is not None
            assert self.n_averaged is not None
            self.update_parameters(self._average_model, pl_module, self.n_averaged, self._avg_fn)
            self._latest_update_epoch = epoch
        if self._max_epochs != -1 and epoch == self.swa_end + 1:
            assert self._average_model is not None
            self.transfer_weights(self._average_model, pl_module)
            self._start_batch_norm_epoch(trainer, pl_module)

    def on_train_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        trainer.fit_loop._skip_backward = False

    def on_train_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        last_epoch = trainer.current_epoch - 1
        if self._updates_batch_norm and last_epoch == self.swa_end + 1:
            trainer.accumulate_grad_batches = self._accumulate_grad_batches
            trainer.fit_loop.max_epochs = self._max_epochs
            self.reset_momenta()
        elif (last_epoch == self.swa_end or self._max_epochs == -1) and self._average_model is not None:
            self.transfer_weights(self._average_model, pl_module)

    # ------------------------------------------------------------------------------------------------ averaging

    @property
    def _updates_batch_norm(self) -> bool:
        return self._model_contains_batch_norm and self._max_epochs != -1

    def _start_averaging(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """From this epoch on: our learning rates in place of the model's."""
        self._initialized = True
        assert self._average_model is not None
        self._average_model = self._average_model.to(self._device or pl_module.device)
        self._swa_scheduler = self._make_scheduler(trainer)
        if self._scheduler_state is not None:
            self._swa_scheduler.load_state_dict(self._scheduler_state)
        elif trainer.ckpt_path is not None and trainer.current_epoch != self.swa_start:
            rank_zero_warn(
                "SWA is initializing after swa_start without any checkpoint data. This may be caused by loading a "
                "checkpoint from an older version of PyTorch Lightning."
            )
        self._announce_swap(trainer)
        trainer.use_lr_scheduler(self._swa_scheduler)
        if self.n_averaged is None:
            self.n_averaged = torch.tensor(self._init_n_averaged, dtype=torch.long, device=pl_module.device)

    def _make_scheduler(self, trainer: TrainerView) -> SWALR:
        optimizer = trainer.optimizers[0]
        rates = self._swa_lrs if isinstance(self._swa_lrs, list) else [self._swa_lrs] * len(optimizer.param_groups)
        for rate, group in zip(rates, optimizer.param_groups, strict=False):  # SWALR itself complains of the number
            group["initial_lr"] = rate
        assert trainer.max_epochs is not None
        return SWALR(
            optimizer,
            swa_lr=rates,  # type: ignore[arg-type]
            anneal_epochs=self._annealing_epochs,
            anneal_strategy=self._annealing_strategy,  # type: ignore[arg-type]
            last_epoch=trainer.max_epochs if self._annealing_strategy == "cos" else -1,
        )

    def _announce_swap(self, trainer: TrainerView) -> None:
        for config in trainer.lr_scheduler_configs:
            if config.interval != "epoch" or config.frequency != 1:
                rank_zero_warn(f"SWA is currently only supported every epoch. Found {config}")
            rank_zero_info(f"Swapping scheduler `{type(config.scheduler).__name__}` for `SWALR`")

    def _start_batch_norm_epoch(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        self.reset_batch_norm_and_save_state(pl_module)
        trainer.fit_loop._skip_backward = True
        # More batches than there are: no step before the last one.
        self._accumulate_grad_batches = trainer.accumulate_grad_batches
        trainer.accumulate_grad_batches = int(min(trainer.num_training_batches + 1, sys.maxsize))

    @staticmethod
    def pl_module_contains_batch_norm(pl_module: LightningModule) -> bool:
        """Whether the model has batch-norm layers."""
        return any(isinstance(module, _BatchNorm) for module in pl_module.modules())

    @staticmethod
    def transfer_weights(src_pl_module: nn.Module, dst_pl_module: nn.Module) -> None:
        """Copy all parameters."""
        for source, target in zip(src_pl_module.parameters(), dst_pl_module.parameters(), strict=True):
            target.detach().copy_(source)

    def reset_batch_norm_and_save_state(self, pl_module: nn.Module) -> None:
        """Let batch-norm layers count anew: the plain mean over all batches to come."""
        self.momenta = {}
        for module in pl_module.modules():
            if isinstance(module, _BatchNorm):
                module.reset_running_stats()
                self.momenta[module] = module.momentum
                module.momentum = None

    def reset_momenta(self) -> None:
        """Undo what ``reset_batch_norm_and_save_state`` did to the momenta."""
        for module, momentum in self.momenta.items():
            module.momentum = momentum

    @staticmethod
    def update_parameters(average_model: nn.Module, model: nn.Module, n_averaged: Tensor, avg_fn: Average) -> None:
        """Take the weights of ``model`` into the average, and count them in ``n_averaged``."""
        is_first = bool(n_averaged == 0)
        for average, parameter in zip(average_model.parameters(), model.parameters(), strict=True):
            old, new = average.detach(), parameter.detach().to(average.device)
            old.copy_(new if is_first else avg_fn(old, new, n_averaged.to(average.device)))
        n_averaged += 1

    @staticmethod
    def avg_fn(averaged_model_parameter: Tensor, model_parameter: Tensor, num_averaged: Tensor) -> Tensor:
        """The mean of ``num_averaged`` weights and one more."""
        return averaged_model_parameter + (model_parameter - averaged_model_parameter) / (num_averaged + 1)

    # ------------------------------------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        return {
            "n_averaged": 0 if self.n_averaged is None else self.n_averaged.item(),
            "latest_update_epoch": self._latest_update_epoch,
            "scheduler_state": None if self._swa_scheduler is None else self._swa_scheduler.state_dict(),
            "average_model_state": None if self._average_model is None else self._average_model.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._init_n_averaged = state_dict["n_averaged"]
        self._latest_update_epoch = state_dict["latest_update_epoch"]
        self._scheduler_state = state_dict["scheduler_state"]
        weights = state_dict["average_model_state"]
        if self._average_model is not None and weights is not None:
            self._average_model.load_state_dict(weights)

    def on_load_checkpoint(self, trainer: TrainerView, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """SWALR's state must not go into the model's scheduler: ours is made when its epoch comes."""
        state = (checkpoint.get("callbacks") or {}).get(self.state_key)
        if state is not None and state["scheduler_state"] is not None:
            checkpoint["lr_schedulers"] = []


def _check_start(start: int | float) -> None:
    if (isinstance(start, int) and start < 1) or (isinstance(start, float) and not 0 <= start <= 1):
        raise MisconfigurationException(
            f"swa_epoch_start should be a >0 integer or a float between 0 and 1. Got {start!r}."
        )


def _check_rates(rates: float | list[float]) -> None:
    each = rates if isinstance(rates, list) else [rates]
    if not all(isinstance(rate, float) and rate > 0 for rate in each):
        raise MisconfigurationException(
            f"The `swa_lrs` should a positive float, or a list of positive floats. Got {rates!r}."
        )
