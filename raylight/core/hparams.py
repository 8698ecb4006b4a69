"""Hyperparameters: arguments of ``__init__``, remembered, logged, saved, and given back when a checkpoint is loaded."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextvars import ContextVar
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast

from torch import nn

from raylight.checkpoint import storage
from raylight.core.saving import load_hparams_file
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.parsing import AttributeDict
from raylight.utilities.rank_zero import rank_zero_warn

PAST_HPARAMS_KEYS = ("hparams", "module_arguments")
"""Where Lightning 0.7 kept a module's hyperparameters."""

INSTANTIATORS: dict[str, Callable[[type, dict[str, Any]], Any]] = {}
"""Functions that make an object from its class and its hyperparameters, by the name that a checkpoint may ask for."""

_KNOWN_INSTANTIATORS = tuple(
    f"{package}.cli.instantiate_module" for package in ("pytorch_lightning", "lightning.pytorch", "raylight")
)

_given: ContextVar[dict[str, Any] | None] = ContextVar("given hyperparameters", default=None)

T = TypeVar("T")


@contextlib.contextmanager
def given_hyperparameters(hparams: Mapping[str, Any], instantiator: str) -> Iterator[None]:
    """Within the block ``save_hyperparameters()`` saves these in place of what it finds in ``__init__``.

    Args:
        hparams: As a command line or configuration file gave them, before objects were made of them.
        instantiator: Key of ``INSTANTIATORS`` whose function makes objects of them again.
    """
    token = _given.set({**hparams, "_instantiator": instantiator})
    try:
        yield
    finally:
        _given.reset(token)


class HyperparametersMixin:
    """``save_hyperparameters`` and what it saved.

    Saved values can be read as attributes too, ``model.lr`` for ``model.hparams.lr``, where there is no other
    attribute of that name.
    """

    __jit_unused_properties__: ClassVar[list[str]] = ["hparams", "hparams_initial"]

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
    if (given := _given.get()) is not None:
        return given
    if dataclasses.is_dataclass(owner):  # its generated __init__ says no super()
        return {field.name: getattr(owner, field.name) for field in dataclasses.fields(owner) if field.init}
    return _collect_init_arguments(frame)


def _collect_init_arguments(frame: FrameType | None) -> dict[str, Any]:
    """Arguments of the ``__init__`` calls around ``frame``, those of the outermost, most derived class winning.

    The first such call may be further out, around a helper method; from there on they must follow each other.
    """
    arguments: dict[str, Any] = {}
    inside = False
    while frame is not None:
        found = _init_call_arguments(frame)
        if found is not None:
            arguments.update(found)
            inside = True
        elif inside:
            break
        frame = frame.f_back
    return arguments


def _init_call_arguments(frame: FrameType) -> dict[str, Any] | None:
    """The arguments, ``self`` and ``*args`` aside, if ``frame`` is the ``__init__`` of a class with hyperparameters.

    Python keeps the class at hand only in a method that says ``super()``: one without is not recognised, as in
    Lightning.
    """
    if frame.f_code.co_name != "__init__" or "__class__" not in (variables := frame.f_locals):
        return None
    own, *parameters = inspect.signature(variables["__class__"].__init__).parameters.values()
    if not isinstance(variables.get(own.name), HyperparametersMixin):
        return None
    arguments: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments.update(variables.get(parameter.name, {}))
        elif parameter.kind is not parameter.VAR_POSITIONAL and parameter.name in variables:
            arguments[parameter.name] = variables[parameter.name]
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
    found = _stored_hparams(cls, checkpoint) if hparams_file is None else load_hparams_file(hparams_file)
    # Names that LightningCLI adds to find classes by; a file does not choose what is imported.
    stored = AttributeDict({key: value for key, value in found.items() if key not in ("_instantiator", "_class_path")})

    _, *parameters = inspect.signature(cls.__init__).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind not in variadic]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)

    as_argument = checkpoint.get(cls.CHECKPOINT_HYPER_PARAMS_NAME)
    if as_argument in names:
        stored.update(overrides)
        return {as_argument: stored, **{key: value for key, value in overrides.items() if key in names or takes_any}}
    arguments = {**stored, **overrides}
    unknown = [] if takes_any else [key for key in overrides if key not in names]
    if unknown:
        rank_zero_warn(
            f"{cls.__name__}.__init__ takes no {', '.join(map(repr, unknown))}, which is left out; its arguments are "
            f"{', '.join(map(repr, names)) or 'none'}."
        )
    return {key: value for key, value in arguments.items() if takes_any or key in names}


def make_from_checkpoint(
    cls: type[T],
    checkpoint: Mapping[str, Any],
    hparams_file: storage.PathOrURI | None,
    overrides: Mapping[str, Any],
) -> T:
    """An object of ``cls``, which has hyperparameters, made as ``load_init_kwargs`` says.

    Raises:
        MisconfigurationException: The checkpoint asks for a function or class that it may not choose.
        TypeError: ``__init__`` needs an argument that neither the checkpoint nor ``overrides`` has.
    """
    owner = cast("type[HasHyperparametersKeys]", cls)
    hparams = checkpoint.get(owner.CHECKPOINT_HYPER_PARAMS_KEY)
    asked = hparams if isinstance(hparams, Mapping) else {}
    name, class_path = asked.get("_instantiator"), asked.get("_class_path")
    if name is not None:
        _check_instantiator(cls, name, class_path)
    arguments = load_init_kwargs(owner, checkpoint, hparams_file, overrides)
    if name in INSTANTIATORS:
        return cast(T, INSTANTIATORS[name](cls, {**arguments, **({"_class_path": class_path} if class_path else {})}))
    return cls(**arguments)


def _stored_hparams(cls: type[HasHyperparametersKeys], checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    own = cls.CHECKPOINT_HYPER_PARAMS_KEY
    keys = (*PAST_HPARAMS_KEYS, own) if own == "hyper_parameters" else (own,)
    found = [stored for key in keys if isinstance(stored := checkpoint.get(key), Mapping)]
    return {key: value for stored in found for key, value in stored.items()}


def _check_instantiator(cls: type, name: Any, class_path: Any) -> None:
    if not isinstance(name, str) or name not in {*INSTANTIATORS, *_KNOWN_INSTANTIATORS}:
        raise MisconfigurationException(
            f"The instantiator {name!r} from the checkpoint is not in the allowlist of trusted instantiators and was "
            "blocked to prevent arbitrary code execution. If you trust this checkpoint, add the function to "
            "`raylight.core.hparams.INSTANTIATORS` under this name before loading."
        )
    if class_path is not None and not _is_imported_subclass(class_path, cls):
        raise MisconfigurationException(
            f"The class {class_path!r} requested by the checkpoint does not resolve to an already imported subclass of "
            f"{cls.__name__} and was blocked to prevent arbitrary code execution. If you trust this checkpoint, import "
            "the module that defines the class before loading."
        )


def _is_imported_subclass(class_path: Any, cls: type) -> bool:
    if not isinstance(class_path, str):
        return False
    module, _, name = class_path.rpartition(".")
    target = vars(sys.modules[module]).get(name) if module in sys.modules else None  # no module's __getattr__ is run
    return isinstance(target, type) and issubclass(target, cls)


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
