"""Snapshots: what a run is at one moment, taken every few steps, from which it goes on when a worker is lost.

Runs in every worker. A snapshot stays in the worker's memory until the driver has fetched it; from then on it is the
driver's, in Ray's object store, which moves to disk what does not fit. It outlives the worker, and has nothing to do
with the user's checkpoint files.
"""

from __future__ import annotations

import collections
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from raylight.config.messages import GoesOn
from raylight.engine import changes
from raylight.engine.failures import is_collateral
from raylight.strategies.base import frozen
from raylight.utilities import tree
from raylight.worker import checkpointing, exact, resizing
from raylight.worker.control import LeaveFit, NoSnapshots
from raylight.worker.state import TrainState

if TYPE_CHECKING:
    from raylight.worker.run import Run

COST_SHARE = 0.01
"""Of a run's time that snapshots may take."""
SENDING = 2.0
"""What a snapshot costs, for each second that taking it does: sending it is work as well, of another thread."""
SECONDS_BETWEEN = 3.0
"""At least, unless the user wants them more often: each is some calls of Ray's for worker and driver."""
FIRST_AFTER = 10
"""Batches before the first, from whose cost the distance of the others follows."""
KEPT = 2
"""Snapshots that wait to be fetched."""
SECONDS_TO_HAND_OVER = 60.0
"""For the last snapshot of a run that goes on with other workers."""
OF_THE_PROCESS = ("fn", "status", "stage", "world_size", "num_nodes", "global_rank", "local_rank", "node_rank",
                  "device_type", "shares", "num_training_batches", "val_check_batch")  # fmt: skip
"""Fields of TrainState that a new process has of its own, or has worked out from its loaders."""


@dataclass(frozen=True)
class Moment:
    """Which snapshot it is."""

    batch: int
    """Batches trained on, over all epochs."""
    step: int
    """Optimizer steps."""
    records: int
    """Of the run's events, those that had been sent: the driver has to have them before it counts the snapshot."""
    wall_time: float
    """Seconds since 1970."""


@dataclass
class Snapshot:
    """One rank's part."""

    moment: Moment
    shared: dict[str, Any] | None
    """As a checkpoint: what is the same on all ranks; from rank 0 only."""
    own: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """Where a run goes on."""

    parts: list[Snapshot | None]
    """By former rank; None: no concern of this rank's."""

    @property
    def first(self) -> Snapshot:
        """Rank 0's part, which every rank is given."""
        assert self.parts[0] is not None
        return self.parts[0]


class PackedTensor:
    """A tensor as an array, which Ray sends without copying it. No dataclass: ``tree`` would look into it."""

    __slots__ = ("array", "dtype", "shape")

    def __init__(self, array: np.ndarray[Any, Any], dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        self.array, self.dtype, self.shape = array, dtype, shape

    @classmethod
    def copy(cls, tensor: Tensor) -> PackedTensor:
        flat = tensor.detach().to("cpu", copy=True).contiguous().reshape(-1)
        return cls(
            flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8), tensor.dtype, tensor.shape
        )

    def tensor(self) -> Tensor:
        if not self.array.size:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.from_numpy(self.array.copy()).view(self.dtype).reshape(self.shape)


class Snapshots(NoSnapshots):
    """Takes a run's snapshots, or puts it back to one.

    Args:
        every_n_steps: Most optimizer steps between two; None: as many as the cost asks for.
        start: The one to go on from.
    """

    def __init__(self, every_n_steps: int | None, start: Start | None) -> None:
        self.start = start
        self._every_n_steps = every_n_steps
        self._changes = changes.Changes()
        self._last = (0, 0.0)
        """Batch and time of the last one."""
        self._waiting: collections.deque[Snapshot] = collections.deque(maxlen=KEPT)
        self._handed_over = -1
        """Batch of the latest that was asked for and given."""
        self._leaves = False
        self._changed = threading.Condition()
        self._is_over = False

    # ------------------------------------------------------------------------------------------------ going on

    def checkpoint(self) -> dict[str, Any]:
        assert self.start is not None
        checkpoint: dict[str, Any] = _unpacked(self.start.first.shared)
        return checkpoint

    def restore(self, run: Run) -> None:
        self._changes.begin(run)
        if self.start is not None:
            self._restore(run, self.start)

    def begin(self, run: Run) -> None:
        if self.start is not None:
            run.go_on_speaking(self.start.first.moment.records)
        if run.redone_since is not None:
            run.emit(GoesOn(run.state.global_step))
        every = self._every_n_steps or FIRST_AFTER
        self._last = (run.state.total_batches, time.monotonic())
        self.due = run.state.total_batches + min(every, FIRST_AFTER) * run.state.accumulate_grad_batches
        self.start = None

    def _restore(self, run: Run, start: Start) -> None:
        own = _unpacked((start.parts[run.strategy.global_rank % len(start.parts)] or start.first).own)
        changes.unpack(run, own["attributes"])
        run.state.take(own["state"])
        if run.job.placement.keeps_global_batch:
            run.state.accumulate_grad_batches = (
                run.state.accumulate_grad_batches * len(start.parts) // run.strategy.world_size
            )
        # Before the buffers: a new wrapper gives all ranks those of rank 0.
        _restore_frozen(run, own["frozen"], own["frozen_when_wrapped"])
        with torch.no_grad():
            for name, value in run.model.named_buffers():
                if name in own["buffers"]:
                    value.copy_(own["buffers"][name])
        for name, module in run.model.named_modules():
            module.training = name not in own["evaluating"]
        for name, value in own["run"].items():
            setattr(run, name, value)
        run.epoch_outputs = own["epoch_outputs"]
        for prefix, seen in own["seen"].items():
            if prefix in run.eval_data:
                run.eval_data[prefix].seen = seen
        if len(start.parts) == run.strategy.world_size:
            run.own_state = own["exact"]
        else:
            parts = [_unpacked(part.own)["exact"] if part is not None else {} for part in start.parts]
            run.own_state = resizing.merged(run, parts, run.strategy.global_rank)
            self._merge_outputs(run, start)

    def _merge_outputs(self, run: Run, start: Start) -> None:
        if run.epoch_outputs is not None:
            own = start.parts[run.strategy.global_rank :: run.strategy.world_size]
            run.epoch_outputs = [
                each for part in own if part is not None for each in _unpacked(part.own)["epoch_outputs"]
            ]

    def outlives(self, error: BaseException) -> bool:
        return is_collateral(error)

    # ------------------------------------------------------------------------------------------------ taking

    def take(self, run: Run) -> None:
        before = time.monotonic()
        last_batch, last_time = self._last
        step_seconds = (before - last_time) / max(1, run.state.total_batches - last_batch)
        snapshot = self._make(run)
        with self._changed:
            self._waiting.append(snapshot)
            self._changed.notify_all()
        cost = (time.monotonic() - before) * SENDING
        if self._leaves:
            self._hand_over(snapshot.moment.batch)
            raise LeaveFit(snapshot.moment.batch)
        self.due = run.state.total_batches + self._agree(run, cost, step_seconds)
        self._last = (run.state.total_batches, time.monotonic())

    def leave(self) -> bool:
        self._leaves, self.due = True, 0
        return True

    def _hand_over(self, batch: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._handed_over >= batch, SECONDS_TO_HAND_OVER)

    def _agree(self, run: Run, cost: float, step_seconds: float) -> int:
        """Batches until the next, from the slowest rank's figures."""
        mine = torch.tensor([cost, step_seconds], dtype=torch.float64)
        figures = run.strategy.all_gather(mine).reshape(-1, 2)
        cost, step_seconds = figures[:, 0].max().item(), max(figures[:, 1].max().item(), 1e-6)
        batches = math.ceil(max(cost / COST_SHARE, SECONDS_BETWEEN) / step_seconds)
        if self._every_n_steps is not None:
            batches = min(batches, self._every_n_steps * run.state.accumulate_grad_batches)
        return max(1, batches)

    def _make(self, run: Run) -> Snapshot:
        state = run.state
        shared = checkpointing.dump_quietly(run)
        moment = Moment(state.total_batches, state.global_step, run.num_records, time.time())
        own = {
            "attributes": self._changes.pack(run),
            "state": {name: value for name, value in vars(state).items() if name not in OF_THE_PROCESS},
            "frozen": frozen(run.model),
            "frozen_when_wrapped": run.strategy.frozen,
            "buffers": dict(run.model.named_buffers()),
            "evaluating": {name for name, module in run.model.named_modules() if not module.training},
            "run": {
                "last_train_load": run.last_train_load,
                "last_val_load": run.last_val_load,
                "validated_last": run.validated_last,
            },
            "epoch_outputs": run.epoch_outputs,
            "seen": {prefix: list(evaluated.seen) for prefix, evaluated in run.eval_data.items()},
            "exact": exact.dump(run),
        }
        return Snapshot(moment, _packed(shared) if run.strategy.is_global_zero else None, _packed(own))

    # ------------------------------------------------------------------------------------------------ handing over

    def next(self, seconds: float) -> Snapshot | None:
        """The one that follows what was handed over; None where none is there within ``seconds``, or will be.

        Called from another thread.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or any(self._later()), seconds)
            found = next(self._later(), None)
            if found is not None:
                self._handed_over = found.moment.batch
                self._changed.notify_all()
            return found

    def _later(self) -> Iterator[Snapshot]:
        return (snapshot for snapshot in self._waiting if snapshot.moment.batch > self._handed_over)

    def close(self) -> None:
        """The run is over."""
        with self._changed:
            self._is_over = True
            self._waiting.clear()
            self._changed.notify_all()


def _restore_frozen(run: Run, now: frozenset[str], when_wrapped: frozenset[str]) -> None:
    """Collective: which parameters require no gradients, and required none when the model was wrapped."""
    if when_wrapped != run.strategy.frozen:
        _freeze(run.model, when_wrapped)
        run.strategy.rewrap()
    _freeze(run.model, now)


def _freeze(model: torch.nn.Module, names: frozenset[str]) -> None:
    """These parameters, and no others."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad == (name in names):
            parameter.requires_grad = name not in names


def _packed(values: Any) -> Any:
    return tree.map_leaves(lambda leaf: PackedTensor.copy(leaf) if isinstance(leaf, Tensor) else leaf, values)


def _unpacked(values: Any) -> Any:
    return tree.map_leaves(lambda leaf: leaf.tensor() if isinstance(leaf, PackedTensor) else leaf, values)


assert set(OF_THE_PROCESS) <= set(TrainState.__dataclass_fields__)
