"""What a script was about to train: its first ``Trainer.fit``, taken in place of being carried out."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from raylight.cli.run import load_script
from raylight.core.datamodule import LightningDataModule
from raylight.core.module import LightningModule
from raylight.trainer import Trainer
from raylight.utilities.parsing import init_call

ARGUMENTS = "_arguments_of_init"


@dataclass
class FitCall:
    """A call of ``fit``."""

    trainer: Trainer
    flags: dict[str, Any]
    """That the script gave to the Trainer."""
    model: Any
    train_dataloaders: Any
    val_dataloaders: Any
    datamodule: Any


class Captured(BaseException):
    """Ends the script at its first ``fit``. No Exception: the script's own handlers are not meant."""

    def __init__(self, call: FitCall) -> None:
        super().__init__("fit was called")
        self.call = call


def first_fit(path: str, arguments: list[str]) -> FitCall | None:
    """Run a script up to its first ``fit``; None where it ends without one. Its exceptions pass through.

    Raises:
        OSError: The script cannot be read.
    """
    code, script = load_script(path)
    sys.argv = [path, *arguments]
    sys.modules["__main__"] = script
    try:
        with capturing():
            exec(code, vars(script))
    except Captured as captured:
        return captured.call
    return None


@contextlib.contextmanager
def capturing() -> Iterator[None]:
    """In the block ``Trainer.fit`` raises Captured, and models and datamodules remember what they were made from."""
    init, fit = Trainer.__init__, Trainer.fit
    bases = {base: vars(base)["__init__"] for base in (LightningModule, LightningDataModule)}

    @functools.wraps(init)
    def noting_flags(self: Trainer, *positional: Any, **flags: Any) -> None:
        init(self, *positional, **flags)
        self.__dict__[ARGUMENTS] = flags

    @functools.wraps(fit)
    def raising(
        self: Trainer,
        model: Any,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        datamodule: Any = None,
        *_: Any,
        train_dataloader: Any = None,
        **__: Any,
    ) -> None:
        train = train_dataloaders if train_dataloaders is not None else train_dataloader
        if isinstance(train, LightningDataModule):
            train, datamodule = None, train
        raise Captured(FitCall(self, vars(self)[ARGUMENTS], model, train, val_dataloaders, datamodule))

    Trainer.__init__, Trainer.fit = noting_flags, raising  # type: ignore[method-assign]
    for base, original in bases.items():
        setattr(base, "__init__", _noting_arguments(original))  # noqa: B010  mypy knows no other way
    try:
        yield
    finally:
        Trainer.__init__, Trainer.fit = init, fit  # type: ignore[method-assign]
        for base, original in bases.items():
            setattr(base, "__init__", original)  # noqa: B010


def _noting_arguments(original: Any) -> Any:
    @functools.wraps(original)
    def noting(self: Any, *positional: Any, **named: Any) -> None:
        arguments = _arguments(self, sys._getframe(1))
        original(self, *positional, **named)
        self.__dict__[ARGUMENTS] = arguments

    return noting


def _arguments(made: Any, frame: FrameType | None) -> dict[str, Any]:
    """What the outermost ``__init__`` of an object was called with."""
    arguments: dict[str, Any] = {}
    while frame is not None:
        owner, found = init_call(frame)
        if owner is not made:
            break
        arguments, frame = found, frame.f_back
    return arguments


def maker_of(made: Any) -> Any:
    """The class of a captured object, with the arguments that it was made from; None for None."""
    if made is None:
        return None
    kind: Any = type(made)
    return functools.partial(kind, **vars(made).get(ARGUMENTS, {}))
