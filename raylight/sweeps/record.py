"""What has become of each trial: kept in memory, and as JSON in the sweep's folder, from which it can be resumed."""

from __future__ import annotations

import functools
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from raylight.checkpoint import storage
from raylight.sweeps.encoding import decode, encode
from raylight.tuner.reporter import CHECKPOINT_NAME
from raylight.tuner.study import failure_in, lost
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.redaction import tell
from raylight.utilities.secrets import redact

WAITING, RUNNING, INTERRUPTED = "waiting", "running", "interrupted"
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
OVER = (FINISHED, STOPPED, FAILED)
"""States that a resumed sweep leaves as they are: trained to the end, ended by the scheduler, ended by an exception."""
TRIAL_FILE = "trial.json"
SWEEP_FILE = "sweep.json"
TUNES_OWN = ("timestamp", "done", "training_iteration", "trial_id", "pid", "hostname", "node_ip", "date", "config")


@dataclass
class Point:
    """A report that has a checkpoint."""

    report: int
    """Its place among the trial's reports, from 0."""
    checkpoint: str
    """Its file, from the sweep's folder."""
    params: dict[str, Any]
    """As they were then: population-based training changes them."""


@dataclass
class TrialRecord:
    """One trial."""

    name: str
    params: dict[str, Any]
    status: str = WAITING
    reports: list[dict[str, float]] = field(default_factory=list)
    """Metrics by name, with "epoch", "step", "reports" (1-based) and "seconds" since the trial began."""
    best: Point | None = None
    last: Point | None = None
    error: str | None = None
    """Type and message of what it failed by."""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "params": encode(self.params),
            "status": self.status,
            "error": self.error,
            "best": None if self.best is None else {**vars(self.best), "params": encode(self.best.params)},
            "last": None if self.last is None else {**vars(self.last), "params": encode(self.last.params)},
            "reports": self.reports,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrialRecord:
        points = {
            kind: None if values[kind] is None else Point(**{**values[kind], "params": decode(values[kind]["params"])})
            for kind in ("best", "last")
        }
        for point in points.values():
            if point is not None:
                _verify_below(point.checkpoint, parts=3)  # trial, folder, file: the folder is moved and deleted
        return cls(**{**values, "params": decode(values["params"]), **points})

    def value(self, metric: str) -> float | None:
        """The metric at the best report with a checkpoint."""
        return self.reports[self.best.report][metric] if self.best is not None else None

    def tell_of_checkpoint(self, path: str, metric: str, mode: str) -> None:
        """The newest report has a checkpoint; of equally good ones the later is the best, as with Ray Tune."""
        self.last = Point(len(self.reports) - 1, path, dict(self.params))
        best = self.value(metric)
        if best is None or not is_better(best, self.reports[-1][metric], mode):
            self.best = self.last


def is_better(left: float, right: float, mode: str) -> bool:
    """Whether ``left`` is better than ``right``; anything is better than nan."""
    if math.isnan(right) or math.isnan(left):
        return math.isnan(right) and not math.isnan(left)
    return left < right if mode == "min" else left > right


@dataclass
class SweepRecord:
    """A whole sweep."""

    folder: str
    metric: str
    mode: str
    asked: dict[str, Any]
    """What ``sweep`` was given, encoded."""
    trials: dict[str, TrialRecord] = field(default_factory=dict)
    """By name, in their order."""

    def add(self, params: dict[str, Any]) -> TrialRecord:
        """A further trial."""
        name = f"trial_{len(self.trials):04d}"
        record = self.trials[name] = TrialRecord(name, params)
        return record

    def path(self, point: Point) -> str:
        """Where a checkpoint is."""
        return storage.join(self.folder, point.checkpoint)

    def rewind(self, trial: TrialRecord) -> None:
        """A trial is to go on from its last checkpoint, in another run of Ray Tune's, which counts checkpoints anew.

        What it reported after that one is forgotten, as it will again; its checkpoints get names that stay their own.
        """
        del trial.reports[0 if trial.last is None else trial.last.report + 1 :]
        points = [point for point in (trial.best, trial.last) if point is not None]
        for source in sorted({point.checkpoint for point in points}, key=len, reverse=True):  # no name is taken twice
            target = f"{storage.parent(source)}.earlier/{CHECKPOINT_NAME}"
            with storage.open_read(storage.join(self.folder, source)) as file:
                copy = functools.partial(shutil.copyfileobj, file)
                storage.write_atomic(storage.join(self.folder, target), copy)
            for point in points:
                if point.checkpoint == source:
                    point.checkpoint = target
            self.save_trial(trial)
            storage.delete(storage.join(self.folder, storage.parent(source)))

    def save(self) -> None:
        """Write what stays the same while trials run: what was asked, and what each waiting trial is to try."""
        planned = {name: encode(record.params) for name, record in self.trials.items()}
        content = {"version": 1, "metric": self.metric, "mode": self.mode, "asked": self.asked, "planned": planned}
        _write(storage.join(self.folder, SWEEP_FILE), content)

    def save_trial(self, record: TrialRecord) -> None:
        """Write one trial's state."""
        _write(storage.join(self.folder, record.name, TRIAL_FILE), record.to_json())

    @classmethod
    def load(cls, folder: str) -> SweepRecord:
        """Read a sweep's folder.

        Raises:
            FileNotFoundError: There is no sweep in it.
        """
        path = storage.join(folder, SWEEP_FILE)
        if not storage.exists(path):
            raise FileNotFoundError(f"{folder!r} is not the folder of a sweep: it has no {SWEEP_FILE}.")
        content = _read(path)
        record = cls(folder, content["metric"], content["mode"], content["asked"])
        for name in content["planned"]:
            _verify_below(name, parts=1)
        names = [name for name in storage.list_dir(folder) if storage.exists(storage.join(folder, name, TRIAL_FILE))]
        for name in sorted({*content["planned"], *names}):
            trial_file = storage.join(folder, name, TRIAL_FILE)
            if name in names:
                record.trials[name] = trial = TrialRecord.from_json(_read(trial_file))
                if trial.name != name:
                    raise MisconfigurationException(f"{trial_file} is of a trial {trial.name!r}. Remove this file.")
            else:
                record.trials[name] = TrialRecord(name, decode(content["planned"][name]))
        return record

    @property
    def best(self) -> TrialRecord | None:
        """The trial with the best checkpoint that is still there."""
        best: TrialRecord | None = None
        for record in self.trials.values():
            value = record.value(self.metric)
            if value is None or record.best is None or math.isnan(value):
                continue
            before = best.value(self.metric) if best is not None else None
            if before is None or is_better(value, before, self.mode):
                best = record
        return best


def _verify_below(name: str, parts: int) -> None:
    """A path from a file, which is written to or deleted, stays in the sweep's folder."""
    try:
        found = storage.safe_name(name).replace("\\", "/").split("/")
    except ValueError as error:
        raise MisconfigurationException(f"The record of the sweep was changed by somebody: {error}") from error
    if len(found) != parts or not all(part.strip(".") for part in found):
        raise MisconfigurationException(
            f"The record of the sweep was changed by somebody: {name!r} does not have {parts} parts. Sweep anew."
        )


def _write(path: str, content: dict[str, Any]) -> None:
    clean, found = redact(content)
    tell({name.rpartition(".")[2] for name in found}, "Give them again to `sweep.resume`.")
    text = json.dumps(clean, indent=1).encode()

    def write(file: BinaryIO) -> None:
        file.write(text)

    storage.write_atomic(path, write)


def _read(path: str) -> dict[str, Any]:
    with storage.open_read(path) as file:
        content: dict[str, Any] = json.load(file)
    return content


class Recorder:
    """A callback of Ray Tune's that keeps a SweepRecord, and its files, up to date. Runs on the driver.

    Args:
        record: To be kept.
        names: Ray Tune's trial id -> name.
        changed: Called after each change.
    """

    def __init__(self, record: SweepRecord, names: dict[str, str], changed: Callable[[TrialRecord], None]) -> None:
        self._record = record
        self._names = names
        self._changed = changed
        self._stopped_early: set[str] = set()
        self.errors: list[BaseException] = []
        """What failed trials raised, in the order of their ends."""

    def trial_of(self, trial: Any) -> TrialRecord:
        return self._record.trials[self._names[trial.trial_id]]

    def start(self, trial: Any) -> None:
        record = self.trial_of(trial)
        record.params, record.status = {**record.params, **trial.config}, RUNNING  # secrets are none of Tune's
        self._save(record)

    def result(self, trial: Any, result: dict[str, Any]) -> None:
        record = self.trial_of(trial)
        if (error := failure_in(result)) is not None:
            self._fail(record, error)
            return
        numbers = {name: value for name, value in result.items() if isinstance(value, int | float)}
        kept = {name: value for name, value in numbers.items() if name not in TUNES_OWN and "_since_" not in name}
        kept["seconds"] = kept.pop("time_total_s", 0.0)
        kept.pop("time_this_iter_s", None)
        kept.pop("should_checkpoint", None)
        record.reports.append(kept)
        if result.get("done"):  # a trial that ends by itself says so without a report
            self._stopped_early.add(record.name)
        self._save(record)

    def checkpoint(self, trial: Any, folder_name: str) -> None:
        record = self.trial_of(trial)
        path = storage.join(record.name, folder_name, CHECKPOINT_NAME)
        record.tell_of_checkpoint(path, self._record.metric, self._record.mode)
        self._save(record)

    def complete(self, trial: Any) -> None:
        record = self.trial_of(trial)
        if record.status == FAILED:
            return
        by_itself = trial.last_result.get("done") and record.name not in self._stopped_early
        record.status = FINISHED if by_itself else STOPPED
        self._save(record)

    def error(self, trial: Any) -> None:
        """The trial's process is gone."""
        self._fail(self.trial_of(trial), lost(trial))

    def _fail(self, record: TrialRecord, error: BaseException) -> None:
        self.errors.append(error)
        record.status = FAILED
        record.error = f"{type(error).__name__}: {error}".partition("\n")[0]
        self._save(record)

    def close(self) -> None:
        """All is over: what still runs does so no longer, and checkpoints that nobody needs any more go."""
        for record in self._record.trials.values():
            if record.status == RUNNING:
                record.status = INTERRUPTED
                self._save(record)
            folder = storage.join(self._record.folder, record.name)
            kept = {
                storage.parent(self._record.path(point)) for point in (record.best, record.last) if point is not None
            }
            names = [name for name in storage.list_dir(folder) if name.startswith("checkpoint_")]
            for path in [storage.join(folder, name) for name in names]:
                if path not in kept:
                    storage.delete(path)

    def _save(self, record: TrialRecord) -> None:
        self._record.save_trial(record)
        self._changed(record)
