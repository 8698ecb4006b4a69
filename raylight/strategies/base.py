"""How the workers of a run act together. ``Strategy`` is one worker alone; other kinds override what differs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from raylight.utilities import tree

if TYPE_CHECKING:
    from raylight.core.module import LightningModule

Step = Callable[..., Any]


class Strategy:
    """One worker on one device: no communication, no wrapper around the model."""

    name = "single_device"
    distributed = False
    """Whether the workers average their gradients."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.global_rank = 0
        self.local_rank = 0
        self.node_rank = 0
        self.world_size = 1
        self.model: nn.Module | None = None
        """The model, in the wrapper that training calls."""
        self.lightning_module: LightningModule | None = None

    def attach(self, device: torch.device, global_rank: int, local_rank: int, node_rank: int, world_size: int) -> None:
        """Learn which worker this is."""
        self.device = device
        self.global_rank, self.local_rank, self.node_rank = global_rank, local_rank, node_rank
        self.world_size = world_size

    @property
    def root_device(self) -> torch.device:
        """The worker's device."""
        return self.device

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the worker that writes files and speaks to the user."""
        return self.global_rank == 0

    def setup(self, module: LightningModule, for_training: bool, sync_batchnorm: bool) -> None:
        """Move the model to the device and, for training, wrap it. Collective."""
        self.lightning_module = module
        self.model = module.to(self.device)

    def teardown(self) -> None:
        """Let go of the wrapper, and of the GPU's memory."""
        if self.lightning_module is not None and self.device.type == "cuda":
            self.lightning_module.cpu()
        self.model = None

    def training_step(self) -> Step:
        """The callable that runs the model's training_step, through the wrapper if there is one."""
        assert self.lightning_module is not None
        return self.lightning_module.training_step

    def no_sync(self) -> contextlib.AbstractContextManager[None]:
        """Gradients of the backward calls inside stay local. The step path skips it where ``distributed`` is False."""
        return contextlib.nullcontext()

    def before_manual_backward(self, loss: Tensor) -> None:
        """Called in manual optimization, when the gradients of ``loss`` are about to be computed."""

    def clip_gradients(self, optimizer: Optimizer, value: float, algorithm: str | None) -> None:
        """Clip to a total norm ("norm", None), or element by element ("value")."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if algorithm == "value":
            torch.nn.utils.clip_grad_value_(parameters, value)
        else:
            torch.nn.utils.clip_grad_norm_(parameters, value)

    def alone(self) -> Strategy:
        """This worker without the others, whose collectives wait for nobody: after a failure they may be anywhere."""
        lone = Strategy()
        lone.attach(self.device, self.global_rank, self.local_rank, self.node_rank, world_size=1)
        lone.model, lone.lightning_module = self.model, self.lightning_module
        return lone

    # Hooks, after the callbacks' and the model's. One that is not overridden is not called.
    def on_train_start(self) -> None:
        """See ``Callback``; likewise those below."""

    def on_train_end(self) -> None: ...

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None: ...

    def on_validation_start(self) -> None: ...

    def on_validation_end(self) -> None: ...

    def on_test_start(self) -> None: ...

    def on_test_end(self) -> None: ...

    def on_predict_start(self) -> None: ...

    def on_predict_end(self) -> None: ...

    def on_exception(self, exception: BaseException) -> None:
        """The call is about to end with ``exception``."""

    # What a checkpoint holds. Collective.
    def model_state(self) -> dict[str, Any]:
        """The model's full state_dict."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's full state_dict."""
        return optimizer.state_dict()

    def load_optimizer_state(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Put back what ``optimizer_state`` gave."""
        optimizer.load_state_dict(state)

    # Collectives: every rank must call them
    def barrier(self, name: str | None = None) -> None:
        """Wait until all workers are here. ``name`` is for the reader of the call."""

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """The object of rank ``src``, on every rank."""
        return obj

    def all_gather(self, data: Any, group: Any | None = None, sync_grads: bool = False) -> Any:
        """Tensors of all ranks, stacked in front; unchanged on one worker. See ``LightningModule.all_gather``."""
        return tree.map_leaves(self._to_tensor, data)

    def all_gather_object(self, obj: Any) -> list[Any]:
        """The objects of all ranks, by rank."""
        return [obj]

    def reduce(self, tensor: Any, group: Any | None = None, reduce_op: str | None = "mean") -> Any:
        """``tensor`` reduced over all ranks by "mean", "sum", "min" or "max"; the same on every rank."""
        return tensor

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """True if all ranks (``all=True``) or any of them (``all=False``) decided so."""
        return decision

    def _to_tensor(self, leaf: Any) -> Any:
        if isinstance(leaf, int | float) and not isinstance(leaf, bool):
            return torch.tensor(leaf, device=self.device)
        return leaf

    @contextlib.contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Gradients of the backward calls inside stay local; for manual optimization."""
        with self.no_sync():
            yield


class SingleDeviceStrategy(Strategy):
    """One worker on one device."""
