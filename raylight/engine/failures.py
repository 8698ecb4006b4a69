"""What went wrong in a worker, on its way to the driver."""

from __future__ import annotations

import contextlib
import dis
import importlib.util
import linecache
import re
import sys
import traceback
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

import torch.distributed as dist

from raylight.utilities.exceptions import WorkerError

DATA_STREAM_ENDED = "The stream of a Ray Dataset has ended early"
COLLATERAL = re.compile(
    r"Connection (closed|reset) by peer|Connection refused|Broken pipe|NCCL|\b[Gg]loo\b|ProcessGroup"
)
"""In the texts of the RuntimeErrors that a lost peer causes in the others: gloo's have no type of their own."""
OURS = ("raylight", "torch")
RAISE = dis.opmap["RAISE_VARARGS"]


def is_collateral(error: BaseException) -> bool:
    """Whether it looks like the consequence of another rank's end; what a ``raise`` of the user's has raised never is.

    Args:
        error: With its traceback.
    """
    if isinstance(error, WorkerError):
        return str(error).startswith(DATA_STREAM_ENDED)
    if isinstance(error, dist.DistError):
        return True
    return type(error) is RuntimeError and COLLATERAL.search(str(error)) is not None and not _raised_by_user(error)


def _raised_by_user(error: BaseException) -> bool:
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    if innermost is None or _package(innermost.tb_frame) in OURS:
        return False
    return innermost.tb_frame.f_code.co_code[innermost.tb_lasti] == RAISE


@dataclass(frozen=True)
class Failure:
    """An exception on one rank."""

    rank: int
    node: str
    pid: int
    pickled: bytes | None
    """The exception; None where it cannot be pickled."""
    summary: str
    """Its type and message."""
    traceback: str
    """Where it was raised, from the first frame of the user's on."""
    is_collateral: bool = False
    """It looks like the consequence of another rank's end."""


class RemoteTraceback(Exception):
    """The traceback of a worker, shown as the cause of the exception that was raised there."""

    def __init__(self, where: str, text: str) -> None:
        super().__init__(f"raised on {where}\n{text}")
        self.where = where
        self.text = text

    def __reduce__(self) -> Any:
        return type(self), (self.where, self.text)


def describe(error: BaseException, rank: int, node: str, pid: int) -> Failure:
    """Runs in a worker: ``error`` in a form that can travel."""
    from ray import cloudpickle

    summary = "".join(traceback.format_exception_only(error)).strip()
    text = "".join(traceback.format_exception(type(error), error, _from_user_code(error.__traceback__)))
    try:
        pickled = cloudpickle.dumps(error)
        cloudpickle.loads(pickled)
    except Exception:  # an exception class may refuse either in any way it likes
        pickled = None
    return Failure(rank, node, pid, pickled, summary, text, is_collateral(error))


def _from_user_code(frames: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of raylight's, and of torch's DDP, that led to the user's code."""
    current = frames
    while current is not None:
        if _package(current.tb_frame) not in OURS:
            return current
        current = current.tb_next
    return frames


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _with_sources(text: str) -> str:
    """Runs on the driver: a traceback with the lines of code that the worker did not have, such as a notebook's."""

    def complete(frame: re.Match[str]) -> str:
        source = linecache.getline(frame["file"], int(frame["line"])).strip()
        return f"{frame[0]}    {source}\n" if source else frame[0]

    return re.sub(r'^  File "(?P<file>.+)", line (?P<line>\d+), in .*\n(?!    )', complete, text, flags=re.MULTILINE)


def _add_note(error: BaseException, text: str) -> None:
    if hasattr(error, "add_note"):
        error.add_note(text)


def _is_here(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None


def revive(failure: Failure) -> BaseException:
    """Runs on the driver: the exception to raise, with its own type, and rank, node and traceback with it."""
    from ray import cloudpickle

    from raylight.engine import own_classes, user_modules

    where = f"rank {failure.rank}, node {failure.node}, pid {failure.pid}"
    error: BaseException = WorkerError(f"{failure.summary} (on {where})", failure.rank, failure.node)
    if failure.pickled is not None:
        # It may hold what only a worker can have, such as a tensor of a GPU
        with own_classes.stay(), contextlib.suppress(Exception):
            error = cloudpickle.loads(failure.pickled)
    error.__cause__ = RemoteTraceback(where, _with_sources(failure.traceback))
    error.raylight_origin = {"rank": failure.rank, "node": failure.node, "pid": failure.pid}  # type: ignore[attr-defined]
    if isinstance(error, ModuleNotFoundError) and error.name and _is_here(error.name.partition(".")[0]):
        _add_note(error, f"The driver can import {error.name}. {user_modules.REMEDY}")
    _add_note(error, f"Raised on {where}.")
    return error
