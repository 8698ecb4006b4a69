"""Profiler: what a profiler does, and how its report reaches a file or the terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from raylight.checkpoint import storage
from raylight.utilities.secrets import redact_text

log = logging.getLogger(__name__)


class Profiler(ABC):
    """Records the actions of a run; derive from it for a profiler of your own.

    Args:
        dirpath: Folder, or URI, of the report. None: the log folder of the run.
        filename: Name of the report; "fit-<filename>.txt" is written, and with several workers
            "fit-<filename>-<local rank>.txt" by each. None: the report is logged, or printed where
            nobody reads the log.
    """

    # Of the class, so that a profiler whose __init__ calls no other can be used as well
    dirpath: storage.PathOrURI | None = None
    filename: str | None = None
    _stage: str | None = None
    _local_rank: int | None = None
    """None in a run of one worker."""
    _lightning_module: Any = None
    """The model, while it is in a run."""
    _print: Callable[[str], Any] = staticmethod(print)
    """Brings a text to the user's terminal."""

    def __init__(self, dirpath: storage.PathOrURI | None = None, filename: str | None = None) -> None:
        self.dirpath = dirpath
        self.filename = filename

    @abstractmethod
    def start(self, action_name: str) -> None:
        """An action begins."""

    @abstractmethod
    def stop(self, action_name: str) -> None:
        """An action is over."""

    def summary(self) -> str:
        """The report."""
        return ""

    @contextlib.contextmanager
    def profile(self, action_name: str) -> Iterator[str]:
        """Record a block::

        with self.trainer.profiler.profile("augment"):
            ...
        """
        self.start(action_name)
        try:
            yield action_name
        finally:
            self.stop(action_name)

    def describe(self) -> None:
        """Write, log or print the report; then let go of what recording needed."""
        summary = redact_text(self.summary())
        if self.filename and self.dirpath is not None:
            _append(storage.join(self.dirpath, self._prepare_filename()), summary)
        elif summary:
            self._tell(summary)
        self.teardown(stage=self._stage)

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """A call of fit, validate, test or predict begins.

        Args:
            stage: Which one.
            local_rank: Of this worker on its node; None in a run of one worker.
            log_dir: Where the run's logs are.
        """
        self._stage = stage
        self._local_rank = local_rank
        self.dirpath = self.dirpath or log_dir

    def teardown(self, stage: str | None) -> None:  # noqa: B027  nothing to do is the usual case
        """The call of ``stage`` is over."""

    @property
    def local_rank(self) -> int:
        return 0 if self._local_rank is None else self._local_rank

    def __getstate__(self) -> dict[str, Any]:
        """A copy is not in a run."""
        return {name: value for name, value in vars(self).items() if name not in ("_lightning_module", "_print")}

    def _tell(self, text: str) -> None:
        if self._local_rank not in (None, 0):
            return
        if log.isEnabledFor(logging.INFO):
            log.info(text)
        else:
            self._print(text)

    def _prepare_filename(self, action_name: str | None = None, extension: str = ".txt") -> str:
        """``[stage-]filename[-rank][-action]`` without what a file system does not accept."""
        rank = None if self._local_rank is None else str(self._local_rank)
        parts = (self._stage, self.filename, rank, action_name)
        name = "-".join(str(part) for part in parts if part)
        name = re.sub(r'[\\/:*?"<>|\n\r\t]', "_", name)
        return (re.sub("_+", "_", name).strip() or "profile") + extension

    def _stats_to_str(self, stats: dict[str, str]) -> str:
        stage = f"{self._stage.upper()} " if self._stage is not None else ""
        rank = f" rank: {self._local_rank}" if self._local_rank is not None else ""
        lines = [f"{stage}Profiler Report"]
        for action, text in stats.items():
            lines += [f"Profile stats for: {action}{rank}", text]
        return os.linesep.join(lines)


class PassThroughProfiler(Profiler):
    """Records nothing: ``trainer.profiler`` where none was asked for."""

    def start(self, action_name: str) -> None:
        pass

    def stop(self, action_name: str) -> None:
        pass


def _append(path: str, text: str) -> None:
    before = b""
    with contextlib.suppress(FileNotFoundError), storage.open_read(path) as stream:
        before = stream.read()

    def write(stream: BinaryIO) -> None:
        stream.write(before + text.encode())

    storage.write_atomic(path, write)
