"""sweep: a hyperparameter search on Ray Tune, in one call. Runs on the driver."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from ray import tune

from raylight.checkpoint import storage as files
from raylight.config import legacy
from raylight.config.flags import TrainerConfig
from raylight.config.messages import DataSource
from raylight.config.run_id import below_run
from raylight.core.datamodule import LightningDataModule
from raylight.core.module import LightningModule
from raylight.engine.portable import verify_portable
from raylight.sweeps.encoding import decode, encode, foreign_maker, missing_in
from raylight.sweeps.expressions import is_searched
from raylight.sweeps.recipe import SETTLED, Recipe, Targets, verify_maker
from raylight.sweeps.record import FAILED, OVER, Recorder, SweepRecord, TrialRecord
from raylight.sweeps.report import SweepDisplay
from raylight.sweeps.result import SweepResult
from raylight.sweeps.schedulers import Rules, checkpoint_config, make_scheduler, pauses, replay
from raylight.sweeps.search import Suggestions, draw, make_searcher
from raylight.sweeps.work import SweepWork, as_list
from raylight.tuner.study import Study, TrialResources, trial_resources
from raylight.utilities.exceptions import MisconfigurationException

FOLDER = "raylight_sweeps"
RANDOM = "random"
RECIPE = ("model", "datamodule", "train_dataloaders", "val_dataloaders", "trainer")

DEFAULTS = {"grace_period": 1, "reduction_factor": 3, "max_reports": None}
HEEDED = {
    "asha": ("grace_period", "reduction_factor"),
    "pbt": ("grace_period",),
    "hyperband": ("reduction_factor", "max_reports"),
}
"""Which of these each scheduler goes by."""


@dataclass(kw_only=True)
class _Asked:
    """The arguments of ``sweep``."""

    model: Any
    space: dict[str, Any]
    datamodule: Any
    train_dataloaders: Any
    val_dataloaders: Any
    trainer: dict[str, Any]
    metric: str
    mode: str
    num_samples: int
    scheduler: Any
    search: Any
    workers_per_trial: int
    resources_per_worker: dict[str, float] | None
    max_concurrent: int | None
    grace_period: int
    reduction_factor: float
    max_reports: int | None
    seed: int | None
    resource_timeout: float
    verbose: bool

    @property
    def recipe(self) -> Recipe:
        return Recipe(**{name: getattr(self, name) for name in RECIPE})


def sweep(
    model: LightningModule | type[LightningModule] | Callable[..., LightningModule],
    space: dict[str, Any],
    *,
    datamodule: LightningDataModule | type[LightningDataModule] | Callable[..., LightningDataModule] | None = None,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    trainer: dict[str, Any] | None = None,
    metric: str = "val_loss",
    mode: str = "min",
    num_samples: int = 10,
    scheduler: Any = "asha",
    search: Any = RANDOM,
    workers_per_trial: int = 1,
    resources_per_worker: dict[str, float] | None = None,
    max_concurrent: int | None = None,
    grace_period: int = 1,
    reduction_factor: float = 3,
    max_reports: int | None = None,
    storage: str | os.PathLike[str] | None = None,
    name: str | None = None,
    seed: int | None = None,
    resource_timeout: float = 0.0,
    verbose: bool = True,
) -> SweepResult:
    """Search for hyperparameters: trials of ``model`` in parallel on a Ray cluster, on warm workers.

    Nothing is called in the model: each validation is a report, with a checkpoint. Of each trial the best and the last
    checkpoint are kept.

    Args:
        model: The class, or a function that returns a model; a model itself where only data and Trainer are searched.
        space: By name, a distribution of Ray Tune's (``tune.loguniform(1e-5, 1e-1)``) or a constant. "model.x" is an
            argument of the model, "data.x" of the datamodule, "trainer.x" a flag of the Trainer; "x" alone is whichever
            of these it can be.
        datamodule: Likewise.
        train_dataloaders: In place of a datamodule.
        val_dataloaders: Likewise.
        trainer: Flags of each trial's Trainer.
        metric: Name of a logged metric.
        mode: "min" or "max".
        num_samples: Trials; with ``grid_search`` in the space, so many times the grid.
        scheduler: "asha" ends poor trials early, at their 1st, 3rd, 9th, ... report; "hyperband" likewise, pausing;
            "pbt" lets them take over weights from better ones, with changed parameters; None; or a scheduler of Ray
            Tune's, whose ``time_attr`` should be "reports".
        search: "random" (and ``grid_search``), "optuna", or a Searcher of Ray Tune's.
        workers_per_trial: Workers that train one model together.
        resources_per_worker: Ray resources of one worker; None: as a Trainer's.
        max_concurrent: Trials at a time; None: as many as there is room for.
        grace_period: For "asha", reports before which no trial is ended; for "pbt", between two changes.
        reduction_factor: For "asha" and "hyperband": of so many trials that reach a rung one goes on.
        max_reports: Reports of a full trial, for "hyperband"; None: one per epoch of ``max_epochs``.
        storage: Folder, or URI, of all sweeps; None: "raylight_sweeps".
        name: Of this one's folder in it; None: one by date and time.
        seed: Of the search; None takes one from Python's ``random``, which ``seed_everything`` sets. Trials begin with
            the random numbers of this process, each with the same.
        resource_timeout: Seconds to wait for a cluster that is still too small for a single trial.
        verbose: Show a table, or, where the output is no terminal, a line per trial.

    Returns:
        What was found. After Ctrl-C, what there is by then.

    Raises:
        MisconfigurationException: The space is empty, or has names that reach nothing (with guesses), or flags cannot
            work.
        MetricNotLoggedError: Trials do not log the metric.
        ResourceError: The cluster cannot hold a single trial.
        UnpicklableError: The model, its maker, or the data cannot travel to the trials.
        Exception: All trials have failed: what the first one raised. A trial that fails beside others is kept as
            failed, with its reason, in the result.

    Example::

        result = raylight.sweep(
            Digits, {"lr": tune.loguniform(1e-4, 1e-1), "data.batch_size": tune.choice([32, 64])},
            datamodule=DigitsData, trainer={"max_epochs": 5}, metric="val_acc", mode="max", num_samples=20,
        )
        model = result.best_model()
    """
    asked = _Asked(
        model=model, space=_flat(space), datamodule=datamodule, train_dataloaders=train_dataloaders,
        val_dataloaders=val_dataloaders, trainer=dict(trainer or {}), metric=metric, mode=mode, num_samples=num_samples,
        scheduler=scheduler, search=search, workers_per_trial=workers_per_trial,
        resources_per_worker=resources_per_worker, max_concurrent=max_concurrent, grace_period=grace_period,
        reduction_factor=reduction_factor, max_reports=max_reports, seed=seed, resource_timeout=resource_timeout,
        verbose=verbose,
    )  # fmt: skip
    targets = _verify(asked)
    root = _absolute(below_run(FOLDER if storage is None else storage))
    folder = files.join(root, _free_name(root, name))
    record = SweepRecord(folder, metric, mode, _encoded(asked))
    if search == RANDOM:
        for params in draw(asked.space, num_samples, seed):
            record.add(params)
    return _run(asked, targets, record)


def resume(path: str | os.PathLike[str], **given: Any) -> SweepResult:
    """Go on with a sweep whose driver was interrupted or killed: finished trials are not repeated.

    Trials that were under way continue from their last checkpoint. What the sweep was asked for is read from its
    folder, as JSON; classes and functions are found by their names.

    Args:
        path: The sweep's folder.
        **given: Arguments of ``sweep`` that have no name to be found by, such as a model instance, callbacks or a
            scheduler object, or that are to differ, such as ``max_concurrent``, or a larger ``num_samples``.

    Raises:
        FileNotFoundError: There is no sweep.
        MisconfigurationException: Arguments that must be given again, all of them; or as of ``sweep``.
    """
    folder = _absolute(path)
    record = SweepRecord.load(folder)
    unknown = sorted(set(given) - {field.name for field in fields(_Asked)})
    if unknown:
        raise TypeError(f"resume() got unexpected arguments {', '.join(unknown)}: it takes those of sweep().")
    if fixed := sorted({"metric", "mode"} & set(given)):
        raise MisconfigurationException(f"{', '.join(fixed)} cannot change: the trials so far were judged by it.")
    arguments = {**{name: decode(value) for name, value in record.asked.items()}, **given}
    problems = [f"give {name}= again ({why})" for name, value in arguments.items() for why in missing_in(value)]
    for name, kind in (("model", LightningModule), ("datamodule", LightningDataModule)):
        if name not in given and (why := foreign_maker(arguments[name], kind)):
            problems.append(f"give {name}= again ({why})")
    for trial in record.trials.values():
        constants = {name: value for name, value in arguments["space"].items() if not is_searched(value)}
        trial.params.update({name: constants[name] for name in constants if missing_in(trial.params.get(name))})
        problems += [
            f"{trial.name} cannot be run: {why}" for why in missing_in(trial.params) if trial.status not in OVER
        ]
    if problems:
        raise MisconfigurationException(f"To resume {folder!r}, {'; '.join(problems)}.")
    asked = _Asked(**arguments)
    targets = _verify(asked)
    if asked.search == RANDOM:  # as many as before, unless told otherwise
        for params in draw(asked.space, asked.num_samples - int(record.asked["num_samples"]), None):
            record.add(params)
    for trial in record.trials.values():
        if trial.status not in OVER:
            record.rewind(trial)
    record.asked = _encoded(asked)
    return _run(asked, targets, record)


def _encoded(asked: _Asked) -> dict[str, Any]:
    return {field.name: encode(getattr(asked, field.name)) for field in fields(_Asked)}


sweep.resume = resume  # type: ignore[attr-defined]


def _run(asked: _Asked, targets: Targets, record: SweepRecord) -> SweepResult:
    """All trials of the record that are not over, and those that a searcher adds."""
    suggestions, scheduler = _make_search(asked, record)
    if suggestions.num_left == 0:
        return SweepResult(record, asked.recipe, targets, interrupted=False)
    resources = _resources(asked)
    over = sum(trial.status in OVER for trial in record.trials.values())
    display = SweepDisplay(record, over + suggestions.num_left, asked.verbose)
    recorder = Recorder(record, suggestions.names, display.changed)
    study = Study(
        work=SweepWork(
            asked.recipe, targets, asked.metric, asked.mode, resources, _sources(record), suggestions.secrets
        ),
        searcher=suggestions,
        num_samples=suggestions.num_left,
        resources=resources,
        storage=files.parent(record.folder),
        name=os.path.basename(record.folder.rstrip("/")),
        scheduler=scheduler,
        max_concurrent=asked.max_concurrent,
        together=pauses(scheduler),
        checkpoints=checkpoint_config(scheduler, asked.metric, asked.mode),
        callbacks=[_Listener(recorder)],
        trial_name=lambda trial: suggestions.names[trial.trial_id],
        resource_timeout=asked.resource_timeout,
    )
    study.prepare()
    record.save()
    with display:
        try:
            interrupted = study.run()
        finally:
            recorder.close()
    if recorder.errors and all(trial.status == FAILED for trial in record.trials.values()):
        raise recorder.errors[0]
    return SweepResult(record, asked.recipe, targets, interrupted)


def _make_search(asked: _Asked, record: SweepRecord) -> tuple[Suggestions, Any]:
    """What the trials try, and the scheduler; both know what an earlier run of this sweep has found."""
    longest = asked.max_reports or asked.trainer.get("max_epochs")
    rules = Rules(asked.metric, asked.mode, asked.grace_period, asked.reduction_factor, longest)
    scheduler = make_scheduler(asked.scheduler, asked.space, rules)
    searcher = None
    if asked.search != RANDOM:
        searcher = make_searcher(asked.search, asked.space, asked.metric, asked.mode, asked.seed)
    if pauses(scheduler) and (asked.max_concurrent is not None or searcher is not None):
        raise MisconfigurationException(
            f"{type(scheduler).__name__} pauses trials to compare all of them at the same age: it goes with "
            'search="random" only, and the cluster\'s resources, not max_concurrent, say how many run at a time.'
        )
    constants = {name: value for name, value in asked.space.items() if not is_searched(value)}
    suggestions = Suggestions(record, constants, searcher, asked.num_samples)
    suggestions.learn_from_record()
    replay(scheduler, record)
    return suggestions, scheduler


def _sources(record: SweepRecord) -> dict[str, str]:
    """Where trials that are under way go on."""
    under_way = {name: trial.last for name, trial in record.trials.items() if trial.status not in OVER}
    return {name: record.path(last) for name, last in under_way.items() if last is not None}


class _Listener(tune.Callback):
    """Tells a Recorder what Ray Tune tells its callbacks."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._recorder.start(trial)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        self._recorder.result(trial, result)

    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any) -> None:
        self._recorder.checkpoint(trial, os.path.basename(checkpoint.path.rstrip("/")))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._recorder.complete(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._recorder.error(trial)


def _flat(space: dict[str, Any]) -> dict[str, Any]:
    """A space by name: ``{"model": {"lr": ...}}`` is ``{"model.lr": ...}``."""
    flat: dict[str, Any] = {}
    for name, value in space.items():
        if name in ("model", "data", "trainer") and isinstance(value, dict) and not is_searched(value):
            flat.update({f"{name}.{inner}": each for inner, each in value.items()})
        else:
            flat[name] = value
    return flat


def _verify(asked: _Asked) -> Targets:
    """Everything that can be seen to be wrong before a cluster is asked for anything."""
    verify_maker(asked.model, "model", LightningModule)
    if asked.datamodule is not None:
        verify_maker(asked.datamodule, "datamodule", LightningDataModule)
        if asked.train_dataloaders is not None or asked.val_dataloaders is not None:
            raise MisconfigurationException("Give a datamodule or loaders, not both.")
    problems = []
    if not asked.space:
        problems.append('The space is empty: give at least one name, such as {"model.lr": tune.loguniform(1e-5, 1)}.')
    if asked.mode not in ("min", "max"):
        problems.append(f"mode={asked.mode!r} must be 'min' or 'max'.")
    for name in ("num_samples", "workers_per_trial", "grace_period"):
        value = getattr(asked, name)
        if not isinstance(value, int) or value < 1:
            problems.append(f"{name}={value!r} must be an int >= 1.")
    if asked.max_concurrent is not None and asked.max_concurrent < 1:
        problems.append(f"max_concurrent={asked.max_concurrent!r} must be >= 1.")
    if not asked.reduction_factor > 1:
        problems.append(f"reduction_factor={asked.reduction_factor!r} must be > 1.")
    problems += _without_effect(asked)
    for flag in sorted(SETTLED.keys() & asked.trainer.keys()):
        problems.append(f"trainer={{{flag!r}: ...}}: a sweep sets {flag} itself, by {SETTLED[flag]}=.")
    if problems:
        raise MisconfigurationException("\n".join(problems))
    targets = asked.recipe.targets(asked.space)
    _verify_flags(asked, targets)
    _verify_portable(asked)
    return targets


def _without_effect(asked: _Asked) -> list[str]:
    """Arguments that this scheduler, or this search, does not heed."""
    heeded = HEEDED.get(asked.scheduler, ()) if isinstance(asked.scheduler, str) else ()
    ignored = [name for name in DEFAULTS if name not in heeded and getattr(asked, name) != DEFAULTS[name]]
    problems = [
        f"{name}={getattr(asked, name)!r} has no effect with scheduler={asked.scheduler!r}." for name in ignored
    ]
    if asked.seed is not None and not isinstance(asked.search, str):
        problems.append("seed has no effect on a Searcher of Ray Tune's: give it one of its own.")
    return problems


def _verify_flags(asked: _Asked, targets: Targets) -> None:
    """The flags that all trials have, and the space's constants among them."""
    flags = {name: value for name, value in asked.trainer.items() if name not in ("callbacks", "logger")}
    for name, value in asked.space.items():
        owner, flag = targets[name]
        if owner == "trainer" and not is_searched(value):
            flags[flag] = value
    TrainerConfig.from_flags(**legacy.modernize(flags))


def _verify_portable(asked: _Asked) -> None:
    data = DataSource(train=asked.train_dataloaders, val=asked.val_dataloaders, datamodule=asked.datamodule)
    flags = {f"flag {name}": value for name, value in asked.trainer.items() if name != "callbacks"}
    verify_portable(asked.model, data, as_list(asked.trainer.get("callbacks")), **flags)


def _resources(asked: _Asked) -> TrialResources:
    flags = {name: value for name, value in asked.trainer.items() if name not in ("callbacks", "logger")}
    flags.update(num_workers=asked.workers_per_trial, resources_per_worker=asked.resources_per_worker, launcher="ray")
    return trial_resources(TrainerConfig.from_flags(**legacy.modernize(flags)))


def _absolute(folder: str | os.PathLike[str]) -> str:
    """A folder's full path, or its URI."""
    if not files.is_local(folder):
        return files.join(folder)
    local = files.parent(files.join(folder, "sweep"))  # of a file:// URI, too
    return os.path.abspath(os.path.expanduser(local))


def _free_name(root: str, name: str | None) -> str:
    """The name of a sweep's folder.

    Raises:
        MisconfigurationException: There is one of this name.
    """
    if name is None:
        name = f"sweep_{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
        number = 1
        while files.exists(files.join(root, name)):
            number += 1
            name = f"{name.partition('.')[0]}.{number}"
        return name
    if files.exists(files.join(root, files.safe_name(name))):
        raise MisconfigurationException(
            f"There is a sweep in {files.join(root, name)!r}: continue it with raylight.sweep.resume(path), or choose "
            "another name."
        )
    return name


__all__ = ["TrialRecord", "resume", "sweep"]
