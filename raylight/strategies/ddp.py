"""Data parallelism: each worker holds the whole model, and gradients are averaged (torch's DistributedDataParallel)."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raylight.strategies.base import Step, Strategy
from raylight.utilities import tree
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.signatures import has_argument

if TYPE_CHECKING:
    from raylight.accelerators import Accelerator
    from raylight.checkpoint.io import CheckpointIO
    from raylight.core.module import LightningModule
    from raylight.precision import Precision

OPERATIONS = {"mean": "SUM", "avg": "SUM", "sum": "SUM", "min": "MIN", "max": "MAX"}


DEFAULT_TIMEOUT = timedelta(minutes=30)
"""Of the process group that the workers make."""
INSTEAD = {
    "parallel_devices": "say devices= of the Trainer",
    "cluster_environment": "leave it out, Ray places the workers",
    "model_averaging_period": "leave it out, gradients are averaged in each step",
}


_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""The newer of its two names."""


def _set_timeout(timeout: timedelta) -> None:
    set_timeout: Callable[[timedelta], None] = (
        getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    )
    set_timeout(timeout)


class StepModule(nn.Module):
    """What DDP wraps: its forward is the step that is named, so torch's hooks fire and ``forward`` stays the user's."""

    def __init__(self, module: LightningModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, step: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.module, step)(*args, **kwargs)


class DDPStrategy(Strategy):
    """torch.nn.parallel.DistributedDataParallel in the workers' process group.

    Args:
        find_unused_parameters: Search each step's graph for parameters without a gradient. None: only in manual
            optimization and with several optimizers, where a step often uses part of the model.
        gradient_as_bucket_view: Let gradients live in DDP's buffers: saves a copy and its memory.
        accelerator: See ``Strategy``; likewise ``checkpoint_io`` and ``precision_plugin``.
        parallel_devices: Must be None: the Trainer's flags say this.
        cluster_environment: Must be None: Ray places the workers.
        ddp_comm_state: First argument of ``ddp_comm_hook``.
        ddp_comm_hook: How gradients are averaged, such as those of ``torch.distributed.algorithms.ddp_comm_hooks``.
            None: as they are.
        ddp_comm_wrapper: Wraps the hook, as ``fp16_compress_wrapper`` does.
        model_averaging_period: Must be None: there is no averaging of models.
        process_group_backend: Must be None or what the devices take: "gloo" for CPUs, "nccl" for GPUs.
        timeout: Longest wait of a collective.
        start_method: Makes no difference: raylight starts the workers itself.
        **kwargs: Other arguments of DistributedDataParallel.

    Raises:
        MisconfigurationException: One that must be None is not.
    """

    strategy_name = "ddp"
    distributed = True

    def __init__(
        self,
        find_unused_parameters: bool | None = None,
        gradient_as_bucket_view: bool = True,
        accelerator: Accelerator | None = None,
        parallel_devices: None = None,
        cluster_environment: None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
        ddp_comm_state: object | None = None,
        ddp_comm_hook: Callable[..., Any] | None = None,
        ddp_comm_wrapper: Callable[..., Any] | None = None,
        model_averaging_period: None = None,
        process_group_backend: str | None = None,
        timeout: timedelta | None = DEFAULT_TIMEOUT,
        start_method: str = "popen",
        **kwargs: Any,
    ) -> None:
        super().__init__(accelerator, checkpoint_io, precision_plugin)
        for name, value in (
            ("parallel_devices", parallel_devices),
            ("cluster_environment", cluster_environment),
            ("model_averaging_period", model_averaging_period),
        ):
            if value is not None:
                raise MisconfigurationException(f"DDPStrategy({name}={value!r}) is not supported: {INSTEAD[name]}.")
        self.find_unused_parameters = find_unused_parameters
        self.process_group_backend = process_group_backend
        self.timeout = timeout or DEFAULT_TIMEOUT
        self._comm_hook, self._comm_state = ddp_comm_hook, ddp_comm_state
        if ddp_comm_hook is not None and ddp_comm_wrapper is not None:
            self._comm_hook = ddp_comm_wrapper(ddp_comm_hook)
        self._gradients_stay_local = False
        self.kwargs: dict[str, Any] = {"gradient_as_bucket_view": gradient_as_bucket_view, **kwargs}

    def connect(self, model: LightningModule) -> None:
        super().connect(model)
        if self.timeout != DEFAULT_TIMEOUT:  # from here on, as the others may wait for one that prepares the data
            _set_timeout(self.timeout)

    def setup(self, module: LightningModule, for_training: bool) -> None:
        if self.layer_sync is not None:
            module = cast("LightningModule", self.layer_sync.apply(module))
        if self.process_group_backend is not None:
            self._check_backend(self.process_group_backend)
        super().setup(module, for_training)

    def _check_backend(self, wanted: str) -> None:
        if wanted != dist.get_backend():
            raise MisconfigurationException(
                f"DDPStrategy(process_group_backend={wanted!r}): workers on {self.device.type} talk by "
                f"{dist.get_backend()!r}. Leave it out."
            )

    def rewrap(self) -> None:
        # DDP averages the gradients of the parameters that required them when it was made, and of no others.
        super().rewrap()
        module = self.lightning_module
        assert module is not None
        self.model = module
        if not any(parameter.requires_grad for parameter in module.parameters()):
            return
        find_unused = self.find_unused_parameters
        if find_unused is None:  # a step may use part of the model where there are several optimizers
            find_unused = not module.automatic_optimization or has_argument(module.training_step, "optimizer_idx")
        self.model = nn.parallel.DistributedDataParallel(
            StepModule(module),
            device_ids=[self.device] if self.device.type == "cuda" else None,
            find_unused_parameters=find_unused,
            **self.kwargs,
        )
        if self._comm_hook is not None:
            self.model.register_comm_hook(self._comm_state, self._comm_hook)

    def teardown(self) -> None:
        super().teardown()
        if self.timeout != DEFAULT_TIMEOUT:
            _set_timeout(DEFAULT_TIMEOUT)  # the next call's workers are the same processes
        if self.layer_sync is not None and self.lightning_module is not None:
            self.layer_sync.revert(self.lightning_module)

    def training_step(self) -> Step:
        if not isinstance(self.model, nn.parallel.DistributedDataParallel):
            return super().training_step()
        assert self.lightning_module is not None
        if self.lightning_module.automatic_optimization:
            return functools.partial(self.model, "training_step")
        return self._manual_training_step

    def _manual_training_step(self, *args: Any, **kwargs: Any) -> Any:
        # Backward runs inside the step, maybe several times, so DDP must not arm itself at the end of the forward:
        # before_manual_backward does, once per backward.
        assert isinstance(self.model, nn.parallel.DistributedDataParallel)
        self.model.require_backward_grad_sync = False
        try:
            return self.model("training_step", *args, **kwargs)
        finally:
            self.model.require_backward_grad_sync = True

    def before_manual_backward(self, loss: Tensor) -> None:
        model = self.model
        assert isinstance(model, nn.parallel.DistributedDataParallel)
        if self._gradients_stay_local:
            return
        model.require_forward_param_sync = True
        model.reducer._rebuild_buckets()
        model.reducer.prepare_for_backward([loss] if model.find_unused_parameters else [])

    def no_sync(self) -> contextlib.AbstractContextManager[None]:
        assert self.model is not None
        return self.model.no_sync()  # type: ignore[operator, no-any-return]

    @contextlib.contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        self._gradients_stay_local = True
        try:
            yield
        finally:
            self._gradients_stay_local = False

    def barrier(self, name: str | None = None) -> None:
        dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        box = [obj]
        dist.broadcast_object_list(box, src=src, device=self.device)
        return box[0]

    def all_gather(self, tensor: Any, group: Any | None = None, sync_grads: bool = False) -> Any:
        return tree.map_leaves(lambda leaf: self._gather_leaf(leaf, group, sync_grads), tensor)

    def _gather_leaf(self, leaf: Any, group: Any, sync_grads: bool) -> Any:
        tensor = self._to_tensor(leaf)
        if not isinstance(tensor, Tensor):
            return leaf
        tensor = tensor.to(self.device).contiguous()
        if sync_grads and tensor.requires_grad:
            return torch.stack(_gather_with_gradients(tensor, group))
        size = dist.get_world_size(group)
        gathered = torch.empty(size * tensor.numel(), dtype=tensor.dtype, device=tensor.device)
        _all_gather(gathered, tensor.detach().reshape(-1), group)
        return gathered.view(size, *tensor.shape)

    def all_gather_object(self, obj: Any) -> list[Any]:
        objects: list[Any] = [None] * self.world_size
        dist.all_gather_object(objects, obj)
        return objects

    def reduce(self, tensor: Any, group: Any | None = None, reduce_op: str | None = "mean") -> Any:
        tensor = self._to_tensor(tensor)
        if not isinstance(tensor, Tensor):
            return tensor
        name = str(reduce_op or "mean").lower()
        if name not in OPERATIONS:
            raise MisconfigurationException(f"reduce_op={reduce_op!r} must be one of {', '.join(OPERATIONS)}.")
        device, tensor = tensor.device, tensor.to(self.device)
        dist.all_reduce(tensor, op=getattr(dist.ReduceOp, OPERATIONS[name]), group=group)
        if name in ("mean", "avg"):
            tensor = tensor / dist.get_world_size(group)
        return tensor.to(device)

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        flag = torch.tensor(int(decision), device=self.device)
        return bool(self.reduce(flag, reduce_op="min" if all else "max").item())


def _gather_with_gradients(tensor: Tensor, group: Any) -> Any:
    import torch.distributed.nn.functional as functional

    return functional.all_gather(tensor, group if group is not None else dist.group.WORLD)
