"""A run in this process that is lost at some batch, and goes on in another attempt from its last snapshot."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from ray import cloudpickle
from small_models import QUIET, Linear, batches

import raylight as pl
from raylight.config.accelerators import Placement
from raylight.config.flags import TrainerConfig
from raylight.config.messages import DataSource, Event, Job, TrainerFn
from raylight.engine.snapshots import PackedTensor, Snapshot, Snapshots, Start
from raylight.worker.control import StopRequest
from raylight.worker.execute import execute, single_rank

PLACEMENT = Placement(device_type="cpu", num_workers=1, num_nodes=1, resources={}, use_ray=True, device_index=0)
BATCHES = 8
"""Of an epoch."""


class LostError(Exception):
    """Stands for the end of the process."""


class Lose(pl.Callback):
    """Ends the attempt before a batch, counted over all epochs."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            raise LostError


@dataclass
class Attempt:
    """One attempt at a fit, with a snapshot after each batch but an epoch's last."""

    model: Any
    callbacks: list[Any] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the Job."""
    heard: list[Event] = field(default_factory=list)
    newest: Snapshot | None = None

    def run(self, start: Snapshot | None = None) -> Attempt:
        """To its end or, with a ``Lose``, to its loss."""
        flags = {name: value for name, value in QUIET.items() if name != "logger"}
        config = TrainerConfig.from_flags(**flags, max_epochs=3)
        source = DataSource(train=batches(2 * BATCHES))
        job = Job(TrainerFn.FITTING, config, PLACEMENT, self.model, source, self.callbacks, {}, **self.settings)
        snapshots = Snapshots(1, Start([start]) if start is not None else None)
        try:
            execute(job, single_rank(), torch.device("cpu"), self.heard.append, StopRequest(), snapshots)
        except LostError:
            assert start is None
        while (later := snapshots.next(0.0)) is not None:
            self.newest = cloudpickle.loads(cloudpickle.dumps(later))
        return self


def weights_and(model: Any, *names: str) -> tuple[Any, ...]:
    return (*(parameter.tolist() for parameter in model.parameters()), *(getattr(model, name) for name in names))


def lost_and_found(make: Callable[[], Any], batch: int) -> Any:
    """The model of a fit that was lost before ``batch``, in a new process as it were."""
    lost = Attempt(make(), [Lose(batch)]).run()
    assert lost.newest is not None
    return Attempt(make(), [Lose(-1)]).run(lost.newest).model


class Output(NamedTuple):
    prediction: Any


class EpochEnd(Linear):
    """Lightning 1.x: keeps the outputs of an epoch's batches, which are of a kind of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.means: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": self.loss(batch), "out": Output(self.layer(batch[0]).detach())}

    def training_epoch_end(self, outputs: Any) -> None:
        self.means.append(torch.cat([each["out"].prediction for each in outputs]).mean().item())


@pytest.mark.filterwarnings("ignore:.*training_epoch_end.*is Lightning 1.x")
def test_outputs_of_an_epoch_come_back_in_their_own_containers() -> None:
    whole = Attempt(EpochEnd()).run().model
    found = lost_and_found(EpochEnd, BATCHES + 4)
    assert len(whole.means) == 3
    assert weights_and(found, "means") == weights_and(whole, "means")


def test_a_packed_tensor_travels() -> None:
    packed = pickle.loads(pickle.dumps(PackedTensor.copy(torch.arange(3.0))))
    assert torch.equal(packed.tensor(), torch.arange(3.0))
