"""Prune weights while training."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor, nn
from torch.nn.utils import prune

from raylight.callbacks.base import Callback
from raylight.core.module import LightningModule
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_info

if TYPE_CHECKING:
    from raylight.worker.trainer_view import TrainerView

Parameter: TypeAlias = tuple[nn.Module, str]
"""A module and the name of one of its parameters."""
Zeros: TypeAlias = tuple[int, int]
"""How many weights are masked, of how many."""

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "ln_structured": prune.ln_structured,
    "l1_unstructured": prune.l1_unstructured,
    "random_structured": prune.random_structured,
    "random_unstructured": prune.random_unstructured,
}
METHODS: dict[str, type[prune.BasePruningMethod]] = {
    "ln_structured": prune.LnStructured,
    "l1_unstructured": prune.L1Unstructured,
    "random_structured": prune.RandomStructured,
    "random_unstructured": prune.RandomUnstructured,
}
CONTAINERS = (LightningModule, nn.Sequential, nn.ModuleList, nn.ModuleDict)


class ModelPruning(Callback):
    """Prune the model with ``torch.nn.utils.prune``, at the end of each epoch.

    Args:
        pruning_fn: "l1_unstructured", "random_unstructured", "ln_structured", "random_structured", or a subclass of
            ``torch.nn.utils.prune.BasePruningMethod`` (the class).
        parameters_to_prune: ``(module, name of its parameter)`` of each. Empty: all of the model's that have a name in
            ``parameter_names``; override ``filter_parameters_to_prune`` to leave some out.
        parameter_names: "weight", "bias" or both. None: both.
        use_global_unstructured: Whether the weights of all parameters compete, or each parameter is pruned by itself.
        amount: Share (float, 0 to 1) or number (int) of the weights that are left to prune each time, or a function of
            the epoch that gives it.
        apply_pruning: Whether to prune; or a function of the epoch that tells.
        make_pruning_permanent: Whether the model, when training ends, and checkpoints hold plain, pruned weights rather
            than weights and masks.
        use_lottery_ticket_hypothesis: Whether the weights that are left go back to their first values after each
            pruning; or a function of the epoch that tells.
        resample_parameters: For that: draw new values (``reset_parameters`` of the module) in place of the first ones.
        pruning_dim: Dimension for the "structured" functions.
        pruning_norm: Order of the norm for "ln_structured".
        verbose: 1: log how many weights are pruned; 2: for each parameter too.
        prune_on_train_epoch_end: Prune when the training epoch ends, or when validation ends.

    Raises:
        MisconfigurationException: A value or a combination is not possible; in ``setup``, if a parameter is none of the
            model's.

    See https://arxiv.org/abs/1803.03635 for the lottery ticket hypothesis.
    """

    PARAMETER_NAMES = ("weight", "bias")

    def __init__(
        self,
        pruning_fn: Callable[..., Any] | str,
        parameters_to_prune: Sequence[Parameter] = (),
        parameter_names: list[str] | None = None,
        use_global_unstructured: bool = True,
        amount: int | float | Callable[[int], int | float] = 0.5,
        apply_pruning: bool | Callable[[int], bool] = True,
        make_pruning_permanent: bool = True,
        use_lottery_ticket_hypothesis: bool | Callable[[int], bool] = True,
        resample_parameters: bool = False,
        pruning_dim: int | None = None,
        pruning_norm: int | None = None,
        verbose: int = 0,
        prune_on_train_epoch_end: bool = True,
    ) -> None:
        for name in parameter_names or ():
            if name not in self.PARAMETER_NAMES:
                raise MisconfigurationException(
                    f"The provided `parameter_names` name: {name} isn't in {self.PARAMETER_NAMES}"
                )
        if not isinstance(amount, int | float) and not callable(amount):
            raise MisconfigurationException(
                "`amount` should be provided and be either an int, a float or Callable function."
            )
        if verbose not in (0, 1, 2):
            raise MisconfigurationException("`verbose` must be any of (0, 1, 2)")
        self.amount = amount
        self._parameters_to_prune = parameters_to_prune
        self._parameter_names = parameter_names or self.PARAMETER_NAMES
        self._use_global_unstructured = use_global_unstructured
        self._apply_pruning = apply_pruning
        self._make_pruning_permanent = make_pruning_permanent
        self._use_lottery_ticket_hypothesis = use_lottery_ticket_hypothesis
        self._resample_parameters = resample_parameters
        self._verbose = verbose
        self._prune_on_train_epoch_end = prune_on_train_epoch_end
        self._settings: dict[str, Any] = {}
        """Arguments of the pruning function beside the amount."""
        self._pruning_method_name = ""
        self._original_modules: dict[int, nn.Module] = {}
        """Copies of the modules as they were in ``setup``, by the id of the module."""
        self.pruning_fn = self._resolve_pruning_fn(pruning_fn, pruning_dim, pruning_norm)

    def _resolve_pruning_fn(self, given: Any, dim: int | None, norm: int | None) -> Callable[..., Any]:
        """The class for global pruning; the function for pruning each parameter by itself."""
        if isinstance(given, str):
            self._settings = _settings_of(given.lower(), dim, norm)
            method = METHODS[given.lower()]
        elif inspect.isclass(given) and issubclass(given, prune.BasePruningMethod):
            if not self._use_global_unstructured:
                raise MisconfigurationException(
                    "PyTorch `BasePruningMethod` is currently only supported with `use_global_unstructured=True`."
                )
            method = given
        else:
            raise MisconfigurationException(
                f"`pruning_fn` is expected to be a str in {list(FUNCTIONS)} or a PyTorch `BasePruningMethod`. "
                f"Found: {given}. HINT: if passing a `BasePruningMethod`, pass the class, not an instance"
            )
        if self._use_global_unstructured:
            if method.PRUNING_TYPE != "unstructured":  # type: ignore[attr-defined]
                raise MisconfigurationException(
                    'Only the "unstructured" PRUNING_TYPE is supported with `use_global_unstructured=True`. '
                    f"Found method {method} of type {method.PRUNING_TYPE}."  # type: ignore[attr-defined]
                )
            self._pruning_method_name = method.__name__
            return method
        function = FUNCTIONS[given.lower()]
        self._pruning_method_name = function.__name__
        return functools.partial(function, **self._settings)

    # What to prune

    def filter_parameters_to_prune(self, parameters_to_prune: Sequence[Parameter] = ()) -> Sequence[Parameter]:
        """Those that are to be pruned; override it to leave some out."""
        return parameters_to_prune

    @staticmethod
    def sanitize_parameters_to_prune(
        pl_module: LightningModule,
        parameters_to_prune: Sequence[Parameter] = (),
        parameter_names: Sequence[str] = (),
    ) -> Sequence[Parameter]:
        """``parameters_to_prune``, or, if there are none, all of the model's that have one of ``parameter_names``.

        Raises:
            MisconfigurationException: One of them is not in the model, or they are no list of pairs.
        """
        modules = [module for module in pl_module.modules() if not isinstance(module, CONTAINERS)]
        if not parameters_to_prune:
            names = parameter_names or ModelPruning.PARAMETER_NAMES
            return [
                (module, name)
                for name in names
                for module in modules
                if isinstance(getattr(module, name, None), nn.Parameter)
            ]
        if not _are_pairs(parameters_to_prune):
            raise MisconfigurationException(
                "The provided `parameters_to_prune` should either be list of tuple with 2 elements: (nn.Module, "
                "parameter_name_to_prune) or None"
            )
        missing_modules = [module for module, _ in parameters_to_prune if module not in modules]
        missing_parameters = [
            name for module, name in parameters_to_prune if module in modules and not hasattr(module, name)
        ]
        if missing_modules or missing_parameters:
            raise MisconfigurationException(
                "Some provided `parameters_to_prune` don't exist in the model. "
                f"Found missing modules: {missing_modules} and missing parameters: {missing_parameters}"
            )
        return parameters_to_prune

    def setup(self, trainer: TrainerView, pl_module: LightningModule, stage: str) -> None:
        parameters = self.sanitize_parameters_to_prune(
            pl_module, self._parameters_to_prune, parameter_names=self._parameter_names
        )
        self._parameters_to_prune = self.filter_parameters_to_prune(parameters)
        if self._use_lottery_ticket_hypothesis:
            modules = {id(module): module for module, _ in self._parameters_to_prune}
            self._original_modules = {key: deepcopy(module) for key, module in modules.items()}

    # Pruning

    def on_train_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if self._prune_on_train_epoch_end:
            self._run_pruning(trainer.current_epoch)

    def on_validation_epoch_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if not self._prune_on_train_epoch_end and not trainer.sanity_checking:
            self._run_pruning(trainer.current_epoch)

    def on_train_end(self, trainer: TrainerView, pl_module: LightningModule) -> None:
        if self._make_pruning_permanent:
            self.make_pruning_permanent(pl_module)

    def _run_pruning(self, epoch: int) -> None:
        amount = self.amount(epoch) if callable(self.amount) else self.amount
        if not _in_epoch(self._apply_pruning, epoch) or not amount:
            return
        self.apply_pruning(amount)
        if _in_epoch(self._use_lottery_ticket_hypothesis, epoch):
            self.apply_lottery_ticket_hypothesis()

    def apply_pruning(self, amount: int | float) -> None:
        """Prune ``amount`` of what is left."""
        before = self._zeros() if self._verbose else []
        if self._use_global_unstructured:
            taken = inspect.signature(self.pruning_fn).parameters
            settings = {name: value for name, value in {**self._settings, "amount": amount}.items() if name in taken}
            prune.global_unstructured(self._parameters_to_prune, pruning_method=self.pruning_fn, **settings)
        else:
            for module, name in self._parameters_to_prune:
                self.pruning_fn(module, name=name, amount=amount)
        if self._verbose:
            self._log_sparsity(before, self._zeros(), amount)

    def apply_lottery_ticket_hypothesis(self) -> None:
        """Set the weights that are left back to their first values, or to new ones (``resample_parameters``)."""
        sources = {key: self._resampled(original) for key, original in self._original_modules.items()}
        for module, name in self._parameters_to_prune:
            target = getattr(module, f"{name}_orig", None)
            target = getattr(module, name) if target is None else target
            source = getattr(sources[id(module)], name)
            if isinstance(target, Tensor) and isinstance(source, Tensor):
                target.data = source.data.to(target.device, copy=True)

    def _resampled(self, original: nn.Module) -> nn.Module:
        if not self._resample_parameters or not callable(getattr(original, "reset_parameters", None)):
            return original
        resampled = deepcopy(original)
        resampled.reset_parameters()  # type: ignore[operator]
        return resampled

    def make_pruning_permanent(self, module: nn.Module) -> None:
        """Leave plain, pruned weights in ``module`` and all below it, without masks and hooks."""
        for each in module.modules():
            for key, hook in list(each._forward_pre_hooks.items()):
                if isinstance(hook, prune.BasePruningMethod):
                    hook.remove(each)
                    del each._forward_pre_hooks[key]

    def on_save_checkpoint(self, trainer: TrainerView, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._make_pruning_permanent:
            checkpoint["state_dict"] = _without_masks(checkpoint["state_dict"])

    # What is told

    def _zeros(self) -> list[Zeros]:
        return [_count_zeros(module, name) for module, name in self._parameters_to_prune]

    def _log_sparsity(self, before: list[Zeros], after: list[Zeros], amount: int | float) -> None:
        total = sum(size for _, size in after)
        pruned_before, pruned_after = (sum(zeros for zeros, _ in counts) for counts in (before, after))
        rank_zero_info(
            f"Applied `{self._pruning_method_name}`. Pruned: {pruned_before}/{total} ({pruned_before / total:.2%}) -> "
            f"{pruned_after}/{total} ({pruned_after / total:.2%})"
        )
        if self._verbose < 2:
            return
        for (module, name), (zeros_before, size_before), (zeros, size) in zip(
            self._parameters_to_prune, before, after, strict=True
        ):
            rank_zero_info(
                f"Applied `{self._pruning_method_name}` to `{module!r}.{name}` with amount={amount}. Pruned: "
                f"{zeros_before} ({zeros_before / size_before:.2%}) -> {zeros} ({zeros / size:.2%})"
            )


def _settings_of(function: str, dim: int | None, norm: int | None) -> dict[str, Any]:
    if function not in FUNCTIONS:
        raise MisconfigurationException(
            f"The provided `pruning_fn` {function} isn't available in PyTorch's built-in functions: {list(FUNCTIONS)}"
        )
    if not function.endswith("_structured"):
        return {}
    if dim is None:
        raise MisconfigurationException("When requesting `structured` pruning, the `pruning_dim` should be provided.")
    if function != "ln_structured":
        return {"dim": dim}
    if norm is None:
        raise MisconfigurationException(
            "When requesting `ln_structured` pruning, the `pruning_norm` should be provided."
        )
    return {"dim": dim, "n": norm}


def _are_pairs(parameters: Any) -> bool:
    return isinstance(parameters, list | tuple) and all(
        len(pair) == 2 and isinstance(pair[0], nn.Module) and isinstance(pair[1], str) for pair in parameters
    )


def _in_epoch(setting: bool | Callable[[int], bool], epoch: int) -> bool:
    return setting(epoch) if callable(setting) else setting


def _count_zeros(module: nn.Module, name: str) -> Zeros:
    mask: Any = getattr(module, f"{name}_mask", None)
    return (0, 1) if mask is None else (int((mask == 0).sum().item()), mask.numel())


def _without_masks(weights: dict[str, Any]) -> dict[str, Any]:
    """A state_dict with ``<name>`` in place of ``<name>_orig`` and ``<name>_mask``, on the CPU."""
    masked = {name.removesuffix("_mask") for name in weights if name.endswith("_mask")}
    masked = {name for name in masked if f"{name}_orig" in weights}
    parts = {f"{name}{part}" for name in masked for part in ("_orig", "_mask")}
    plain = {name: value for name, value in weights.items() if name not in parts}
    for name in masked:
        original = weights[f"{name}_orig"]
        plain[name] = weights[f"{name}_mask"].to(original.dtype) * original
    return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in plain.items()}
