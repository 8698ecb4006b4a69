"""LightningModule: a model, what it does with a batch, and how it is optimized."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from raylight.checkpoint import format as checkpoint_format
from raylight.checkpoint import migrate
from raylight.checkpoint.weights import load_weights, warn_of_differences
from raylight.core.export import ExportMixin, properties_of
from raylight.core.hooks import DataHooks
from raylight.core.hparams import HyperparametersMixin, class_only, make_again
from raylight.core.legacy import OldAttributes, takes_old_arguments
from raylight.core.model_hooks import ModelHooks
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_warn

if TYPE_CHECKING:
    import os

    from typing_extensions import Self

    from raylight.loggers.base import Logger
    from raylight.worker.run import Run
    from raylight.worker.trainer_view import TrainerView


class LightningModule(HyperparametersMixin, ExportMixin, ModelHooks, DataHooks, OldAttributes, nn.Module):
    """A model that knows how to train itself: override ``training_step`` and ``configure_optimizers`` at least.

    Example::

        class Classifier(raylight.LightningModule):
            def __init__(self, lr=1e-3):
                super().__init__()
                self.save_hyperparameters()
                self.layer = torch.nn.Linear(64, 10)

            def training_step(self, batch, batch_idx):
                x, y = batch
                loss = torch.nn.functional.cross_entropy(self.layer(x), y)
                self.log("train_loss", loss)
                return loss

            def configure_optimizers(self):
                return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)
    """

    CHECKPOINT_HYPER_PARAMS_KEY: ClassVar[str] = "hyper_parameters"
    CHECKPOINT_HYPER_PARAMS_NAME: ClassVar[str] = "hparams_name"
    CHECKPOINT_HYPER_PARAMS_TYPE: ClassVar[str] = "hparams_type"

    device_mesh = None
    """There is no model parallelism."""
    fabric = None
    """Lightning Fabric is not part of raylight."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Declared here: TorchScript takes annotations of the class for its own types.
        self._trainer: TrainerView | None = None
        self._run: Run | None = None
        self._example_input_array: Any = None
        self._automatic_optimization = True
        self._strict_loading: bool | None = None
        self._toggled: dict[int, dict[Tensor, bool]] = {}

    # ---------------------------------------------------------------------------------------------- what it does

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As ``torch.nn.Module.forward``; what inference does with an input."""
        raise NotImplementedError(f"{type(self).__name__} has no forward().")

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss of a batch.

        Called with ``(batch, batch_idx)`` or, when it takes one argument, ``(batch)``.

        Returns:
            The loss, a dict with "loss" in it, or None to skip the batch (one worker only). With manual optimization
            anything.
        """
        raise MisconfigurationException(f"{type(self).__name__} has no training_step(batch, batch_idx).")

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Look at a batch in ``validate`` and during ``fit``; log with ``self.log``."""
        raise MisconfigurationException(f"{type(self).__name__} has no validation_step(batch, batch_idx).")

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """Look at a batch in ``test``; log with ``self.log``."""
        raise MisconfigurationException(f"{type(self).__name__} has no test_step(batch, batch_idx).")

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        """What ``predict`` returns for a batch: ``self(batch)`` unless overridden."""
        batch = kwargs.get("batch", args[0])
        return self(batch)

    def configure_optimizers(self) -> Any:
        """The optimizers and learning-rate schedulers.

        Returns:
            An Optimizer; a list of them (manual optimization); ``([optimizers], [schedulers])``; a dict with
            "optimizer" and "lr_scheduler"; several such dicts; or None to optimize nothing.
        """
        raise MisconfigurationException(f"{type(self).__name__} has no configure_optimizers().")

    def configure_callbacks(self) -> Any:
        """Callbacks of this model: they replace the Trainer's of the same type."""
        return []

    # ---------------------------------------------------------------------------------------------- optimization

    @property
    def automatic_optimization(self) -> bool:
        """False: training_step calls backward and the optimizers itself."""
        return self._automatic_optimization

    @automatic_optimization.setter
    def automatic_optimization(self, automatic: bool) -> None:
        self._automatic_optimization = automatic

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients of ``loss``, which is scaled where the precision scales it."""
        if args and isinstance(args[0], Optimizer):  # Lightning 1.x named the optimizer, and its index, too
            args = ()
        loss.backward(*args, **kwargs)

    @takes_old_arguments
    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step ``optimizer``; the closure runs training_step, zero_grad and backward, and must be called once."""
        optimizer.step(closure=optimizer_closure)

    @takes_old_arguments
    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Clear the gradients of ``optimizer``."""
        optimizer.zero_grad()

    @takes_old_arguments
    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Step ``scheduler``; ``metric`` is the monitored value, None where the scheduler monitors nothing."""
        if metric is None:
            scheduler.step()
        else:
            scheduler.step(metric)

    @takes_old_arguments
    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients of ``optimizer``; given are the Trainer's flags."""
        self.clip_gradients(
            optimizer, gradient_clip_val=gradient_clip_val, gradient_clip_algorithm=gradient_clip_algorithm
        )

    def clip_gradients(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients of ``optimizer``'s parameters, to a total norm ("norm") or element by element ("value").

        A value that is None or 0 clips nothing.

        Raises:
            MisconfigurationException: The Trainer was given another value or algorithm, or the algorithm is unknown.
        """
        self._check_clipping("gradient_clip_val", gradient_clip_val)
        self._check_clipping("gradient_clip_algorithm", gradient_clip_algorithm)
        if gradient_clip_algorithm not in (None, "norm", "value"):
            raise MisconfigurationException(
                f"`gradient_clip_algorithm` {gradient_clip_algorithm} is invalid: it must be 'norm' or 'value'."
            )
        value = self.trainer.gradient_clip_val if gradient_clip_val is None else gradient_clip_val
        if value:
            algorithm = gradient_clip_algorithm or self.trainer.gradient_clip_algorithm or "norm"
            self._attached_run().precision.clip_gradients(optimizer, value, algorithm)

    def _check_clipping(self, flag: str, value: Any) -> None:
        flagged = getattr(self.trainer, flag)
        if None not in (flagged, value) and flagged != value:
            raise MisconfigurationException(
                f"You have set `Trainer({flag}={flagged!r})` and have passed `clip_gradients({flag}={value!r})`. "
                "Please use only one of them."
            )

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """The optimizer, or the list of them, for manual optimization.

        Args:
            use_pl_optimizer: False gives torch's own objects, whose steps are neither counted nor scaled.
        """
        run = self._attached_run()
        optimizers = run.lightning_optimizers if use_pl_optimizer else run.optimizers
        return optimizers[0] if len(optimizers) == 1 else list(optimizers)

    def lr_schedulers(self) -> Any:
        """The scheduler, the list of them, or None, for manual optimization."""
        schedulers = [config.scheduler for config in self._attached_run().lr_scheduler_configs]
        return schedulers[0] if len(schedulers) == 1 else (schedulers or None)

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """``loss.backward()`` for manual optimization, with hooks and loss scaling."""
        if self.automatic_optimization:
            raise MisconfigurationException(
                "to use manual_backward, please disable automatic optimization: set model property "
                "`automatic_optimization` as False"
            )
        self._attached_run().backward(loss, *args, **kwargs)

    def toggle_optimizer(self, optimizer: Optimizer, optimizer_idx: int | None = None) -> None:
        """Let gradients flow only to the parameters of ``optimizer``; ``untoggle_optimizer`` undoes it.

        ``optimizer_idx`` is Lightning 1.x's and says nothing that ``optimizer`` does not.
        """
        own = _parameters(optimizer)
        others = {parameter for other in self.trainer.optimizers for parameter in _parameters(other)} - own
        self._toggled[id(optimizer.param_groups)] = {parameter: parameter.requires_grad for parameter in others}
        for parameter in others:
            parameter.requires_grad = False

    def untoggle_optimizer(self, optimizer: Optimizer | int) -> None:
        """Undo ``toggle_optimizer``, of an optimizer or, as in Lightning 1.x, of the one of that index."""
        own = self.trainer.optimizers[optimizer] if isinstance(optimizer, int) else optimizer
        for parameter, required in self._toggled.pop(id(own.param_groups), {}).items():
            parameter.requires_grad = required

    @contextlib.contextmanager
    def toggled_optimizer(self, optimizer: Optimizer) -> Iterator[None]:
        """``toggle_optimizer`` for a block."""
        self.toggle_optimizer(optimizer)
        try:
            yield
        finally:
            self.untoggle_optimizer(optimizer)

    # ---------------------------------------------------------------------------------------------- logging

    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: str | Callable[..., Any] = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any | None = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        metric_attribute: str | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Log a number, a one-element tensor or a torchmetrics Metric.

        Args:
            name: Key in ``trainer.callback_metrics`` and in the loggers.
            value: What to log; it is detached.
            prog_bar: Show it in the progress bar.
            logger: Write it to the loggers. None is True.
            on_step: Write this step's value. None: True in training steps, False elsewhere.
            on_epoch: Write the epoch's value. None: False in training steps, True elsewhere.
            reduce_fx: How values become the epoch's: "mean" (weighted by ``batch_size``), "sum", "min", "max".
            enable_graph: Keep the value's graph.
            sync_dist: Also reduce the step's value over all workers. The epoch's always is.
            sync_dist_group: Must be None: all workers take part.
            add_dataloader_idx: Append "/dataloader_idx_N" where there are several loaders.
            batch_size: Samples that the value stands for. None: first dimension of the batch's first tensor.
            metric_attribute: Attribute of this module that holds the Metric. None: it is searched.
            rank_zero_only: The value is logged on rank 0 only, and must not be reduced over workers.

        Raises:
            MisconfigurationException: Not allowed in this hook, or called twice with different arguments.
            ValueError: The value is not a single number.
        """
        run = self._run
        if run is None:
            self._log_outside(name)
            return
        flags = (
            prog_bar, logger, on_step, on_epoch, reduce_fx, enable_graph, sync_dist, sync_dist_group,
            add_dataloader_idx, metric_attribute, rank_zero_only,
        )  # fmt: skip
        run.metrics.add(name, value, flags, batch_size)

    def _log_outside(self, name: str) -> None:
        """``log`` where nothing runs: a step may be called by hand, but not with the Trainer of a call that is over."""
        if self._trainer is None:
            rank_zero_warn(
                f"self.log({name!r}) does nothing: the `self.trainer` reference is not registered on the model yet."
            )
        elif self._trainer.barebones:
            rank_zero_warn("self.log() does nothing under Trainer(barebones=True).")
        else:
            raise MisconfigurationException(
                f"You can't `self.log({name!r}, ...)` here: it is not managed by the `Trainer` control flow, whose "
                "result collection is not registered yet or any more. Log in a step or a hook."
            )

    def log_dict(
        self,
        dictionary: Mapping[str, Any],
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: str | Callable[..., Any] = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any | None = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """``log`` for each item of a dict or a torchmetrics MetricCollection."""
        items = dictionary.items(keep_base=False) if _is_metric_collection(dictionary) else dictionary.items()  # type: ignore[call-arg]
        for name, value in items:
            if isinstance(value, dict):
                raise ValueError(
                    f"`self.log({name}, {value})` was called, but `dict` values cannot be logged: nested dictionaries "
                    "have no one name."
                )
            self.log(
                name, value, prog_bar, logger, on_step, on_epoch, reduce_fx, enable_graph, sync_dist, sync_dist_group,
                add_dataloader_idx, batch_size, None, rank_zero_only,
            )  # fmt: skip

    def print(self, *args: Any, **kwargs: Any) -> None:
        """``print`` on rank 0, without breaking the progress bar."""
        if self._run is None:
            print(*args, **kwargs)
        else:
            self._run.print(*args, **kwargs)

    # ---------------------------------------------------------------------------------------------- the run

    @property
    def trainer(self) -> Any:
        """The Trainer, or what stands for it in a worker.

        Raises:
            RuntimeError: The model is not being used by a Trainer.
        """
        if self._trainer is None:
            raise RuntimeError(f"{type(self).__qualname__} is not attached to a `Trainer`.")
        return self._trainer

    @trainer.setter
    def trainer(self, trainer: Any) -> None:
        self._trainer = trainer
        for child in self.children():
            if isinstance(child, LightningModule):
                child.trainer = trainer

    def _attached_run(self) -> Run:
        """The run at work, or else the Trainer's last one in this process."""
        run: Run | None = self._run if self._run is not None else self.trainer.run
        if run is None:
            raise RuntimeError(f"{type(self).__qualname__} is not in a run: call this from a hook or a step.")
        return run

    def _attach(self, run: Run | None) -> None:
        """Join this module, and modules in it, to a run; None leaves the last trainer readable."""
        for module in self.modules():
            if isinstance(module, LightningModule):
                module._run = run
                if run is not None:
                    module._trainer = run.trainer

    @property
    def current_epoch(self) -> int:
        """0-based; 0 without a Trainer."""
        return self._trainer.current_epoch if self._trainer is not None else 0

    @property
    def global_step(self) -> int:
        """Optimizer steps so far; 0 without a Trainer."""
        return self._trainer.global_step if self._trainer is not None else 0

    @property
    def global_rank(self) -> int:
        """Of this worker, 0-based; 0 without a Trainer."""
        return self._trainer.global_rank if self._trainer is not None else 0

    @property
    def local_rank(self) -> int:
        """Of this worker on its node, 0-based; 0 without a Trainer."""
        return self._trainer.local_rank if self._trainer is not None else 0

    @property
    def logger(self) -> Logger | Any | None:
        """The first logger, or None."""
        return self._trainer.logger if self._trainer is not None else None

    @property
    def loggers(self) -> list[Any]:
        """All loggers."""
        return self._trainer.loggers if self._trainer is not None else []

    @property
    def device(self) -> torch.device:
        """Device of the first parameter or buffer; the CPU without any."""
        for tensor in itertools.chain(self.parameters(), self.buffers()):
            return tensor.device
        return torch.device("cpu")

    @property
    def on_gpu(self) -> bool:
        """Whether the model is on a CUDA device."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the first floating-point parameter; torch's default without any."""
        for parameter in self.parameters():
            if parameter.is_floating_point():
                return parameter.dtype
        return torch.get_default_dtype()

    def all_gather(self, data: Any, group: Any | None = None, sync_grads: bool = False) -> Any:
        """Collective: tensors of every worker, stacked.

        Args:
            data: A tensor, a number, or a nesting of them, of the same shape on all workers.
            group: A torch process group; None is all workers.
            sync_grads: Let gradients flow back to each worker.

        Returns:
            The same nesting; tensors of shape ``(...)`` have become ``(world size, ...)``, unchanged on one worker.
        """
        return self._attached_run().strategy.all_gather(data, group, sync_grads)

    # ---------------------------------------------------------------------------------------------- in and out

    @property
    def strict_loading(self) -> bool:
        """Whether loading weights demands that all names match; True unless set."""
        return self._strict_loading if self._strict_loading is not None else True

    @strict_loading.setter
    def strict_loading(self, strict: bool) -> None:
        self._strict_loading = strict

    def freeze(self) -> Self:
        """Evaluation mode, and no gradients for any parameter."""
        for parameter in self.parameters():
            parameter.requires_grad = False
        return self.eval()

    def unfreeze(self) -> Self:
        """Training mode, and gradients for all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad = True
        return self.train()

    @class_only
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | os.PathLike[str] | IO[bytes],
        map_location: Any = None,
        hparams_file: str | os.PathLike[str] | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """A model with the hyperparameters and weights of a checkpoint file.

        Args:
            checkpoint_path: A path, a URI (``http(s)://`` included), or a seekable binary stream.
            map_location: As for ``torch.load``. None: the device each tensor was saved on, where it exists.
            hparams_file: A YAML or CSV file of hyperparameters, where the checkpoint has none.
            strict: Whether all names must match. None: ``strict_loading``.
            weights_only: Makes no difference, False is warned about: a file never runs code.
            **kwargs: Arguments of ``__init__`` that take the place of stored ones.

        Raises:
            CheckpointError: The file is missing, broken or unsafe.
            WeightsMismatchError: Also a RuntimeError: names or shapes do not match.
            ValueError: ``strict`` contradicts what the model has set itself.
            TypeError: Called on an instance, or an argument of ``__init__`` is known neither here nor there.
        """
        checkpoint_format.check_weights_only(weights_only)
        checkpoint = migrate.load(checkpoint_path, map_location)
        model = make_again(cls, checkpoint, hparams_file, kwargs)
        if strict is not None and model._strict_loading not in (None, strict):
            raise ValueError(
                f"You set `.load_from_checkpoint(..., strict={strict!r})` which is in conflict with "
                f"`{cls.__name__}.strict_loading={model.strict_loading!r}. Please set the same value for both of them."
            )
        if "configure_model" in _overridden(cls):
            model.configure_model()
        model.on_load_checkpoint(checkpoint)
        strict = model.strict_loading if strict is None else strict
        keys = load_weights(model, checkpoint, strict)
        if not strict:
            warn_of_differences(keys)
        if not checkpoint["state_dict"]:
            rank_zero_warn(f"The state dict in {checkpoint_path!r} contains no parameters.")
            return model
        first = next((value for value in checkpoint["state_dict"].values() if isinstance(value, Tensor)), None)
        return model.to("cpu" if first is None else first.device)

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_trainer": None, "_run": None}
        state.pop("_compiled_call_impl", None)  # model.compile(): as torch leaves it out of a pickle
        return state


LightningModule.__jit_unused_properties__ = properties_of(LightningModule)


def _overridden(cls: type) -> set[str]:
    return {name for name in dir(cls) if getattr(cls, name, None) is not getattr(LightningModule, name, None)}


def _parameters(optimizer: Optimizer) -> set[Tensor]:
    return {parameter for group in optimizer.param_groups for parameter in group["params"]}


def _is_metric_collection(value: Any) -> bool:
    # Asked by name, so that a worker whose model has no torchmetrics need not import it.
    return any(base.__name__ == "MetricCollection" for base in type(value).__mro__)
