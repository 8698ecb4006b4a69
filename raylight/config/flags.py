"""Every Trainer flag: its type, default, unit and check.

A flag is read where it acts (``grep`` its name to find the one place); here it is only described and checked. All
mistakes of a call are reported together.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from raylight.utilities.durations import parse_duration
from raylight.utilities.exceptions import MisconfigurationException, UnknownFlagError

LAUNCHER_VARIABLE = "RAYLIGHT_LAUNCHER"

CHOICES: dict[str, tuple[Any, ...]] = {
    "launcher": ("auto", "local", "ray"),
    "elastic": ("global_batch", "local_batch"),
    "multiple_trainloader_mode": ("max_size_cycle", "min_size", "max_size"),
    "auto_scale_batch_size": (None, False, True, "power", "binsearch", "throughput"),
    "weights_summary": ("top", "full"),
}
CLIP_ALGORITHMS = ("value", "norm")
SWITCHED_OFF_BY_BAREBONES = {
    "enable_checkpointing": "Checkpointing can impact raw speed",
    "enable_progress_bar": "The progress bar can impact raw speed",
    "enable_model_summary": "Model summary can impact raw speed",
    "log_every_n_steps": "Logging can impact raw speed",
    "num_sanity_val_steps": "Sanity checking can impact raw speed",
    "fast_dev_run": "Development run is not meant for raw speed evaluation",
    "detect_anomaly": "Anomaly detection can impact raw speed",
    "profiler": "Profiling can impact raw speed",
}
INTS = (
    "snapshot_every_n_steps",
    "min_epochs",
    "max_epochs",
    "min_steps",
    "num_sanity_val_steps",
    "log_every_n_steps",
)
BOOLS = (
    "sync_batchnorm",
    "benchmark",
    "detect_anomaly",
    "inference_mode",
    "use_distributed_sampler",
    "shard_iterable_datasets",
    "enable_checkpointing",
    "enable_progress_bar",
    "enable_model_summary",
    "enable_autolog_hparams",
    "barebones",
    "prepare_data_per_node",
    "automatic_optimization",
    "stochastic_weight_avg",
    "terminate_on_nan",
)
LATER: dict[str, str] = {
    "model_registry": "Give ckpt_path= a file.",
}
"""Lightning's flags that raylight has no meaning for yet, and what to use instead; their default value is accepted."""


def _old(default: Any) -> Any:
    """A field for a flag of Lightning 1.x, which is no argument of the Trainer's signature."""
    return dataclasses.field(default=default, metadata={"old": True})


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """What was asked for, complete and checked. Crosses from driver to worker; nothing in it ever changes.

    Raises:
        MisconfigurationException: Flags with impossible values, all of them in one message.
    """

    # Where it runs
    accelerator: str | Any = "auto"
    """"cpu", "gpu", "cuda", an Accelerator, or "auto": a GPU where there is one."""
    devices: int | str | list[int] = "auto"
    """Workers per node: a count, "3", -1 for all, or a list of GPU indices. "auto" is 1, or all of a machine's GPUs."""
    num_nodes: int = 1
    """Nodes; the number of workers is ``devices`` times this."""
    num_workers: int | tuple[int, int] | None = None
    """Workers in all, wherever Ray finds room; takes the place of ``devices`` x ``num_nodes``. Always runs on Ray.
    ``(min, max)``: starts with as many as there is room for, goes on with fewer when some are lost, and with more when
    there is room again."""
    elastic: str = "global_batch"
    """With ``num_workers=(min, max)``, what stays when the number changes: "global_batch": the samples of an optimizer
    step, those of ``max`` workers; fewer accumulate gradients over more batches. "local_batch": the batches of each
    worker."""
    elastic_wait: float = 30.0
    """Seconds to wait for a lost worker's successor before fewer go on; with ``num_workers=(min, max)``."""
    resources_per_worker: dict[str, float] | None = None
    """Ray resources of one worker, such as ``{"CPU": 4, "GPU": 1}``. None is 1 CPU, and 1 GPU where one is used."""
    launcher: str = dataclasses.field(default_factory=lambda: os.environ.get(LAUNCHER_VARIABLE, "auto"))
    """"local": in this process; "ray": on a Ray cluster; "auto": local when one worker is asked for that fits here.
    The environment variable RAYLIGHT_LAUNCHER sets the default."""
    resource_timeout: float = 60.0
    """Seconds to wait for the cluster to have room before giving up; who holds the resources is shown meanwhile."""
    idle_timeout: float = 600.0
    """Seconds that warm workers are kept after a call without another one."""
    max_failures: int = 3
    """Failures of the machines, such as a lost worker, that a call survives; 0: the first ends it. No exception of the
    user's code is one."""
    snapshot_every_n_steps: int | None = None
    """Most optimizer steps between two snapshots that a run goes on from; None: as many as keep their cost at about
    one percent of the run's time. Only on Ray."""
    spare_workers: int = 0
    """Processes that stand ready to take the place of a lost worker of their node. Only on Ray."""
    hang_timeout: float | None = 1800.0
    """Seconds without a batch on any worker after which the one to blame is killed and replaced; None: never."""
    strategy: str | Any = "auto"
    """"auto", "ddp" (and "ddp_find_unused_parameters_true/false"), "single_device", or a Strategy."""
    sync_batchnorm: bool = False
    """Compute BatchNorm statistics over all workers."""

    # Numbers
    precision: str | int | None = None
    """"32-true" (None), "64-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", or their short names."""
    plugins: Any = None
    """One or several of: a Precision, in place of ``precision``; a CheckpointIO; a LayerSync."""
    deterministic: bool | str | None = None
    """True: only deterministic algorithms, an error where there is none; "warn": a warning there."""
    benchmark: bool | None = None
    """torch.backends.cudnn.benchmark; None leaves it as it is."""
    detect_anomaly: bool = False
    """torch.autograd's anomaly mode."""
    inference_mode: bool = True
    """Run validate, test and predict under torch.inference_mode; False, or several workers: torch.no_grad."""

    # How long
    fast_dev_run: bool | int = False
    """Run n (True: 1) batches of everything once, with nothing written."""
    max_epochs: int | None = None
    """Epochs to train; -1 has no limit; None is 1000 where nothing else limits the run."""
    min_epochs: int | None = None
    """Epochs before which a request to stop is not honoured."""
    max_steps: int = -1
    """Optimizer steps to train; -1 has no limit."""
    min_steps: int | None = None
    """Optimizer steps before which a request to stop is not honoured."""
    max_time: str | timedelta | dict[str, int] | None = None
    """Time to train: "DD:HH:MM:SS", a timedelta, or a dict of its arguments."""

    # How much data; a float is a share of the loader, an int a number of batches per worker
    limit_train_batches: int | float | None = None
    limit_val_batches: int | float | None = None
    limit_test_batches: int | float | None = None
    limit_predict_batches: int | float | None = None
    overfit_batches: int | float = 0.0
    """Train and validate on the same few batches, without shuffling."""
    use_distributed_sampler: bool = True
    """Share the data among the workers; False leaves that to the user's own sampler."""
    shard_iterable_datasets: bool = False
    """Give every worker each N-th item of an IterableDataset that does not divide its data itself."""
    reload_dataloaders_every_n_epochs: int = 0
    """Ask for new loaders every n epochs; 0 never."""

    # When to validate and log
    val_check_interval: int | float | str | timedelta | dict[str, int] | None = None
    """A share of an epoch (float), a number of batches (int), or a wall-clock interval."""
    check_val_every_n_epoch: int | None = 1
    """None counts the batches of ``val_check_interval`` across epochs."""
    num_sanity_val_steps: int | None = None
    """Validation batches to try before training; None is 2, -1 is all, 0 is none."""
    log_every_n_steps: int | None = None
    """Optimizer steps between two writes of step metrics; None is 50, 0 is never."""
    enable_checkpointing: bool | None = None
    enable_progress_bar: bool | None = None
    enable_model_summary: bool | None = None
    enable_autolog_hparams: bool = True
    """Hand the saved hyperparameters of model and datamodule to the loggers when a call starts."""
    profiler: Any = None
    """"simple", "advanced", "pytorch", or a Profiler: records what each part of a run takes; None does not."""
    barebones: bool = False
    """Switch off everything that costs time and is not training; ``self.log`` does nothing."""
    default_root_dir: str | os.PathLike[str] | None = None
    """Folder for logs and checkpoints that have no other; None is the current one."""

    # Gradients
    accumulate_grad_batches: int | dict[int, int] = 1
    """Batches whose gradients are added up before a step; a dict ``{first epoch: factor}`` changes it over time."""
    gradient_clip_val: int | float | None = None
    gradient_clip_algorithm: str | None = None
    """"norm" (None) or "value"."""

    # Lightning 1.x's that no flag has succeeded; raylight.config.legacy tells what has
    resume_from_checkpoint: str | os.PathLike[str] | None = _old(None)
    """The checkpoint that ``fit`` starts from when it is given none."""
    multiple_trainloader_mode: str = _old("max_size_cycle")
    """How several training loaders go together: a mode of CombinedLoader."""
    prepare_data_per_node: bool = _old(True)
    """False: ``prepare_data`` runs once for all nodes."""
    automatic_optimization: bool | None = _old(None)
    """What the model's property is set to; None leaves it."""
    auto_lr_find: bool | str = _old(False)
    """Whether ``tune`` looks for a learning rate; a str names the attribute that it goes to."""
    auto_scale_batch_size: bool | str | None = _old(False)
    """How ``tune`` looks for a batch size: "power" (True), "binsearch" or "throughput"; False: it does not."""
    stochastic_weight_avg: bool = _old(False)
    """Add the callback StochasticWeightAveraging."""
    terminate_on_nan: bool = _old(False)
    """End the run with ValueError where a loss or a parameter is not finite."""
    track_grad_norm: int | float | str = _old(-1)
    """p of the gradients' norm to log; -1: none."""
    weights_save_path: str | os.PathLike[str] | None = _old(None)
    """Root of checkpoints whose callback names no folder."""
    progress_bar_refresh_rate: int | None = _old(None)
    """Batches between two updates of the TQDM bar."""
    process_position: int = _old(0)
    """Lines to leave free above the TQDM bar."""
    weights_summary: str | None = _old("top")
    """Depth of the model's summary: "top" or "full"."""
    log_gpu_memory: bool | str | None = _old(None)
    """Add the callback DeviceStatsMonitor."""

    OWN: ClassVar[tuple[str, ...]] = (
        "num_workers",
        "elastic",
        "elastic_wait",
        "resources_per_worker",
        "launcher",
        "resource_timeout",
        "idle_timeout",
        "max_failures",
        "snapshot_every_n_steps",
        "spare_workers",
        "hang_timeout",
    )
    """Flags that Lightning does not have; no command-line arguments, as scripts have a --num_workers of their own."""
    LIMITS: ClassVar[tuple[str, ...]] = (
        "limit_train_batches",
        "limit_val_batches",
        "limit_test_batches",
        "limit_predict_batches",
        "overfit_batches",
    )

    @classmethod
    def from_flags(cls, **flags: Any) -> TrainerConfig:
        """A config of the user's keyword arguments.

        Raises:
            UnknownFlagError: Flags that do not exist, all of them, each with a guess.
            MisconfigurationException: As the class.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        unknown = [name for name in flags if name not in names and name not in LATER]
        if unknown:
            plural = "an unexpected keyword argument" if len(unknown) == 1 else "unexpected keyword arguments"
            raise UnknownFlagError(
                f"Trainer.__init__() got {plural} {', '.join(_guess(name, names) for name in unknown)}."
            )
        unusable = [f"{name}={flags[name]!r}: {hint}" for name, hint in LATER.items() if flags.get(name) is not None]
        if unusable:
            raise MisconfigurationException("Not supported by this version of raylight. " + " ".join(unusable))
        for name in ("gradient_clip_algorithm", "strategy"):
            if isinstance(text := flags.get(name), str):
                flags[name] = text.lower()
        return cls(**{name: value for name, value in flags.items() if name in names})

    def __post_init__(self) -> None:
        problems = [*self._type_problems(), *self._value_problems(), *self._combination_problems()]
        if not problems:
            return
        message = "\n".join(f"- {problem}" for problem in problems)
        error = TypedFlagError if any(isinstance(problem, WrongType) for problem in problems) else None
        raise (error or MisconfigurationException)(message if len(problems) > 1 else str(problems[0]))

    def _type_problems(self) -> list[str]:
        problems: list[str] = []
        if self.gradient_clip_val is not None and not _is_number(self.gradient_clip_val):
            problems.append(
                WrongType(f"`gradient_clip_val` should be an int or a float. Got {self.gradient_clip_val}.")
            )
        if self.check_val_every_n_epoch is not None and not _is_int(self.check_val_every_n_epoch):
            problems.append(f"`check_val_every_n_epoch` should be an integer, found {self.check_val_every_n_epoch!r}.")
        for name in INTS:
            value = getattr(self, name)
            if value is not None and not _is_int(value):
                problems.append(WrongType(f"{name}={value!r} must be an int or None."))
        for name in BOOLS:
            value = getattr(self, name)
            if not isinstance(value, bool | None):
                problems.append(WrongType(f"{name}={value!r} must be True or False."))
        for name in ("resource_timeout", "idle_timeout", "elastic_wait"):
            value = getattr(self, name)
            if not _is_number(value) or value < 0:
                problems.append(f"{name}={value!r} must be a number of seconds >= 0.")
        if self.hang_timeout is not None and (not _is_number(self.hang_timeout) or self.hang_timeout <= 0):
            problems.append(f"hang_timeout={self.hang_timeout!r} must be a number of seconds > 0, or None.")
        for name in ("default_root_dir", "weights_save_path", "resume_from_checkpoint"):
            value = getattr(self, name)
            if not isinstance(value, str | os.PathLike | None):
                problems.append(WrongType(f"{name}={value!r} must be a path."))
        resources = _unchecked(self.resources_per_worker)
        if resources is not None and not isinstance(resources, dict):
            problems.append(f'resources_per_worker={resources!r} must be a dict such as {{"CPU": 2}}.')
        return problems

    def _value_problems(self) -> list[str]:
        problems = [*self._bound_problems(), *self._choice_problems()]
        problems += [problem for name in self.LIMITS if (problem := _limit_problem(name, getattr(self, name)))]
        problems += _accumulation_problems(self.accumulate_grad_batches)
        problems += _val_check_problems(self.val_check_interval)
        if self.max_time is not None:
            problems += _duration_problems("Timer(duration", self.max_time)
        resources = self.resources_per_worker if isinstance(self.resources_per_worker, dict) else {}
        for name, amount in resources.items():
            if not _is_number(amount) or amount < 0:
                problems.append(f"resources_per_worker[{name!r}]={amount!r} must be a number >= 0.")
        return problems

    def _bound_problems(self) -> list[str]:
        problems = []
        if _is_int(self.max_epochs) and _unchecked(self.max_epochs) < -1:
            problems.append(f"`max_epochs` must be a non-negative integer or -1. You passed in {self.max_epochs}.")
        if not _is_int(self.max_steps) or self.max_steps < -1:
            problems.append(
                f"`max_steps` must be a non-negative integer or -1 (infinite steps). You passed in {self.max_steps}."
            )
        if not _is_int(self.num_nodes) or self.num_nodes < 1:
            problems.append(f"`num_nodes` must be a positive integer, but got {self.num_nodes}.")
        every = self.reload_dataloaders_every_n_epochs
        if not _is_int(every) or every < 0:
            problems.append(f"`reload_dataloaders_every_n_epochs` should be an int >= 0, got {every}.")
        if not isinstance(self.fast_dev_run, int) or self.fast_dev_run < 0:
            problems.append(f"fast_dev_run={self.fast_dev_run!r} is not a valid configuration. It should be >= 0.")
        problems += _at_least(self, max_failures=0, spare_workers=0, process_position=0)
        problems += _worker_problems(self.num_workers)
        problems += _at_least_if_given(self, snapshot_every_n_steps=1, log_every_n_steps=0, num_sanity_val_steps=-1)
        return problems + _at_least_if_given(self, min_epochs=0, min_steps=0, check_val_every_n_epoch=1)

    def _choice_problems(self) -> list[str]:
        problems = [
            f"{name}={getattr(self, name)!r} must be one of {', '.join(map(repr, choices))}."
            for name, choices in CHOICES.items()
            if getattr(self, name) not in choices
        ]
        algorithm = self.gradient_clip_algorithm
        if algorithm is not None and algorithm not in CLIP_ALGORITHMS:
            problems.append(
                f"`gradient_clip_algorithm` {algorithm} is invalid. Allowed algorithms: {list(CLIP_ALGORITHMS)}."
            )
        if self.deterministic not in (None, True, False, "warn"):
            problems.append(f"deterministic={self.deterministic!r} must be True, False or 'warn'.")
        return problems

    def _combination_problems(self) -> list[str]:
        problems = []
        if self.num_workers not in (None, 1) and self.launcher == "local":
            problems.append(f"num_workers={self.num_workers} needs Ray: use launcher='ray' (or 'auto').")
        if isinstance(self.num_workers, tuple) and not self.use_distributed_sampler:
            problems.append(
                "use_distributed_sampler=False contradicts num_workers=(min, max), which shares an epoch anew when "
                "workers come or go: use a fixed num_workers."
            )
        if self.check_val_every_n_epoch is None and isinstance(self.val_check_interval, float):
            problems.append(
                "`val_check_interval` should be an integer or a time-based duration (str 'DD:HH:MM:SS', "
                "datetime.timedelta, or dict kwargs for timedelta) when `check_val_every_n_epoch=None`. "
                f"Got {self.val_check_interval!r}."
            )
        if self.barebones:
            problems += self._barebones_problems()
        return problems

    def _barebones_problems(self) -> list[str]:
        return [
            f"`Trainer(barebones=True, {name}={value!r})` was passed. {why} so it is disabled in barebones mode."
            for name, why in SWITCHED_OFF_BY_BAREBONES.items()
            if (value := getattr(self, name))
        ]

    def given(self) -> dict[str, Any]:
        """The flags that are other than their defaults: enough to make this config again."""
        fields = [field for field in dataclasses.fields(self) if field.default != getattr(self, field.name)]
        return {field.name: getattr(self, field.name) for field in fields}

    @property
    def num_dev_batches(self) -> int:
        """Batches of a fast_dev_run; 0 when it is off."""
        return int(self.fast_dev_run)

    def limit(self, stage: str) -> int | float:
        """``limit_<stage>_batches`` with ``fast_dev_run``, ``overfit_batches`` and defaults applied.

        Args:
            stage: "train", "val", "test" or "predict".
        """
        if stage in ("train", "val") and self.overfit_batches:
            return whole(self.overfit_batches)
        if self.num_dev_batches:
            return self.num_dev_batches
        value = getattr(self, f"limit_{stage}_batches")
        return 1.0 if value is None else whole(value)


def _duration_problems(flag: str, value: Any) -> list[str]:
    try:
        parse_duration(value, flag)
    except MisconfigurationException as error:
        return [str(error)]
    except TypeError as error:
        return [WrongType(f"{value!r} is no duration: {error}.")]
    return []


class WrongType(str):
    """A problem that Lightning reports as TypeError."""


class TypedFlagError(MisconfigurationException, TypeError):
    """A flag of the wrong type."""


def whole(limit: int | float) -> int | float:
    """A number of batches as an int (2.0 is 2); a share as it is."""
    return int(limit) if limit > 1 else limit


def _guess(name: str, names: set[str]) -> str:
    hints = {"gpu": "accelerator='gpu'", "epochs": "max_epochs"}
    close = [hints[name]] if name in hints else difflib.get_close_matches(name, names | {"logger", "callbacks"}, n=1)
    return f"{name!r} (did you mean {close[0]}?)" if close else repr(name)


def _unchecked(value: Any) -> Any:
    """What the user gave, which need not be of the annotated type."""
    return value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _at_least(config: TrainerConfig, **bounds: int) -> list[str]:
    return [
        f"{name}={getattr(config, name)!r} must be an int >= {bound}."
        for name, bound in bounds.items()
        if not _is_int(getattr(config, name)) or getattr(config, name) < bound
    ]


def _at_least_if_given(config: TrainerConfig, **bounds: int) -> list[str]:
    return [
        f"{name}={getattr(config, name)!r} must be >= {bound}."
        for name, bound in bounds.items()
        if _is_number(getattr(config, name)) and getattr(config, name) < bound
    ]


def _limit_problem(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not _is_number(value):
        return WrongType(f"{name}={value!r} must be a share (float 0.0 to 1.0) or a number of batches (int >= 0).")
    if value < 0 or (value > 1 and value % 1):
        return f"You have passed invalid value {value} for {name}, it has to be in [0.0, 1.0] or an int."
    return None


def _worker_problems(value: Any) -> list[str]:
    if value is None or _is_int(value) and value >= 1:
        return []
    if isinstance(value, tuple) and len(value) == 2 and all(_is_int(each) and each >= 1 for each in value):
        least, most = value
        return [] if least <= most else [f"num_workers={value!r}: the minimum comes first."]
    return [f"num_workers={value!r} must be an int >= 1, or a tuple (min, max) of two."]


def _accumulation_problems(value: Any) -> list[str]:
    if isinstance(value, dict):
        good = bool(value) and all(_is_int(e) and e >= 0 and _is_int(n) and n >= 1 for e, n in value.items())
        return [] if good else [f"accumulate_grad_batches={value!r} must map epochs (>= 0) to batches (>= 1)."]
    if not _is_int(value) or value < 1:
        return [f"accumulate_grad_batches={value!r} must be an int >= 1 or a dict {{epoch: batches}}."]
    return []


def _val_check_problems(value: Any) -> list[str]:
    if isinstance(value, str | timedelta | dict):
        return _duration_problems("val_check_interval", value)
    problem = _limit_problem("val_check_interval", value)
    return [problem] if problem else []
