"""How the workers of a run act together. ``Strategy`` is one worker alone; other kinds override what differs."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from raylight.checkpoint.io import AsyncCheckpointIO, CheckpointIO, TorchCheckpointIO
from raylight.precision import Precision
from raylight.utilities import tree
from raylight.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from raylight.accelerators import Accelerator
    from raylight.checkpoint.storage import PathOrURI
    from raylight.core.module import LightningModule
    from raylight.strategies.layer_sync import LayerSync

Step = Callable[..., Any]


class Strategy:
    """One worker on one device: no communication, no wrapper around the model.

    Args:
        accelerator: In place of ``Trainer(accelerator=...)``.
        checkpoint_io: In place of one in ``Trainer(plugins=...)``.
        precision_plugin: Likewise.
    """

    strategy_name = "single_device"
    distributed = False
    """Whether the workers average their gradients."""
    handles_gradient_accumulation = False
    launcher = None
    """raylight starts the workers, no strategy does."""

    def __init__(
        self,
        accelerator: Accelerator | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
    ) -> None:
        self.accelerator = accelerator
        self.precision_plugin: Precision = precision_plugin or Precision()
        self.layer_sync: LayerSync | None = None
        """What makes layers act together on all workers."""
        self._checkpoint_io = checkpoint_io
        arguments = {"accelerator": accelerator, "checkpoint_io": checkpoint_io, "precision_plugin": precision_plugin}
        self.given: dict[str, Any] = {name: value for name, value in arguments.items() if value is not None}
        """What its maker has decided, so that the Trainer's flags must not."""
        self.device = torch.device("cpu")
        self.global_rank = 0
        self.local_rank = 0
        self.node_rank = 0
        self.world_size = 1
        self.model: nn.Module | None = None
        """The model, in the wrapper that training calls."""
        self.frozen: frozenset[str] = frozenset()
        """Names of the parameters that required no gradients when the model was wrapped: they are not averaged."""
        self.lightning_module: LightningModule | None = None
        self.optimizers: list[Optimizer] = []
        self.lr_scheduler_configs: list[Any] = []

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
    def checkpoint_io(self) -> CheckpointIO:
        """What saves, loads and removes checkpoint files."""
        if self._checkpoint_io is None:
            self._checkpoint_io = TorchCheckpointIO()
        elif isinstance(self._checkpoint_io, AsyncCheckpointIO):
            self._checkpoint_io.checkpoint_io = TorchCheckpointIO()  # kept where it has none of its own
        return self._checkpoint_io

    @checkpoint_io.setter
    def checkpoint_io(self, checkpoint_io: CheckpointIO) -> None:
        self._checkpoint_io = checkpoint_io

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the worker that writes files and speaks to the user."""
        return self.global_rank == 0

    def connect(self, model: LightningModule) -> None:
        """Take ``model``, before it is ready for the device."""
        self.lightning_module = self.model = model

    def setup(self, module: LightningModule, for_training: bool) -> None:
        """Move the model to the device and, for training, wrap it. Collective."""
        self.lightning_module = module
        self.model = module.to(self.device)
        if for_training:
            self.rewrap()

    def rewrap(self) -> None:
        """Other parameters require gradients than at ``setup``: wrap the model anew. Collective, between two epochs."""
        assert self.lightning_module is not None
        self.frozen = frozen(self.lightning_module)

    def teardown(self) -> None:
        """Let go of the wrapper, and of the GPU's memory."""
        if self.lightning_module is not None and self.device.type == "cuda":
            self.lightning_module.cpu()
        self.model = self.lightning_module

    def training_step(self) -> Step:
        """The callable that runs the model's training_step, through the wrapper if there is one."""
        assert self.lightning_module is not None
        return self.lightning_module.training_step

    def no_sync(self) -> contextlib.AbstractContextManager[None]:
        """Gradients of the backward calls inside stay local. The step path skips it where ``distributed`` is False."""
        return contextlib.nullcontext()

    def before_manual_backward(self, loss: Tensor) -> None:
        """Called in manual optimization, when the gradients of ``loss`` are about to be computed."""

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """The batch on ``device``, None for this worker's, through the model's own transfer hooks."""
        device = device if device is not None else self.device
        if self.lightning_module is None:
            return tree.to_device(batch, device)
        batch = self.lightning_module.on_before_batch_transfer(batch, dataloader_idx)
        batch = self.lightning_module.transfer_batch_to_device(batch, device, dataloader_idx)
        return self.lightning_module.on_after_batch_transfer(batch, dataloader_idx)

    def alone(self) -> Strategy:
        """This worker without the others, whose collectives wait for nobody: after a failure they may be anywhere."""
        lone = Strategy(self.accelerator, self._checkpoint_io, self.precision_plugin)
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

    # Files
    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: PathOrURI, storage_options: Any | None = None
    ) -> None:
        """Have rank 0 write ``checkpoint``."""
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options=storage_options)

    def load_checkpoint(self, checkpoint_path: PathOrURI, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, on every rank that calls it."""
        load = self.checkpoint_io.load_checkpoint
        parameters = inspect.signature(load).parameters.values()
        if any(each.name == "weights_only" or each.kind == each.VAR_KEYWORD for each in parameters):
            return load(checkpoint_path, weights_only=weights_only)
        return load(checkpoint_path)  # a CheckpointIO of Lightning 1.x

    def remove_checkpoint(self, filepath: PathOrURI) -> None:
        """Have rank 0 delete a checkpoint."""
        if self.is_global_zero:
            self.checkpoint_io.remove_checkpoint(filepath)

    # What a checkpoint holds. Collective.
    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The model's full state_dict."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The optimizer's full state_dict."""
        return optimizer.state_dict()

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Put the weights of ``checkpoint`` into the model."""
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state(self, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Put back what ``optimizer_state`` gave."""
        optimizer.load_state_dict(state)

    # Collectives: every rank must call them
    def barrier(self, name: str | None = None) -> None:
        """Wait until all workers are here. ``name`` is for the reader of the call."""

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """The object of rank ``src``, on every rank."""
        return obj

    def all_gather(self, tensor: Any, group: Any | None = None, sync_grads: bool = False) -> Any:
        """Tensors of all ranks, stacked in front; unchanged on one worker. See ``LightningModule.all_gather``."""
        return tree.map_leaves(self._to_tensor, tensor)

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
    """One worker on one device.

    Args:
        device: It must be the one that the Trainer's flags mean, "cuda" being any GPU. None: whatever these mean.
        accelerator: See ``Strategy``; likewise the others.
    """

    def __init__(
        self,
        device: torch.device | str | int | None = None,
        accelerator: Accelerator | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
    ) -> None:
        super().__init__(accelerator, checkpoint_io, precision_plugin)
        if device is not None:
            self.device = self.given["device"] = torch.device(device)

    def attach(self, device: torch.device, global_rank: int, local_rank: int, node_rank: int, world_size: int) -> None:
        wanted = self.given.get("device")
        if wanted is not None and (wanted.type != device.type or wanted.index not in (None, device.index)):
            raise MisconfigurationException(
                f"{type(self).__name__}(device={str(wanted)!r}) contradicts the Trainer, which runs on {device}: say "
                "accelerator= and devices= of the Trainer, and leave out the strategy's device."
            )
        super().attach(device, global_rank, local_rank, node_rank, world_size)


def frozen(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that require no gradients."""
    return frozenset(name for name, parameter in model.named_parameters() if not parameter.requires_grad)
