"""Train a part of the model first and the rest later: frozen modules, thawed epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from raylight.callbacks.base import Callback
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_info, rank_zero_warn
from raylight.utilities.signatures import requires

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView

Modules = nn.Module | Iterable[Any]
"""A module, or any nesting of iterables of them."""
ParamGroups = list[dict[str, Any]]


def multiplicative(epoch: int) -> float:
    """The default ``lambda_func`` of BackboneFinetuning: the backbone's rate doubles every epoch."""
    return 2.0


class BaseFinetuning(Callback):
    """Base of callbacks that freeze modules before training and thaw them later.

    A subclass freezes in ``freeze_before_training``, which is called before ``configure_optimizers``, and thaws in
    ``finetune_function``, which is called at the start of every epoch. The optimizer must be given only parameters
    that require gradients; those thawed later come in groups of their own.

    >>> class ThawFeatures(BaseFinetuning):
    ...     def freeze_before_training(self, pl_module):
    ...         self.freeze(pl_module.features)
    ...
    ...     def finetune_function(self, pl_module, epoch, optimizer):
    ...         if epoch == 10:
    ...             self.unfreeze_and_add_param_group(pl_module.features, optimizer)

    A training that is resumed goes on with the groups, and the thawed parameters, that it had.
    """

    def __init__(self) -> None:
        self._internal_optimizer_metadata: dict[int, ParamGroups] = {}
        """By index of the optimizer: its groups, with names of parameters for the parameters."""
        self._restarting = False

    # ------------------------------------------------------------------------------------------------ to be overridden

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        """Freeze what is not to be trained from the start."""
        raise NotImplementedError

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        """Thaw what is to be trained from ``epoch`` on; called for every optimizer at the start of every epoch."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------ tools

    @staticmethod
    def flatten_modules(modules: Modules) -> list[nn.Module]:
        """All modules in ``modules`` that are leaves, or have parameters of their own."""
        if isinstance(modules, nn.Module):
            return [module for module in modules.modules() if not list(module.children()) or module._parameters]
        return [module for each in modules for module in BaseFinetuning.flatten_modules(each)]

    @staticmethod
    def filter_params(modules: Modules, train_bn: bool = True, requires_grad: bool = True) -> Iterator[nn.Parameter]:
        """The parameters of ``modules`` that do, or do not, require gradients.

        Args:
            train_bn: False leaves out those of batch-norm layers.
            requires_grad: Which kind to give.
        """
        for module in BaseFinetuning.flatten_modules(modules):
            if isinstance(module, _BatchNorm) and not train_bn:
                continue
            for parameter in module.parameters(recurse=False):
                if parameter.requires_grad == requires_grad:
                    yield parameter

    @staticmethod
    def make_trainable(modules: Modules) -> None:
        """Let ``modules`` train, statistics of batch-norm layers included."""
        for module in BaseFinetuning.flatten_modules(modules):
            _set_trainable(module, True)

    @staticmethod
    def freeze_module(module: nn.Module) -> None:
        """Freeze the parameters of ``module`` itself, not those of its children."""
        _set_trainable(module, False)

    @staticmethod
    def freeze(modules: Modules, train_bn: bool = True) -> None:
        """Freeze ``modules``.

        Args:
            train_bn: Let batch-norm layers train nevertheless.
        """
        for module in BaseFinetuning.flatten_modules(modules):
            _set_trainable(module, train_bn and isinstance(module, _BatchNorm))

    @staticmethod
    def filter_on_optimizer(optimizer: Optimizer, params: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Those of ``params`` that the optimizer does not have yet; warns of the others."""
        known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        params = list(params)
        new = [parameter for parameter in params if id(parameter) not in known]
        if len(new) < len(params):
            rank_zero_warn(
                "The provided params to be frozen already exist within another group of this optimizer. Those "
                "parameters will be skipped.\n"
                "HINT: Did you init your optimizer in `configure_optimizer` as such:\n"
                f" {type(optimizer)}(filter(lambda p: p.requires_grad, self.parameters()), ...) "
            )
        return new

    @staticmethod
    def unfreeze_and_add_param_group(
        modules: Modules,
        optimizer: Optimizer,
        lr: float | None = None,
        initial_denom_lr: float = 10.0,
        train_bn: bool = True,
    ) -> None:
        """Let ``modules`` train, as a new group of the optimizer.

        Args:
            lr: The group's learning rate; None: that of the first group divided by ``initial_denom_lr``.
            train_bn: False leaves batch-norm layers out of the group.
        """
        BaseFinetuning.make_trainable(modules)
        rate = optimizer.param_groups[0]["lr"] / initial_denom_lr if lr is None else float(lr)
        params = BaseFinetuning.filter_params(modules, train_bn=train_bn, requires_grad=True)
        if new := BaseFinetuning.filter_on_optimizer(optimizer, params):
            optimizer.add_param_group({"params": new, "lr": rate})

    # ------------------------------------------------------------------------------------------------ hooks

    def setup(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        self.freeze_before_training(pl_module)

    def on_fit_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        """Bring back the groups of the training that goes on, after a checkpoint or an earlier ``fit``."""
        if self._restarting or trainer.current_epoch > 0:
            self._restore_groups(trainer, pl_module)
        else:
            self._internal_optimizer_metadata = {}
        self._restarting = False

    def on_train_epoch_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        trained_before = _trained(pl_module)
        for index, optimizer in enumerate(trainer.optimizers):
            known_groups = len(optimizer.param_groups)
            old = (index,) if requires(self.finetune_function, "opt_idx") else ()
            self.finetune_function(pl_module, trainer.current_epoch, optimizer, *old)
            self._store(pl_module, index, known_groups, optimizer.param_groups)
        if _trained(pl_module) != trained_before:
            trainer.strategy.rewrap()

    def state_dict(self) -> dict[str, Any]:
        return {"internal_optimizer_metadata": self._internal_optimizer_metadata}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restarting = True
        # the oldest files hold the groups alone
        self._internal_optimizer_metadata = state_dict.get("internal_optimizer_metadata", state_dict)

    # ------------------------------------------------------------------------------------------------ groups

    def _store(self, pl_module: LightningModule, opt_idx: int, num_param_groups: int, groups: ParamGroups) -> None:
        """Keep the groups of an optimizer that are not kept yet."""
        names = {parameter: name for name, parameter in pl_module.named_parameters()}
        stored = self._internal_optimizer_metadata
        if opt_idx not in stored:
            stored[opt_idx] = _with_params(groups, names)
        else:
            stored[opt_idx].extend(_with_params(groups[num_param_groups:], names))

    def _restore_groups(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        parameters = dict(pl_module.named_parameters())
        trained_before = _trained(pl_module)
        for index, optimizer in enumerate(trainer.optimizers):
            if (stored := self._internal_optimizer_metadata.get(index)) is None:
                continue
            num_configured = len(optimizer.param_groups)
            optimizer.param_groups = _with_params(stored, parameters)
            # setup() has frozen again what these groups were added for
            added = [parameter for group in optimizer.param_groups[num_configured:] for parameter in group["params"]]
            _thaw(pl_module, set(added))
        if _trained(pl_module) != trained_before:
            trainer.strategy.rewrap()


class BackboneFinetuning(BaseFinetuning):
    """Train the model's ``backbone`` from some epoch on, at a learning rate that grows to that of the rest.

    Args:
        unfreeze_backbone_at_epoch: 0-based epoch at whose start the backbone is thawed.
        lambda_func: ``lambda_func(epoch + 1)``: factor of the backbone's rate at the start of each later epoch.
        backbone_initial_ratio_lr: The backbone's first rate, as a share of the first group's.
        backbone_initial_lr: The backbone's first rate; None: ``backbone_initial_ratio_lr`` decides.
        should_align: Never let the backbone's rate exceed the first group's.
        initial_denom_lr: Accepted as in Lightning, where it has no effect: one of the two above always gives a rate.
        train_bn: Let the backbone's batch-norm layers train.
        verbose: Tell both rates at the start of each epoch.
        rounding: Digits of the rates that are told.

    Raises:
        MisconfigurationException: The model has no module ``backbone``, when training starts.
    """

    def __init__(
        self,
        unfreeze_backbone_at_epoch: int = 10,
        lambda_func: Callable[[int], float] = multiplicative,
        backbone_initial_ratio_lr: float = 10e-2,
        backbone_initial_lr: float | None = None,
        should_align: bool = True,
        initial_denom_lr: float = 10.0,
        train_bn: bool = True,
        verbose: bool = False,
        rounding: int = 12,
    ) -> None:
        super().__init__()
        self.unfreeze_backbone_at_epoch = unfreeze_backbone_at_epoch
        self.lambda_func = lambda_func
        self.backbone_initial_ratio_lr = backbone_initial_ratio_lr
        self.backbone_initial_lr = backbone_initial_lr
        self.should_align = should_align
        self.initial_denom_lr = initial_denom_lr
        self.train_bn = train_bn
        self.verbose = verbose
        self.rounding = rounding
        self.previous_backbone_lr: float | None = None

    def on_fit_start(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        _check_backbone(pl_module)
        super().on_fit_start(trainer, pl_module)

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        _check_backbone(pl_module)
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        if epoch < self.unfreeze_backbone_at_epoch:
            return
        rate = optimizer.param_groups[0]["lr"]
        if epoch == self.unfreeze_backbone_at_epoch:
            given = self.backbone_initial_lr
            backbone_rate = rate * self.backbone_initial_ratio_lr if given is None else given
            self.unfreeze_and_add_param_group(
                pl_module.backbone,
                optimizer,
                backbone_rate,
                initial_denom_lr=self.initial_denom_lr,
                train_bn=self.train_bn,
            )
        else:
            assert self.previous_backbone_lr is not None
            backbone_rate = self.lambda_func(epoch + 1) * self.previous_backbone_lr
            if self.should_align:
                backbone_rate = min(backbone_rate, rate)
            optimizer.param_groups[-1]["lr"] = backbone_rate
        self.previous_backbone_lr = backbone_rate
        if self.verbose:
            rank_zero_info(
                f"Current lr: {round(rate, self.rounding)}, Backbone lr: {round(backbone_rate, self.rounding)}"
            )

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "previous_backbone_lr": self.previous_backbone_lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.previous_backbone_lr = state_dict["previous_backbone_lr"]
        super().load_state_dict(state_dict)


def _check_backbone(pl_module: LightningModule) -> None:
    if not isinstance(getattr(pl_module, "backbone", None), nn.Module):
        raise MisconfigurationException(
            "The LightningModule should have a nn.Module `backbone` attribute: name the part to be thawed so."
        )


def _set_trainable(module: nn.Module, trainable: bool) -> None:
    """For the parameters of ``module`` itself, and its statistics."""
    if isinstance(module, _BatchNorm):
        module.track_running_stats = trainable
    for parameter in module.parameters(recurse=False):
        parameter.requires_grad = trainable


def _thaw(model: nn.Module, parameters: set[nn.Parameter]) -> None:
    for module in model.modules():
        if not parameters.isdisjoint(module.parameters(recurse=False)):
            _set_trainable(module, True)


def _trained(model: nn.Module) -> list[bool]:
    """Which parameters train."""
    return [parameter.requires_grad for parameter in model.parameters()]


def _with_params(groups: ParamGroups, mapping: dict[Any, Any]) -> ParamGroups:
    """Copies of ``groups`` whose ``params`` are replaced through ``mapping``."""
    return [{**group, "params": [mapping[param] for param in group["params"]]} for group in groups]
