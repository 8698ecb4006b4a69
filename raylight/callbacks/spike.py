"""Stop when the loss jumps."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from torch import Tensor

from raylight.callbacks.base import Callback
from raylight.checkpoint import storage

if TYPE_CHECKING:
    from raylight.core.module import LightningModule
    from raylight.worker.trainer_view import TrainerView


class TrainingSpikeException(RuntimeError):
    """The loss of batch ``batch_idx`` is a spike."""

    def __init__(self, batch_idx: int, *args: Any) -> None:
        super().__init__(f"Training spike detected in batch {batch_idx}", *args)
        self.batch_idx = batch_idx

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.batch_idx, *self.args[1:])


class SpikeDetection(Callback):
    """Stop the fit with a ``TrainingSpikeException`` when the loss jumps away from its running mean.

    The batch and the one before it, whose step may have broken the weights, are written to a file, so that they can be
    left out of the next run. Reads the loss of every batch, which waits for the device. A spike on one rank stops all.

    Args:
        mode: "min" or "max": a loss that is better than the last one in this sense is no spike.
        window: Batches in the running mean.
        warmup: Batches at the start of each epoch whose loss is not judged.
        atol: A spike is at least this far from the mean. None: any distance will do.
        rtol: A spike is at least this many times the mean away from it. None: any distance will do.
        exclude_batches_path: A ``.json`` file for the list of batch indices, or the folder of ``skip_batches.json``.
            None: ``skip_batches.json`` in the Trainer's ``default_root_dir``.
        finite_only: Whether a loss that is NaN or infinite is a spike. Otherwise it is left out of the mean.

    Raises:
        TypeError: ``training_step`` returned neither a tensor nor a dict.
        TrainingSpikeException: A spike.
        ValueError: ``mode`` is unknown.
    """

    def __init__(
        self,
        mode: Literal["min", "max"] = "min",
        window: int = 10,
        warmup: int = 1,
        atol: float | None = None,
        rtol: float | None = 2.0,
        exclude_batches_path: str | os.PathLike[str] | None = None,
        finite_only: bool = True,
    ) -> None:
        self.mode = mode
        self.warmup = warmup
        self.atol = atol
        self.rtol = rtol
        self.exclude_batches_path = exclude_batches_path
        self.finite_only = finite_only
        self.bad_batches: list[int] = []
        self.last_val = 0.0
        self._window: deque[float] = deque(maxlen=window)

    @property
    def running_mean(self) -> float:
        """Of the last ``window`` losses; NaN before the first one."""
        return sum(self._window) / len(self._window) if self._window else math.nan

    def on_train_batch_end(
        self, trainer: TrainerView, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = _loss_of(outputs)
        self.exclude_batches_path = self._resolve_path(trainer)
        is_spike = batch_idx >= self.warmup and self._is_spike(loss)
        if trainer.strategy.reduce_boolean_decision(is_spike, all=False):
            self._handle_spike(trainer, batch_idx)
        finite = trainer.strategy.reduce_boolean_decision(math.isfinite(loss), all=True)
        if self.finite_only or finite:
            self._window.append(loss)
            self.last_val = loss

    def _resolve_path(self, trainer: TrainerView) -> str:
        path = os.fspath(trainer.default_root_dir if self.exclude_batches_path is None else self.exclude_batches_path)
        return path if path.endswith(".json") else storage.join(path, "skip_batches.json")

    def _is_spike(self, loss: float) -> bool:
        if self.finite_only and not math.isfinite(loss):
            return True
        if self._is_better(loss - self.last_val):
            return False
        distance, mean = abs(loss - self.running_mean), self.running_mean
        far = self.atol is None or distance >= abs(self.atol)
        return far and (self.rtol is None or distance >= abs(self.rtol * mean))

    def _is_better(self, difference: float) -> bool:
        if self.mode not in ("min", "max"):
            raise ValueError(f"Invalid mode. Has to be min or max, found {self.mode}")
        return difference <= 0 if self.mode == "min" else difference >= 0

    def _handle_spike(self, trainer: TrainerView, batch_idx: int) -> None:
        self.bad_batches.extend([batch_idx - 1, batch_idx])
        if trainer.is_global_zero:
            assert self.exclude_batches_path is not None
            content = json.dumps(self.bad_batches, indent=4).encode()

            def write(stream: BinaryIO) -> None:
                stream.write(content)

            storage.write_atomic(self.exclude_batches_path, write)
        raise TrainingSpikeException(batch_idx)

    def state_dict(self) -> dict[str, Any]:
        return {
            "last_val": self.last_val,
            "mode": self.mode,
            "warmup": self.warmup,
            "atol": self.atol,
            "rtol": self.rtol,
            "bad_batches": list(self.bad_batches),
            "bad_batches_path": None if self.exclude_batches_path is None else os.fspath(self.exclude_batches_path),
            "running": list(self._window),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_val = state_dict["last_val"]
        self.mode = state_dict["mode"]
        self.warmup = state_dict["warmup"]
        self.atol = state_dict["atol"]
        self.rtol = state_dict["rtol"]
        self.bad_batches = list(state_dict["bad_batches"])
        self.exclude_batches_path = state_dict["bad_batches_path"]
        self._window.clear()
        self._window.extend(state_dict["running"])  # nothing in a checkpoint of Lightning's


def _loss_of(outputs: Any) -> float:
    if isinstance(outputs, Mapping):
        outputs = outputs["loss"]
    if not isinstance(outputs, Tensor):
        raise TypeError(f"outputs have to be of type torch.Tensor or Mapping, got {type(outputs).__qualname__}")
    return outputs.item()
