"""What crosses between driver and worker: a Job out, events while it runs, an Outcome back."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from raylight.config.flags import TrainerConfig
from raylight.utilities.secrets import redact, redact_text

if TYPE_CHECKING:
    from raylight.config.accelerators import Placement


class StrEnum(str, Enum):
    """A string that is one of a few; compares equal to its value."""

    def __str__(self) -> str:
        return str(self.value)


class TrainerFn(StrEnum):
    """Which method of the Trainer runs."""

    FITTING = "fit"
    VALIDATING = "validate"
    TESTING = "test"
    PREDICTING = "predict"


class RunningStage(StrEnum):
    """Which kind of batch is at work."""

    TRAINING = "train"
    SANITY_CHECKING = "sanity_check"
    VALIDATING = "validate"
    TESTING = "test"
    PREDICTING = "predict"

    @property
    def evaluating(self) -> bool:
        return self in (RunningStage.SANITY_CHECKING, RunningStage.VALIDATING, RunningStage.TESTING)

    @property
    def dataloader_prefix(self) -> str:
        """ "train", "val", "test" or "predict": how methods and flags of this stage's data begin."""
        in_validation = self in (RunningStage.SANITY_CHECKING, RunningStage.VALIDATING)
        return "val" if in_validation else str(self.value)

    @property
    def hook_prefix(self) -> str:
        """ "train", "validation", "test" or "predict": how hooks of this stage are named."""
        in_validation = self in (RunningStage.SANITY_CHECKING, RunningStage.VALIDATING)
        return "validation" if in_validation else str(self.value)


class TrainerStatus(StrEnum):
    """How far a call has come."""

    INITIALIZING = "initializing"
    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"

    @property
    def stopped(self) -> bool:
        """No call is running."""
        return self in (TrainerStatus.FINISHED, TrainerStatus.INTERRUPTED)


@dataclass
class DataSource:
    """The user's loaders of one call, or the datamodule that makes them; all None: the model makes them."""

    train: Any = None
    val: Any = None
    test: Any = None
    predict: Any = None
    datamodule: Any = None


@dataclass(frozen=True)
class LoggerInfo:
    """What a worker must know of a logger that lives on the driver."""

    attributes: dict[str, Any]
    """Its public attributes that are plain values, such as name, version, save_dir, or MLflow's run_id."""
    kind: type
    """A class of raylight's that it is an instance of, for ``isinstance`` in a worker."""
    class_name: str


@dataclass
class Job:
    """One call of fit, validate, test or predict: everything a worker needs to do it."""

    fn: TrainerFn
    config: TrainerConfig
    placement: Placement
    model: Any
    data: DataSource
    callbacks: list[Any]
    progress: dict[str, Any]
    """Counters of the trainer so far, as ``TrainState.progress`` gives them: a second fit goes on from there."""
    ckpt_path: str | None = None
    fallbacks: list[str] = field(default_factory=list)
    """Files to try in its place, where it is damaged."""
    is_trained: bool = False
    """``ckpt_path`` is the end of this very fit, of an earlier submission: no training is left to do."""
    log_dir: str | None = None
    """Where logs of this run go, a path of the driver's; None when nothing is logged."""
    root_dir: str = "."
    """Absolute default_root_dir on the driver."""
    loggers: list[Any] = field(default_factory=list)
    """The loggers themselves in the local engine, a LoggerInfo each for a worker."""
    return_predictions: bool = True
    write_to: str | None = None
    """Folder or URI that predict writes to, absolute."""
    strategy: Any = None
    """The Strategy itself in the local engine; None in a worker, which makes its own."""
    profiler: Any = None
    """The trainer's Profiler; every rank records with its own copy."""
    redone_since: float | None = None
    """After a worker was lost: files that are newer were written by an attempt that is done again; in seconds since
    1970. None in the first attempt."""
    shows_pace: bool = False
    """The driver shows how fast the ranks are."""
    trainer: Any = None
    """What hooks see as ``trainer``: the user's Trainer in the local engine; None in a worker, which makes its own."""


@dataclass
class Outcome:
    """What comes back from rank 0 when a call is over."""

    state: Any
    """The TrainState, with all metrics on the CPU."""
    weights: dict[str, Any] | None = None
    """The model's state_dict on the CPU; None in the local engine, where the model is the user's own."""
    attributes: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """From a worker: pickled attributes of the model, each callback and the datamodule."""
    left_behind: list[str] = field(default_factory=list)
    """Attributes that were too large to travel."""
    rng_state: dict[str, Any] | None = None
    """From a worker: random numbers go on from here, as if the run had been in this process."""
    results: list[dict[str, float]] = field(default_factory=list)
    """validate and test: the metrics of each dataloader."""
    predictions: list[Any] | None = None
    """predict: a list of batches, or a list of those per dataloader; in dataset order."""
    interrupted: bool = False
    """The run stopped early because the driver asked for it."""
    terminated: bool = False
    """The driver's process was told to end meanwhile, by a SIGTERM."""


# Events, worker -> driver, in the order they happened


@dataclass(frozen=True)
class Progress:
    """Where a bar stands. A new ``key`` opens a bar, ``starts`` starts it anew, ``done`` closes it."""

    key: str
    """"sanity_check", "train", "validate", "test" or "predict"."""
    description: str
    completed: int
    total: float
    """Batches in all, inf when unknown."""
    metrics: dict[str, Any]
    starts: bool = False
    done: bool = False


@dataclass(frozen=True)
class Text:
    """Something to print on the driver's terminal."""

    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", redact_text(self.text))


@dataclass(frozen=True)
class Metrics:
    """A row for every logger."""

    metrics: dict[str, float]
    step: int


@dataclass(frozen=True)
class LoggerCall:
    """A call of a logger's method, or of a method of its ``experiment``, to be made on the driver."""

    index: int
    """Which logger."""
    path: tuple[str, ...]
    """Attribute names from the logger to the method, such as ("experiment", "add_image")."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "args", redact(self.args)[0])
        object.__setattr__(self, "kwargs", redact(self.kwargs)[0])


@dataclass(frozen=True)
class Report:
    """What a trial of a search has reached. The only event with an answer: False ends the call here."""

    values: dict[str, float]
    """Metrics by name."""
    checkpoint: str | None = None
    """A checkpoint of this moment: a file on the driver's node."""


@dataclass(frozen=True)
class GoesOn:
    """After a worker was lost, training goes on."""

    step: int
    """Optimizer steps done, at the snapshot that it goes on from."""


@dataclass(frozen=True)
class Incident:
    """A failure of a machine that a run has survived. Made on the driver."""

    what: str
    """What happened, and to whom."""
    rank: int | None
    """None: to no single one."""
    node: str | None
    """IP address of that rank's node."""
    step: int
    """Optimizer steps done, where training went on: 0 from the beginning."""
    seconds: float
    """From when the driver knew until training went on."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "what", redact_text(self.what))


@dataclass(frozen=True)
class Pace:
    """How fast the ranks are. Made on the driver, of what all of them have counted in the last seconds."""

    world_size: int
    samples_per_second: float
    """Of all ranks."""
    batch_seconds: float
    """From one batch to the next, of a rank."""
    slowest: int | None
    """The rank that the others wait for; None: they are about equally fast."""
    lag_seconds: float
    """Per batch, that it is behind the median."""
    data_seconds: float
    """Per batch, that it waits for data."""


Record = Text | Metrics | LoggerCall | Report
"""Events that are counted: what is done again after a failure sends the same ones, and the driver drops them."""
Event = Record | Progress | GoesOn | Incident | Pace
