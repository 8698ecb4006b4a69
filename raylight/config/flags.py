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

LAUNCHERS = ("auto", "local", "ray")
LAUNCHER_VARIABLE = "RAYLIGHT_LAUNCHER"

INTS = (
    "num_workers",
    "min_epochs",
    "max_epochs",
    "min_steps",
    "check_val_every_n_epoch",
    "num_sanity_val_steps",
    "log_every_n_steps",
)
BOOLS = (
    "sync_batchnorm",
    "benchmark",
    "detect_anomaly",
    "inference_mode",
    "use_distributed_sampler",
    "enable_checkpointing",
    "enable_progress_bar",
    "enable_model_summary",
    "enable_autolog_hparams",
    "barebones",
)
LATER: dict[str, str] = {
    "model_registry": "Give ckpt_path= a file.",
}
"""Lightning's flags that raylight has no meaning for yet, and what to use instead; their default value is accepted."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """What was asked for, complete and checked. Crosses from driver to worker; nothing in it ever changes.

    Raises:
        MisconfigurationException: Flags with impossible values, all of them in one message.
    """

    # Where it runs
    accelerator: Any = "auto"
    """"cpu", "gpu", "cuda", "auto" (a GPU where there is one), or an Accelerator."""
    devices: int | str | list[int] = "auto"
    """Workers per node: a count, "3", -1 for all, or a list of GPU indices. "auto" is 1, or all of a machine's GPUs."""
    num_nodes: int = 1
    """Nodes; the number of workers is ``devices`` times this."""
    num_workers: int | None = None
    """Workers in all, wherever Ray finds room; takes the place of ``devices`` x ``num_nodes``. Always runs on Ray."""
    resources_per_worker: dict[str, float] | None = None
    """Ray resources of one worker, such as ``{"CPU": 4, "GPU": 1}``. None is 1 CPU, and 1 GPU where one is used."""
    launcher: str = dataclasses.field(default_factory=lambda: os.environ.get(LAUNCHER_VARIABLE, "auto"))
    """"local": in this process; "ray": on a Ray cluster; "auto": local when one worker is asked for that fits here.
    The environment variable RAYLIGHT_LAUNCHER sets the default."""
    resource_timeout: float = 60.0
    """Seconds to wait for the cluster to have room before giving up; who holds the resources is shown meanwhile."""
    idle_timeout: float = 600.0
    """Seconds that warm workers are kept after a call without another one."""
    max_failures: int = 0
    """Lost workers to recover from. Only 0 is possible yet: a lost worker ends the run with an error."""
    strategy: Any = "auto"
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
            raise UnknownFlagError(f"Unknown flags: {', '.join(_guess(name, flags[name], names) for name in unknown)}.")
        unusable = [f"{name}={flags[name]!r}: {hint}" for name, hint in LATER.items() if flags.get(name) is not None]
        if unusable:
            raise MisconfigurationException("Not supported by this version of raylight. " + " ".join(unusable))
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
                WrongType(f"gradient_clip_val={self.gradient_clip_val!r} must be a number, or None for off.")
            )
        for name in INTS:
            value = getattr(self, name)
            if value is not None and not _is_int(value):
                problems.append(f"{name}={value!r} must be an int or None.")
        for name in BOOLS:
            value = getattr(self, name)
            if not isinstance(value, bool | None):
                problems.append(f"{name}={value!r} must be True or False.")
        for name in ("resource_timeout", "idle_timeout"):
            value = getattr(self, name)
            if not _is_number(value) or value < 0:
                problems.append(f"{name}={value!r} must be a number of seconds >= 0.")
        root, resources = _unchecked(self.default_root_dir), _unchecked(self.resources_per_worker)
        if not isinstance(root, str | os.PathLike | None):
            problems.append(f"default_root_dir={root!r} must be a path.")
        if resources is not None and not isinstance(resources, dict):
            problems.append(f'resources_per_worker={resources!r} must be a dict such as {{"CPU": 2}}.')
        return problems

    def _value_problems(self) -> list[str]:
        problems = [*_at_least(self, num_nodes=1, max_steps=-1, max_failures=0, reload_dataloaders_every_n_epochs=0)]
        problems += _at_least_if_given(self, num_workers=1, max_epochs=-1, log_every_n_steps=0, num_sanity_val_steps=-1)
        problems += _at_least_if_given(self, min_epochs=0, min_steps=0, check_val_every_n_epoch=1)
        problems += [problem for name in self.LIMITS if (problem := _limit_problem(name, getattr(self, name)))]
        if self.launcher not in LAUNCHERS:
            problems.append(f"launcher={self.launcher!r} must be one of {', '.join(map(repr, LAUNCHERS))}.")
        if self.max_failures > 0:
            problems.append(
                f"max_failures={self.max_failures} is not possible yet: a lost worker ends the run with an error. "
                "Use max_failures=0 and fit(ckpt_path='last') to continue."
            )
        if not isinstance(self.fast_dev_run, int) or self.fast_dev_run < 0:
            problems.append(f"fast_dev_run={self.fast_dev_run} must be a bool or a number of batches >= 0.")
        if self.gradient_clip_algorithm not in (None, "norm", "value"):
            problems.append(f"gradient_clip_algorithm={self.gradient_clip_algorithm!r} must be 'norm' or 'value'.")
        if self.deterministic not in (None, True, False, "warn"):
            problems.append(f"deterministic={self.deterministic!r} must be True, False or 'warn'.")
        problems += _accumulation_problems(self.accumulate_grad_batches)
        problems += _val_check_problems(self.val_check_interval)
        if self.max_time is not None:
            problems += _duration_problems("max_time", self.max_time)
        resources = self.resources_per_worker if isinstance(self.resources_per_worker, dict) else {}
        for name, amount in resources.items():
            if not _is_number(amount) or amount < 0:
                problems.append(f"resources_per_worker[{name!r}]={amount!r} must be a number >= 0.")
        return problems

    def _combination_problems(self) -> list[str]:
        problems = []
        if self.num_workers is not None and self.launcher == "local" and self.num_workers > 1:
            problems.append(f"num_workers={self.num_workers} needs Ray: use launcher='ray' (or 'auto').")
        if self.check_val_every_n_epoch is None and isinstance(self.val_check_interval, float):
            problems.append(
                "check_val_every_n_epoch=None counts batches across epochs, so val_check_interval must be an int "
                f"(a number of batches), got {self.val_check_interval!r}."
            )
        if self.barebones:
            problems += self._barebones_problems()
        return problems

    def _barebones_problems(self) -> list[str]:
        switched_on = {
            name: getattr(self, name)
            for name in ("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "log_every_n_steps")
            + ("num_sanity_val_steps", "fast_dev_run", "detect_anomaly", "profiler")
            if getattr(self, name)
        }
        return [f"barebones=True switches {name} off, but it is {value!r}." for name, value in switched_on.items()]

    @property
    def num_dev_batches(self) -> int:
        """Batches of a fast_dev_run; 0 when it is off."""
        return int(self.fast_dev_run)

    def limit(self, stage: str) -> int | float:
        """``limit_<stage>_batches`` with ``fast_dev_run``, ``overfit_batches`` and defaults applied.

        Args:
            stage: "train", "val", "test" or "predict".
        """
        if self.num_dev_batches:
            return self.num_dev_batches
        if stage in ("train", "val") and self.overfit_batches:
            return self.overfit_batches
        value = getattr(self, f"limit_{stage}_batches")
        return 1.0 if value is None else value


def _duration_problems(flag: str, value: Any) -> list[str]:
    try:
        parse_duration(value, flag)
    except (MisconfigurationException, TypeError) as error:
        return [str(error)]
    return []


class WrongType(str):
    """A problem that Lightning reports as TypeError."""


class TypedFlagError(MisconfigurationException, TypeError):
    """A flag of the wrong type."""


def _guess(name: str, value: Any, names: set[str]) -> str:
    hints = {"gpus": f"accelerator='gpu', devices={value!r}", "gpu": "accelerator='gpu'", "epochs": "max_epochs"}
    if name in hints:
        return f"{name} (did you mean {hints[name]}?)"
    close = difflib.get_close_matches(name, names | {"logger", "callbacks"}, n=1)
    return f"{name} (did you mean {close[0]}?)" if close else name


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
        return f"{name}={value!r} must be a share (float 0.0 to 1.0) or a number of batches (int >= 0)."
    if value < 0 or (isinstance(value, float) and value > 1.0):
        return (
            f"{name}={value!r} must be a share (float 0.0 to 1.0) or a number of batches (int >= 0); "
            "for a number of batches leave out the decimal point."
        )
    return None


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
