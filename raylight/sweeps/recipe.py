"""What a sweep builds for each trial, and which of its arguments the names of a space reach."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raylight.config import legacy
from raylight.config.flags import TrainerConfig
from raylight.core.datamodule import LightningDataModule
from raylight.core.module import LightningModule
from raylight.utilities.exceptions import MisconfigurationException

OWNERS = ("model", "data", "trainer")
SETTLED = {
    "devices": "workers_per_trial",
    "num_nodes": "workers_per_trial",
    "num_workers": "workers_per_trial",
    "launcher": "workers_per_trial",
    "gpus": "workers_per_trial",
    "resources_per_worker": "resources_per_worker",
    "default_root_dir": "storage",
}
"""Trainer flags that a sweep sets itself, and the argument of ``sweep`` that they follow from."""
Targets = dict[str, tuple[str, str]]
"""Name in the space -> whose argument, and which."""


@dataclass
class Recipe:
    """The makers of a trial's model, data and Trainer, and what they are always given."""

    model: Any
    """A LightningModule, its class, or a function that returns one."""
    datamodule: Any = None
    """Likewise, or None."""
    train_dataloaders: Any = None
    val_dataloaders: Any = None
    trainer: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Flags."""

    def targets(self, space: dict[str, Any]) -> Targets:
        """What each name of a space reaches.

        Raises:
            MisconfigurationException: Names that reach nothing, or more than one argument; all of them, with guesses.
        """
        known = {owner: self._arguments(owner) for owner in OWNERS}
        found, problems = {}, []
        for name in space:
            target = _resolve(name, known)
            if isinstance(target, str):
                problems.append(target)
            else:
                found[name] = target
        twice = {target for target in found.values() if list(found.values()).count(target) > 1}
        problems += [f"{owner}.{argument} stands in the space twice." for owner, argument in sorted(twice)]
        if problems:
            raise MisconfigurationException("\n".join(problems))
        return found

    def _arguments(self, owner: str) -> Arguments:
        if owner == "trainer":
            names = [field.name for field in dataclasses.fields(TrainerConfig) if field.name not in SETTLED]
            names += [name for name in legacy.OLD_FLAGS if name not in SETTLED]
            return Arguments(names, False)
        return arguments_of(self.model if owner == "model" else self.datamodule)

    def build(self, targets: Targets, params: dict[str, Any]) -> Built:
        """Make a trial's own model, data and flags."""
        given: dict[str, dict[str, Any]] = {owner: {} for owner in OWNERS}
        for name, value in params.items():
            owner, argument = targets[name]
            given[owner][argument] = value
        flags = {**copy.deepcopy(self.trainer), **given["trainer"]}
        datamodule = make(self.datamodule, given["data"])
        return Built(make(self.model, given["model"]), datamodule, flags)


@dataclass
class Built:
    """Of one trial."""

    model: LightningModule
    datamodule: LightningDataModule | None
    flags: dict[str, Any]


@dataclass
class Arguments:
    """What can be given to a maker."""

    names: list[str]
    others_too: bool
    """It has ``**kwargs``."""


def arguments_of(maker: Any) -> Arguments:
    """The named arguments of a class or function; none of an object that is already made."""
    if maker is None or not callable(maker) or isinstance(maker, LightningModule | LightningDataModule):
        return Arguments([], False)
    parameters = inspect.signature(maker).parameters.values()
    names = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    return Arguments(names, any(each.kind == each.VAR_KEYWORD for each in parameters))


def make(maker: Any, arguments: dict[str, Any]) -> Any:
    """Call a class or function; an object that is already made is copied."""
    if maker is None:
        return None
    if isinstance(maker, LightningModule | LightningDataModule):
        return copy.deepcopy(maker)
    return maker(**arguments)


def verify_maker(maker: Any, what: str, kind: type) -> None:
    """Raise TypeError unless ``maker`` is a ``kind``, its class, or a function."""
    if isinstance(maker, kind) or (inspect.isclass(maker) and issubclass(maker, kind)):
        return
    if inspect.isclass(maker) or not callable(maker):
        raise TypeError(
            f"{what}={maker!r} must be a {kind.__name__}, its class, or a function that returns one, such as "
            "functools.partial(Model, width=64)."
        )


def _resolve(name: str, known: dict[str, Arguments]) -> tuple[str, str] | str:
    """Whose argument ``name`` is, and which; or what is wrong with it."""
    owner, dot, argument = name.partition(".")
    if dot and owner == "trainer" and argument in SETTLED:
        return f"{name!r} cannot be searched: the sweep sets it, by {SETTLED[argument]}=."
    if dot and owner in OWNERS:
        if argument in known[owner].names or known[owner].others_too:
            return owner, argument
        return f"{name!r}: the {owner} takes no argument {argument!r}{_guess(argument, known[owner].names)}."
    holders = [each for each in OWNERS if name in known[each].names]
    if len(holders) == 1:
        return holders[0], name
    if holders:
        return f"{name!r} could be any of {', '.join(f'{each}.{name}' for each in holders)}: write the one you mean."
    everything = [*_qualified(known), *(each for arguments in known.values() for each in arguments.names)]
    return f"{name!r} is no argument of the model, the datamodule or the Trainer{_guess(name, everything)}."


def _qualified(known: dict[str, Arguments]) -> Iterator[str]:
    return (f"{owner}.{name}" for owner, arguments in known.items() for name in arguments.names)


def _guess(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f" (did you mean {close[0]!r}?)"
    return "" if len(names) > 12 else f"; it takes {', '.join(names)}" if names else "; give its class, not an object"


def name_of(maker: Any) -> str:
    """For people."""
    maker = maker.func if isinstance(maker, functools.partial) else maker
    return str(getattr(maker, "__name__", type(maker).__name__))
