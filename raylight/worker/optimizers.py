"""What configure_optimizers returns, made regular; and the optimizer that manual optimization is handed."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from raylight.core import legacy
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_deprecation, rank_zero_warn
from raylight.utilities.signatures import count_positional, has_argument
from raylight.utilities.types import LRSchedulerConfig

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.run import Run


class _NoOptimizer(Optimizer):
    """Stands for an optimizer where configure_optimizers returned None: it does nothing."""

    def __init__(self) -> None:
        super().__init__([torch.zeros(1)], {})
        self.param_groups = []

    def add_param_group(self, param_group: dict[str, Any]) -> None: ...

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return closure() if closure is not None else None

    def zero_grad(self, set_to_none: bool = True) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...

    def __repr__(self) -> str:
        return "No Optimizer"


def configure(model: LightningModule) -> tuple[list[Optimizer], list[LRSchedulerConfig], list[int]]:
    """Call the model's configure_optimizers and make regular what it returns.

    Returns:
        Optimizers, their schedulers, and the optimizers' frequencies of Lightning 1.x, empty without any.

    Raises:
        MisconfigurationException: It is of no known form.
        RuntimeError: Several optimizers with automatic optimization, and a training_step that does not expect it.
    """
    returned = model.configure_optimizers()
    optimizers, schedulers, monitor = _parse(returned)
    to_config = _scheduler_config if model.automatic_optimization else _manual_scheduler_config
    configs = [to_config(scheduler, monitor) for scheduler in schedulers]
    frequencies = _frequencies(returned)
    if model.automatic_optimization:
        check_several(model, optimizers)
    for config in configs:
        _check_stateful(config.scheduler)
        if model.automatic_optimization:
            _check_automatic(config, model)
        if getattr(config.scheduler, "optimizer", None) not in [*optimizers, None]:
            raise MisconfigurationException(
                "Some schedulers are attached with an optimizer that wasn't returned from `configure_optimizers`."
            )
    return optimizers, configs, frequencies


def check_several(model: LightningModule, optimizers: list[Optimizer]) -> None:
    """Automatic optimization with several optimizers is Lightning 1.x: training_step must say that it knows.

    Raises:
        RuntimeError: It does not take ``optimizer_idx``.
    """
    if len(optimizers) < 2:
        return
    if not has_argument(model.training_step, "optimizer_idx") and count_positional(model.training_step) < 3:
        raise RuntimeError(
            "Training with multiple optimizers is only supported with manual optimization. Set "
            "`self.automatic_optimization = False`, then access your optimizers in `training_step` with "
            "`opt1, opt2, ... = self.optimizers()`. Or write `training_step(self, batch, batch_idx, optimizer_idx)` as "
            "in Lightning 1.x, to be called for each optimizer in turn."
        )
    rank_zero_deprecation(
        "Several optimizers in automatic optimization are Lightning 1.x: `training_step` is called once per optimizer. "
        "In Lightning 2, set `self.automatic_optimization = False` and step them yourself."
    )


def _frequencies(returned: Any) -> list[int]:
    """Batches in a row for each optimizer, from ``[{"optimizer": ..., "frequency": n}, ...]``; empty without any."""
    given = returned if isinstance(returned, list | tuple) else []
    frequencies = [item["frequency"] for item in given if isinstance(item, dict) and item.get("frequency") is not None]
    if frequencies and len(frequencies) != len(given):
        raise MisconfigurationException(
            "A frequency must be given to each optimizer or to none: configure_optimizers gave "
            f"{len(frequencies)} for {len(given)} optimizers."
        )
    return frequencies


def _parse(returned: Any) -> tuple[list[Optimizer], list[Any], str | None]:
    """Optimizers, schedulers as given, and the monitor given beside a single scheduler."""
    if returned is None:
        rank_zero_warn("`LightningModule.configure_optimizers` returned `None`, this fit will run with no optimizer")
        return [_NoOptimizer()], [], None
    if isinstance(returned, Optimizer):
        return [returned], [], None
    if isinstance(returned, dict):
        return _parse_dict(returned)
    if isinstance(returned, list | tuple) and returned:
        if isinstance(returned[0], dict) and all(isinstance(item, dict) for item in returned):
            parsed = [_parse_dict(item) for item in returned]
            schedulers = [_with_monitor(s, monitor) for _, found, monitor in parsed for s in found]
            return [optimizer for found, _, _ in parsed for optimizer in found], schedulers, None
        if len(returned) == 2 and isinstance(returned[0], list) and isinstance(returned[1], list | tuple | dict):
            schedulers = [returned[1]] if isinstance(returned[1], dict) else list(returned[1])
            return list(returned[0]), schedulers, None
        if all(isinstance(item, Optimizer) for item in returned):
            return list(returned), [], None
    if isinstance(returned, list | tuple) and not returned:
        return [], [], None
    raise MisconfigurationException(
        "Unknown configuration for model optimizers. Output from `model.configure_optimizers()` should be one of: an "
        "Optimizer, a list of them, ([optimizers], [schedulers]), a dict with 'optimizer' and 'lr_scheduler', a list "
        f"of such dicts, or None. Got {returned!r}."
    )


def _parse_dict(returned: dict[str, Any]) -> tuple[list[Optimizer], list[Any], str | None]:
    if "optimizer" not in returned:
        raise MisconfigurationException(f"configure_optimizers returned a dict without 'optimizer': {list(returned)}.")
    extra = set(returned) - {"optimizer", "lr_scheduler", "monitor", "frequency"}
    if extra:
        rank_zero_warn(f"Found unsupported keys in the optimizer configuration: {extra}", category=RuntimeWarning)
    scheduler = returned.get("lr_scheduler")
    schedulers = [] if scheduler is None else list(scheduler) if isinstance(scheduler, list) else [scheduler]
    return [returned["optimizer"]], schedulers, returned.get("monitor")


def _with_monitor(scheduler: Any, monitor: str | None) -> Any:
    if monitor is None:
        return scheduler
    return {"monitor": monitor, **(scheduler if isinstance(scheduler, dict) else {"scheduler": scheduler})}


def _scheduler_config(given: Any, monitor: str | None) -> LRSchedulerConfig:
    if isinstance(given, dict):
        config = _from_dict(given, monitor)
    elif isinstance(given, ReduceLROnPlateau) and monitor is None:
        raise MisconfigurationException(
            "`configure_optimizers` must include a monitor when a `ReduceLROnPlateau` scheduler is used. "
            'For example: {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "metric_to_track"}'
        )
    else:
        config = LRSchedulerConfig(given, monitor=monitor)
    if isinstance(config.scheduler, ReduceLROnPlateau):
        config.reduce_on_plateau = True
    if config.reduce_on_plateau and config.monitor is None:
        raise MisconfigurationException(
            "The lr scheduler dict must include a monitor when a `ReduceLROnPlateau` scheduler is used. "
            'For example: {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "your_loss"}}'
        )
    return config


def _manual_scheduler_config(given: Any, _: str | None) -> LRSchedulerConfig:
    """With manual optimization training_step steps the scheduler; its interval is there for LearningRateMonitor."""
    if not isinstance(given, dict):
        return LRSchedulerConfig(given)
    ignored = [name for name in ("reduce_on_plateau", "monitor", "strict") if name in given]
    if ignored:
        rank_zero_warn(
            f"The lr scheduler dict contains the key(s) {ignored}, but the keys will be ignored. You need to call "
            "`lr_scheduler.step()` manually in manual optimization.",
            category=RuntimeWarning,
        )
    return _from_dict({name: value for name, value in given.items() if name not in ignored}, None)


def _from_dict(given: dict[str, Any], monitor: str | None) -> LRSchedulerConfig:
    known = {field.name for field in fields(LRSchedulerConfig)}
    if extra := set(given) - known:
        rank_zero_warn(f"Found unsupported keys in the lr scheduler dict: {extra}", category=RuntimeWarning)
    if given.get("scheduler") is None:
        raise MisconfigurationException(
            'The lr scheduler dict must have the key "scheduler" with its item being an lr scheduler'
        )
    interval = given.get("interval", "epoch")
    if interval not in ("epoch", "step"):
        raise MisconfigurationException(
            f'The "interval" key in lr scheduler dict must be "step" or "epoch" but is "{interval}"'
        )
    if isinstance(given["scheduler"], OneCycleLR | CyclicLR) and interval == "epoch":
        name = type(given["scheduler"]).__name__
        rank_zero_warn(f"A `{name}` scheduler is using 'interval': 'epoch'. Are you sure you didn't mean 'step'?")
    settings = {name: value for name, value in given.items() if name in known}
    return LRSchedulerConfig(**{"monitor": monitor, **settings})


def _check_stateful(scheduler: Any) -> None:
    if not hasattr(scheduler, "state_dict") or not hasattr(scheduler, "load_state_dict"):
        raise TypeError(
            f"The provided lr scheduler `{type(scheduler).__name__}` is invalid. It should have `state_dict` and "
            "`load_state_dict` methods defined."
        )


def _check_automatic(config: LRSchedulerConfig, model: LightningModule) -> None:
    custom_step = getattr(type(model), "lr_scheduler_step", None) is not _default_scheduler_step()
    if not isinstance(config.scheduler, LRScheduler | ReduceLROnPlateau) and not custom_step:
        name = type(config.scheduler).__name__
        raise MisconfigurationException(
            f"The provided lr scheduler `{name}` doesn't follow PyTorch's LRScheduler API. You should override the "
            "`LightningModule.lr_scheduler_step` hook with your own logic if you are using a custom LR scheduler."
        )


def _default_scheduler_step() -> Any:
    from raylight.core.module import LightningModule

    return LightningModule.lr_scheduler_step


class LightningOptimizer:
    """An optimizer whose ``step`` is counted, announced to hooks, and takes part in loss scaling.

    It is an instance of the wrapped optimizer's own class as well, and shares all of its state.

    Args:
        optimizer: torch's own.
        run: What it steps in; None: a step is the optimizer's alone.
    """

    if not TYPE_CHECKING:  # mypy would take the shared __dict__ for a mistake
        __slots__ = ("_optimizer", "_run")

    def __new__(cls, optimizer: Optimizer, run: Run | None = None) -> Any:
        own = type(f"Lightning{type(optimizer).__name__}", (cls, type(optimizer)), {"__slots__": ()})
        return object.__new__(own)

    def __init__(self, optimizer: Optimizer, run: Run | None = None) -> None:
        self.__dict__ = optimizer.__dict__
        self._optimizer = optimizer
        self._run = run

    @property
    def optimizer(self) -> Optimizer:
        """torch's own object."""
        return self._optimizer

    # A property, as a scheduler puts its own "step" into the __dict__ that is shared, and only a property outranks it.
    @property
    def step(self) -> Callable[..., Any]:
        """``step(closure=None)``: the closure, if given, computes the gradients."""
        return self._step

    def _step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        if closure is not None and not callable(closure):
            raise MisconfigurationException("When `optimizer.step(closure)` is called, the closure should be callable")
        if self._run is None:
            return self._optimizer.step(closure, **kwargs)
        return self._run.step_optimizer(self, closure, **kwargs)

    @contextlib.contextmanager
    def toggle_model(self, sync_grad: bool = True) -> Iterator[None]:
        """Gradients inside flow only to this optimizer's parameters; ``sync_grad=False`` also keeps them local."""
        assert self._run is not None
        index = [raw(each) for each in self._run.optimizers].index(self._optimizer)
        with contextlib.nullcontext() if sync_grad else self._run.strategy.block_backward_sync():
            legacy.toggle(self._run.model, self._optimizer, index)
            try:
                yield
            finally:
                legacy.untoggle(self._run.model, self._optimizer, index)

    def __repr__(self) -> str:
        return f"Lightning{self._optimizer!r}"

    def __reduce__(self) -> Any:
        return self._optimizer.__reduce__()


def raw(optimizer: Any) -> Optimizer:
    """torch's own object behind a LightningOptimizer; others as they are."""
    return optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether ``optimizer.step`` calls the training step itself, as LBFGS does."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return isinstance(optimizer, torch.optim.LBFGS) or (closure is not None and closure.default is closure.empty)
