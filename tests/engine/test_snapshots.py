"""A run in this process that is lost at some batch, and goes on in another attempt from its last snapshot."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from ray import cloudpickle
from small_models import QUIET, Linear, batches

import raylight as pl
from raylight.config.accelerators import Placement
from raylight.config.flags import TrainerConfig
from raylight.config.messages import DataSource, Event, Job, LoggerCall, LoggerInfo, Metrics, Text, TrainerFn
from raylight.engine import snapshots as snapshots_module
from raylight.engine.attributes import Packer
from raylight.engine.changes import Packed
from raylight.engine.recovery import Listener
from raylight.engine.snapshots import PackedTensor, Snapshot, Snapshots, Start
from raylight.worker.control import LeaveFit, StopRequest
from raylight.worker.execute import execute, single_rank

PLACEMENT = Placement(device_type="cpu", num_workers=1, num_nodes=1, resources={}, use_ray=True, device_index=0)
MIB = 1024 * 1024
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


class Leave(pl.Callback):
    """Has the run leave after a batch, as for one of other workers."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            trainer.run.snapshots.leave()


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
        config = TrainerConfig.from_flags(**flags, max_epochs=3, log_every_n_steps=2)
        source = DataSource(train=batches(2 * BATCHES))
        job = Job(TrainerFn.FITTING, config, PLACEMENT, self.model, source, self.callbacks, {}, **self.settings)
        snapshots = Snapshots(1, Start([start]) if start is not None else None)
        try:
            execute(job, single_rank(), torch.device("cpu"), self.heard.append, StopRequest(), snapshots)
        except (LostError, LeaveFit):
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


# ---------------------------------------------------------------------------------------------------- leaving


@pytest.fixture
def _nobody_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots_module, "SECONDS_TO_HAND_OVER", 0.0)


class LastWords(pl.Callback):
    """Prints and logs in its teardown."""

    def teardown(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        trainer.print("the end")
        trainer.logger.experiment.add_text("the end", "")
        trainer.logger.log_metrics({"end": 1.0})


@pytest.mark.usefixtures("_nobody_fetches")
def test_what_a_left_attempt_says_in_teardown_takes_no_rows_place() -> None:
    logger = LoggerInfo({}, pl.loggers.CSVLogger, "CSVLogger")

    def attempt(*callbacks: Any) -> Attempt:
        return Attempt(Linear(), [*callbacks, LastWords()], {"loggers": [logger]})

    def rows(heard: list[Event]) -> list[Any]:
        return [event for event in heard if isinstance(event, Text | Metrics | LoggerCall)]

    heard: list[Event] = []
    listener = Listener(heard.append)
    left = attempt(Leave(4)).run()
    assert left.newest is not None
    for position, part in ((0, left), (left.newest.moment.records, attempt().run(left.newest))):
        listener.start(position)
        for event in part.heard:
            listener.take(event)
    assert rows(heard) == rows(attempt().run().heard)


@pytest.mark.usefixtures("_nobody_fetches")
def test_a_left_attempt_leaves_the_file_that_it_was_resumed_from(tmp_path: Path) -> None:
    keeper = pl.callbacks.OnExceptionCheckpoint(tmp_path)
    Path(keeper.ckpt_path).touch()
    left = Attempt(Linear(), [Leave(4), keeper]).run()
    assert Path(keeper.ckpt_path).exists()
    assert left.newest is not None
    Attempt(Linear(), [keeper]).run(left.newest)
    assert not Path(keeper.ckpt_path).exists()


@pytest.mark.usefixtures("_nobody_fetches")
def test_files_of_a_run_that_goes_on_are_no_surprise(tmp_path: Path) -> None:
    """Nobody is warned of a folder that is not empty."""
    keeper = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=2)
    left = Attempt(Linear(), [keeper, Leave(4)]).run()
    assert list(tmp_path.iterdir())
    assert left.newest is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Attempt(Linear(), [keeper]).run(left.newest)


# ---------------------------------------------------------------------------------------------------- attributes


class Odd(Linear):
    """Has attributes that are large, or cannot be pickled, some of which change."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.large = [bytes(MIB) for _ in range(5)]
        self.history: list[bytes] = []
        self.stream: Any = None
        self.number = 0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.history.append(bytes(MIB))
        self.number += 1
        self.stream = (each for each in ()) if self.number < 3 else [self.number]


def test_what_has_changed_and_is_no_part_of_a_snapshot_is_told() -> None:
    with pytest.warns(UserWarning, match=r"is no part of snapshots") as told:
        lost = Attempt(Odd(), [Lose(6)]).run()
    texts = sorted(str(each.message).partition(":")[0] for each in told)
    assert texts == [
        "Odd.history is no part of snapshots (it takes more than 4 MiB)",
        "Odd.stream is no part of snapshots (cannot pickle 'generator' object)",
    ]
    assert lost.newest is not None
    packed = {name for owner, name in lost.newest.own["attributes"] if owner == "model"}
    assert packed >= {"number", "stream"}, "what could not travel is tried again"
    assert packed.isdisjoint({"lock", "large", "history"})


class Encoder(torch.nn.Linear):
    """Keeps a tensor of its own beside its weights."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        torch.nn.init.constant_(self.weight, 0.1)
        torch.nn.init.constant_(self.bias, 0.0)
        self.temperature = 1.0
        self.mean = torch.zeros(4)
        self.latest = torch.zeros(4)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * features.mean(0)
        self.latest = super().forward(features) / self.temperature
        return self.latest


class Freezing(Linear):
    """Changes a submodule when the second epoch starts."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()

    def loss(self, batch: Any) -> torch.Tensor:
        encoded = self.encoder(batch[0])
        return (self.layer(encoded) - batch[1] - self.encoder.mean.sum()).square().mean()

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.encoder.bias.requires_grad_(False)
            self.encoder.temperature = 0.5

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_what_a_hook_has_done_to_a_submodule_is_not_lost() -> None:
    whole = Attempt(Freezing()).run().model
    lost = Attempt(Freezing(), [Lose(BATCHES + 4)]).run()
    assert lost.newest is not None
    changed = {place for place in lost.newest.own["attributes"] if place[0].startswith("module")}
    assert changed == {("module encoder", "temperature"), ("module encoder", "mean")}, (
        "a forward makes the latest again"
    )
    found = Attempt(Freezing()).run(lost.newest).model
    assert not found.encoder.bias.requires_grad
    assert found.encoder.temperature == 0.5
    assert torch.equal(found.encoder.mean, whole.encoder.mean)
    assert weights_and(found) == weights_and(whole)
    assert whole.layer.weight.isfinite().all()


def test_an_attribute_does_not_hide_a_parameter() -> None:
    model = Linear()
    lost = Attempt(Linear(), [Lose(4)]).run()
    assert lost.newest is not None
    packed = Packer([], MIB).dumps(torch.ones(1, 4))
    lost.newest.own["attributes"]["module layer", "weight"] = Packed(packed, was_on_device=False)
    Attempt(model, [Lose(-1)]).run(lost.newest)
    assert "weight" not in vars(model.layer)
