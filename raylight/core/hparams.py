"""Hyperparameters: arguments of ``__init__``, remembered, logged, saved, and given back when a checkpoint is loaded."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast

from torch import nn

from raylight.checkpoint import storage
from raylight.core.from_config import INSTANTIATOR, instantiate_module, verify_origin
from raylight.core.saving import load_hparams_file
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.parsing import AttributeDict, collect_init_args
from raylight.utilities.rank_zero import rank_zero_deprecation, rank_zero_warn
from raylight.utilities.secrets import REDACTED, paths_of_redacted

PAST_HPARAMS_KEYS = ("hparams", "module_arguments")
"""Where Lightning 0.7 kept a module's hyperparameters."""

_given: ContextVar[tuple[type, Mapping[str, Any]] | None] = ContextVar("given_hyperparameters", default=None)


@contextmanager
def given_hyperparameters(owner: type, hparams: Mapping[str, Any]) -> Iterator[None]:
    """Within this block ``save_hyperparameters`` of an ``owner`` saves these in place of the arguments it got."""
    token = _given.set((owner, hparams))
    try:
        yield
    finally:
        _given.reset(token)


class HyperparametersMixin:
    """``save_hyperparameters`` and what it saved.

    Saved values can be read as attributes too, ``model.lr`` for ``model.hparams.lr``, where there is no other
    attribute of that name.
    """

    _log_hyperparams: bool = False
    _hparams_name: str | None = None
    """Argument of ``__init__`` that ``hparams`` was as a whole; "kwargs" if they are arguments by themselves."""
    _hparams: AttributeDict
    _hparams_initial: AttributeDict

    def save_hyperparameters(
        self,
        *args: Any,
        ignore: str | Iterable[str] | None = None,
        frame: FrameType | None = None,
        logger: bool = True,
    ) -> None:
        """Save arguments of ``__init__`` in ``hparams``, from where they go to the loggers and into checkpoints.

        Called in ``__init__`` of a class and of its subclasses, each call adds to what is there.

        Args:
            args: Names of arguments to save; or one dict or Namespace to save instead; nothing: all arguments of all
                ``__init__`` under way, the subclass's included, with ``**kwargs`` flattened.
            ignore: Names to leave out, and to drop if they have been saved before.
            frame: Where to look for ``__init__``; None: where this method is called.
            logger: Send the hyperparameters to the loggers when a run starts.

        Raises:
            MisconfigurationException: A name is no argument of ``__init__``, a value cannot be copied, or the object
                given is neither dict nor Namespace.
        """
        self._log_hyperparams = logger
        if len(args) == 1 and not args[0]:  # an empty container has nothing to save
            return
        if frame is None:
            frame = inspect.currentframe()
            frame = frame.f_back if frame else None
        ignored = {ignore} if isinstance(ignore, str) else set(ignore or ())
        arguments = {name: value for name, value in _init_arguments(self, frame).items() if name not in ignored}
        hparams, self._hparams_name = _select(arguments, args)
        self._set_hparams(hparams)
        self.remove_ignored_hparams(ignored)
        for name, value in self._hparams.items():
            if isinstance(value, nn.Module):
                rank_zero_warn(
                    f"Attribute {name!r} is an instance of `nn.Module` and is already saved during checkpointing. "
                    f"It is recommended to ignore them using `self.save_hyperparameters(ignore=[{name!r}])`."
                )
        self._hparams_initial = _copy(self._hparams)

    @property
    def hparams(self) -> AttributeDict:
        """What ``save_hyperparameters`` saved; may be changed. ``hparams_initial`` keeps the values as they were."""
        if not hasattr(self, "_hparams"):
            self._hparams = AttributeDict()
        return self._hparams

    @hparams.setter
    def hparams(self, hparams: Any) -> None:
        rank_zero_deprecation("`self.hparams = ...` is Lightning 1.0: write `self.save_hyperparameters(...)`.")
        frame = inspect.currentframe()
        while frame is not None and frame.f_code.co_name != "__init__":
            frame = frame.f_back
        self._hparams = AttributeDict()
        self.save_hyperparameters(hparams, frame=frame)

    @property
    def hparams_initial(self) -> AttributeDict:
        """A copy of ``hparams`` as the last ``save_hyperparameters`` left them."""
        return copy.deepcopy(self._hparams_initial) if hasattr(self, "_hparams_initial") else AttributeDict()

    def __getattr__(self, name: str) -> Any:
        # nn.Module finds parameters and modules in this way: they come first, without the cost of a second call.
        own = self.__dict__
        for holder in ("_modules", "_parameters", "_buffers"):
            if name in own.get(holder, ()):
                return own[holder][name]
        if not name.startswith("_") and name in own.get("_hparams", ()):
            return own["_hparams"][name]
        inherited = getattr(super(), "__getattr__", None)
        if inherited is not None:
            return inherited(name)
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def remove_ignored_hparams(self, ignore_list: Iterable[str]) -> None:
        """Drop names from ``hparams``, e.g. those that a base class saved."""
        for name in ignore_list:
            self.hparams.pop(name, None)

    def _set_hparams(self, hparams: MutableMapping[str, Any] | Namespace) -> None:
        """Add ``hparams`` to those that are there; a mapping that is no dict (OmegaConf's) replaces them."""
        added, current = _to_mapping(hparams), cast(Any, self.hparams)
        if isinstance(added, dict) and isinstance(current, dict):
            current.update(added)
        else:
            self._hparams = cast(AttributeDict, added)


def _init_arguments(owner: Any, frame: FrameType | None) -> dict[str, Any]:
    given = _given.get()
    if given is not None and type(owner) is given[0]:
        return dict(given[1])
    if dataclasses.is_dataclass(owner):  # its generated __init__ says no super()
        return {field.name: getattr(owner, field.name) for field in dataclasses.fields(owner) if field.init}
    arguments: dict[str, Any] = {}
    for found in collect_init_args(frame, [], classes=(HyperparametersMixin,)):
        arguments.update(found)  # those of the most derived class win
    return arguments


def _select(arguments: dict[str, Any], chosen: tuple[Any, ...]) -> tuple[Any, str | None]:
    """What to save of ``arguments``, and the name under which it was handed to ``__init__``."""
    if not chosen:
        return arguments, "kwargs" if arguments else None
    objects = [choice for choice in chosen if not isinstance(choice, str)]
    if objects:
        if len(chosen) > 1:
            raise MisconfigurationException(
                "save_hyperparameters takes either names of arguments, or one dict or Namespace; it got "
                f"{', '.join(type(choice).__name__ for choice in chosen)}. Call it once for each."
            )
        return objects[0], next((name for name, value in arguments.items() if _equal(value, objects[0])), None)
    unknown = [name for name in chosen if name not in arguments]
    if unknown:
        raise MisconfigurationException(
            f"save_hyperparameters was given {', '.join(map(repr, unknown))}, but __init__ has only the arguments "
            f"{', '.join(map(repr, arguments)) or 'none'}."
        )
    return {name: arguments[name] for name in chosen}, "kwargs"


def _equal(left: Any, right: Any) -> bool:
    try:
        return bool(left == right)
    except (ValueError, RuntimeError, TypeError):  # arrays and tensors compare element by element
        return left is right


def _to_mapping(hparams: Any) -> MutableMapping[str, Any]:
    if isinstance(hparams, Namespace):
        hparams = vars(hparams)
    if isinstance(hparams, dict):
        return AttributeDict(hparams)
    if isinstance(hparams, MutableMapping):
        return hparams
    expected = "save_hyperparameters takes names of arguments, a dict or a Namespace"
    if isinstance(hparams, bool | int | float | str):
        raise MisconfigurationException(f"Primitives {(bool, int, float, str)} are not allowed: {expected}.")
    raise MisconfigurationException(
        f"Unsupported config type of {type(hparams)}. {expected}. Pass a dataclass as `dataclasses.asdict(...)`."
    )


def _copy(hparams: AttributeDict) -> AttributeDict:
    try:
        return copy.deepcopy(hparams)
    except Exception as error:  # whatever a value's own copying raises
        culprits = [name for name, value in hparams.items() if not _can_copy(value)]
        raise MisconfigurationException(
            f"The hyperparameters {', '.join(map(repr, culprits))} cannot be copied ({error}). Leave them out with "
            f"`self.save_hyperparameters(ignore={culprits})`."
        ) from error


def _can_copy(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:
        return False
    return True


# What load_from_checkpoint of LightningModule and of LightningDataModule share


class HasHyperparametersKeys(Protocol):
    """A class that says under which keys its hyperparameters stand in a checkpoint."""

    CHECKPOINT_HYPER_PARAMS_KEY: ClassVar[str]
    CHECKPOINT_HYPER_PARAMS_NAME: ClassVar[str]


Made = TypeVar("Made", bound=HasHyperparametersKeys)
FROM_CONFIG = ("_instantiator", "_class_path")
"""Keys that LightningCLI adds to the hyperparameters: that they are a configuration, and whose."""


def make_again(
    cls: type[Made],
    checkpoint: Mapping[str, Any],
    hparams_file: storage.PathOrURI | None,
    overrides: Mapping[str, Any],
) -> Made:
    """A ``cls`` made with the hyperparameters of a checkpoint; arguments and errors as for ``load_init_kwargs``.

    Raises MisconfigurationException, too, where one that ``__init__`` needs is a secret, which no checkpoint holds.

    Those that LightningCLI saved are a configuration, in which classes stand by name.
    """
    stored = _stored_hparams(cls, checkpoint, hparams_file)
    if stored.get("_instantiator") is None:
        return cls(**load_init_kwargs(cls, checkpoint, hparams_file, overrides))
    named = verify_origin(cls, stored)
    if "_class_path" in stored:
        config = _without_redacted(named, {**stored, **overrides})
    else:
        config = load_init_kwargs(cls, checkpoint, hparams_file, overrides)
    with given_hyperparameters(named, {**config, "_instantiator": INSTANTIATOR}):  # it can be saved again
        return instantiate_module(cls, config)


def load_init_kwargs(
    cls: type[HasHyperparametersKeys],
    checkpoint: Mapping[str, Any],
    hparams_file: storage.PathOrURI | None,
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """Keyword arguments with which to make a ``cls`` again.

    Args:
        cls: The class whose ``__init__`` is going to be called.
        checkpoint: As read; it is not changed.
        hparams_file: A ``.yaml`` or ``.csv`` file whose hyperparameters take the place of those stored; None: stored.
        overrides: Arguments of the user's; they win over those stored. Where the stored hyperparameters are one
            argument (a dict or Namespace), an override is an entry of that too. Otherwise one that is no argument is
            left out, with a warning.

    Raises:
        MisconfigurationException: The file is missing or of another kind.
    """
    stored = _stored_hparams(cls, checkpoint, hparams_file)
    stored = AttributeDict({key: value for key, value in stored.items() if key not in FROM_CONFIG})

    _, *parameters = inspect.signature(cls.__init__).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind not in variadic]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)

    as_argument = checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_NAME)
    if as_argument in names:
        stored = AttributeDict(_without_redacted(None, {**stored, **overrides}))
        return {as_argument: stored, **{key: value for key, value in overrides.items() if key in names or takes_any}}
    arguments = {**stored, **overrides}
    unknown = [] if takes_any else [key for key in overrides if key not in names]
    if unknown:
        rank_zero_warn(
            f"{cls.__name__}.__init__ takes no {', '.join(map(repr, unknown))}, which is left out; its arguments are "
            f"{', '.join(map(repr, names)) or 'none'}."
        )
    return _without_redacted(cls, {key: value for key, value in arguments.items() if takes_any or key in names})


def _without_redacted(cls: type | None, arguments: dict[str, Any]) -> dict[str, Any]:
    """``arguments`` but for secrets, of which only ``REDACTED`` is left, that have a default in ``cls.__init__``.

    Raises:
        MisconfigurationException: There are others.
    """
    parameters = inspect.signature(cls.__init__).parameters if cls is not None else {}  # type: ignore[misc]
    with_default = {each.name for each in parameters.values() if each.default is not each.empty}
    left_out = {name for name in with_default if arguments.get(name) == REDACTED}
    kept = {name: value for name, value in arguments.items() if name not in left_out}
    if needed := [name for name, value in kept.items() if paths_of_redacted(value)]:
        where = [path for name in needed for path in paths_of_redacted(kept[name], name)]
        raise MisconfigurationException(
            f"The hyperparameters {', '.join(map(repr, where))} are secrets, and stand in no checkpoint. Give them: "
            f"load_from_checkpoint(path, {', '.join(f'{name}=...' for name in needed)})."
        )
    if left_out:
        rank_zero_warn(
            f"The hyperparameters {', '.join(map(repr, sorted(left_out)))} are secrets, and stand in no checkpoint: "
            "the defaults of `__init__` are taken. Give others to `load_from_checkpoint`."
        )
    return kept


def _stored_hparams(
    cls: type[HasHyperparametersKeys], checkpoint: Mapping[str, Any], hparams_file: storage.PathOrURI | None
) -> dict[str, Any]:
    if hparams_file is not None:
        return load_hparams_file(hparams_file)
    own = cls.CHECKPOINT_HYPER_PARAMS_KEY
    keys = (*PAST_HPARAMS_KEYS, own) if own == "hyper_parameters" else (own,)
    found = [stored for key in keys if isinstance(stored := checkpoint.get(key), Mapping)]
    return {key: value for stored in found for key, value in stored.items()}


if TYPE_CHECKING:
    class_only = classmethod
else:

    class class_only(classmethod):  # noqa: N801 - reads as the decorator it is
        """A classmethod that refuses to be called on an instance, where its result would be lost."""

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            method = super().__get__(instance, owner)
            if instance is None:
                return method

            # Raised by the call, not here: inspection of an instance touches every attribute.
            @functools.wraps(method)
            def refuse(*args: Any, **kwargs: Any) -> None:
                name = f"{type(instance).__name__}.{method.__name__}"
                raise TypeError(
                    f"The classmethod `{name}` cannot be called on an instance. Please call it on the class type and "
                    "make sure the return value is used."
                )

            return refuse
