"""Types that a script names in its annotations, and the settings of a learning-rate scheduler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Protocol, TypeAlias, TypedDict, Union, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from typing_extensions import NotRequired, Required

from raylight.utilities.aliases import lazy_names

# Unions are objects of ``typing``, as a script may evaluate them in annotations of its own.
STEP_OUTPUT: TypeAlias = Optional[Union[Tensor, Mapping[str, Any]]]  # noqa: UP007, UP045
TRAIN_DATALOADERS: TypeAlias = Any
"""Any iterable, or nested lists and dicts of iterables; likewise the next."""
EVAL_DATALOADERS: TypeAlias = Any

_EVALUATE_OUTPUT: TypeAlias = list[Mapping[str, float]]  # a dict per dataloader
_PREDICT_OUTPUT: TypeAlias = Union[list[Any], list[list[Any]]]  # noqa: UP007
_METRIC: TypeAlias = Any  # a torchmetrics Metric, a tensor or a number

LRSchedulerTypeTuple = (LRScheduler, ReduceLROnPlateau)
LRSchedulerTypeUnion: TypeAlias = Union[LRScheduler, ReduceLROnPlateau]  # noqa: UP007
LRSchedulerType: TypeAlias = Union[type[LRScheduler], type[ReduceLROnPlateau]]  # noqa: UP007
LRSchedulerPLType: TypeAlias = LRSchedulerTypeUnion


@dataclass
class LRSchedulerConfig:
    """A learning-rate scheduler and when to step it."""

    scheduler: Any
    name: str | None = None
    """For LearningRateMonitor."""
    interval: str = "epoch"
    """"epoch" or "step"."""
    frequency: int = 1
    """Step once in so many intervals."""
    reduce_on_plateau: bool = False
    """The scheduler is stepped with the monitored value."""
    monitor: str | None = None
    """Name in callback_metrics."""
    strict: bool = True
    """A missing monitored value is an error; False: a warning."""


class LRSchedulerConfigType(TypedDict, total=False):
    """``LRSchedulerConfig`` as ``configure_optimizers`` may give it: a dict."""

    scheduler: Required[LRSchedulerTypeUnion]
    name: str | None
    interval: str
    frequency: int
    reduce_on_plateau: bool
    monitor: str | None
    strict: bool


class OptimizerConfig(TypedDict):
    """What ``configure_optimizers`` may return."""

    optimizer: Optimizer


class OptimizerLRSchedulerConfig(TypedDict):
    """What ``configure_optimizers`` may return."""

    optimizer: Optimizer
    lr_scheduler: LRSchedulerTypeUnion | LRSchedulerConfigType
    monitor: NotRequired[str]


OptimizerLRScheduler: TypeAlias = Optional[  # noqa: UP045
    Union[  # noqa: UP007
        Optimizer,
        Sequence[Optimizer],
        tuple[Sequence[Optimizer], Sequence[Union[LRScheduler, ReduceLROnPlateau, LRSchedulerConfig]]],  # noqa: UP007
        OptimizerConfig,
        OptimizerLRSchedulerConfig,
        Sequence[OptimizerConfig],
        Sequence[OptimizerLRSchedulerConfig],
    ]
]
"""Everything that ``configure_optimizers`` may return."""


@runtime_checkable
class DistributedDataParallel(Protocol):
    """What a wrapper of the model that averages gradients has."""

    def __init__(self, module: nn.Module, *args: Any, **kwargs: Any) -> None: ...

    def no_sync(self) -> AbstractContextManager[None]: ...


class _SizedIterable(Protocol):
    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)
