"""Trial: one trial of a search, as a Trainable of Ray Tune. Runs in the trial's own process."""

from __future__ import annotations

import gc
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
import torch
from ray import tune
from ray.tune.result import DONE, RESULT_DUPLICATE, SHOULD_CHECKPOINT

from raylight.engine import pool, user_modules
from raylight.engine.failures import describe
from raylight.engine.surroundings import Surroundings
from raylight.tuner.gate import Gate
from raylight.tuner.reporter import CHECKPOINT_NAME
from raylight.utilities.memory import garbage_collection_cuda
from raylight.utilities.rank_zero import package_log

FAILURE = "raylight_failure"
"""In a trial's last result: the Failure that it ended by. Its process goes on with the next trial."""


@dataclass(frozen=True)
class TrialCall:
    """What one trial is to do, and where."""

    name: str
    """Of its folder in the search's."""
    params: dict[str, Any]
    gate: Gate
    folder: str
    """For logs and other files; kept."""
    staging: str
    """Path for checkpoints; Ray Tune takes what is there when the trial has reported."""
    source: str | None
    """The checkpoint to begin from."""


class Work(Protocol):
    """What all trials of a search do, each with its own parameters. Pickled once."""

    def __call__(self, call: TrialCall) -> None:
        """Runs in the trial's process, in a thread: until the end, reporting through ``call.gate.judge``."""


class Trial(tune.Trainable):
    """Does a Work from report to report. The process, and the pool of workers in it, serve one trial after another."""

    def setup(self, config: dict[str, Any], work: bytes, surroundings: Surroundings) -> None:  # type: ignore[override]
        for logger in (package_log, logging.getLogger("ray.tune"), logging.getLogger("ray.train")):
            logger.setLevel(logging.WARNING)  # Ray shows each on the driver's terminal, of every trial
        self._surroundings = surroundings
        surroundings.adopt()
        self._work: Work = user_modules.loads(work)
        self._gate = Gate()
        self._is_first = True
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._end()
        self._surroundings.adopt()  # Tune has changed into the trial's folder
        self._begin(new_config)
        return True

    def _begin(self, params: dict[str, Any]) -> None:
        assert self._storage is not None
        in_storage = self._storage.storage_filesystem.type_name == "local"
        self._call = TrialCall(
            name=str(self._storage.trial_dir_name),
            params=params,
            gate=self._gate,
            folder=str(self._storage.trial_fs_path if in_storage else self._storage.trial_working_directory),
            staging=os.path.join(self._storage.trial_working_directory, CHECKPOINT_NAME),
            source=None,
        )

    def step(self) -> dict[str, Any]:
        try:
            report = self._gate.next(self._run)
        except BaseException as error:
            if _spoils_process(error):
                raise
            node = ray.util.get_node_ip_address()
            return {FAILURE: describe(error, 0, node, os.getpid()), DONE: True}
        if report is None:
            return {RESULT_DUPLICATE: True, DONE: True}
        return {**report.values, SHOULD_CHECKPOINT: report.checkpoint is not None}

    def _run(self) -> None:
        self._surroundings.adopt_numbers()
        self._work(self._call)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        _link(self._call.staging, os.path.join(checkpoint_dir, CHECKPOINT_NAME))

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        source = f"{self._call.staging}.source"  # Tune may delete its own meanwhile
        _link(os.path.join(checkpoint_dir, CHECKPOINT_NAME), source)
        self._call = TrialCall(**{**vars(self._call), "source": source})

    def cleanup(self) -> None:
        self._end()
        pool.shutdown()

    def _end(self) -> None:
        """The trial is over, and so is all that belongs to it."""
        self._gate.end()
        for path in (self._call.staging, self._call.source):
            if path is not None:
                Path(path).unlink(missing_ok=True)
        garbage_collection_cuda()  # model, trainer and run refer to each other
        if self._is_first:
            gc.freeze()  # what was imported is there to stay, and takes a quarter of a second to look through
            self._is_first = False


def _spoils_process(error: BaseException) -> bool:
    """Whether the GPU refuses all further work of this process."""
    return "CUDA error" in str(error) and not isinstance(error, torch.cuda.OutOfMemoryError)


def _link(source: str, target: str) -> None:
    """A file under a second name, where that is possible without a copy; files of checkpoints never change."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # on another disk
        shutil.copyfile(source, target)
