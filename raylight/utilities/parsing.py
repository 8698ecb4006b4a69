"""Read arguments, attributes and hyperparameters of objects."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterable, MutableMapping
from types import FrameType
from typing import Any

from raylight.utilities.rank_zero import rank_zero_warn


class AttributeDict(dict[str, Any]):
    """A dict whose items are attributes too.

    >>> hparams = AttributeDict(lr=0.1)
    >>> hparams.batch_size = 32
    >>> hparams["batch_size"], hparams.lr
    (32, 0.1)
    """

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError as error:
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{key}'") from error

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def __delattr__(self, key: str) -> None:
        del self[key]

    def __repr__(self) -> str:
        """A line per item, sorted, values aligned."""
        width = max((len(str(key)) for key in self), default=0) + 3
        return "\n".join(f"{chr(34) + str(key) + chr(34) + ':':<{width}} {self[key]}" for key in sorted(self, key=str))


def str_to_bool(val: str) -> bool:
    """True for "y", "yes", "t", "true", "on", "1"; False for "n", "no", "f", "false", "off", "0"; in any case.

    Raises:
        ValueError: It is none of these.
    """
    truth = _truth(val)
    if truth is None:
        raise ValueError(f"invalid truth value {val.lower()}")
    return truth


def str_to_bool_or_str(val: str) -> str | bool:
    """As ``str_to_bool``; another text stays as it is."""
    truth = _truth(val)
    return val if truth is None else truth


def str_to_bool_or_int(val: str) -> bool | int | str:
    """As ``str_to_bool``; else the number, or the text."""
    truth = _truth(val)
    if truth is not None:
        return truth
    try:
        return int(val)
    except ValueError:
        return val


def _truth(text: str) -> bool | None:
    if text.lower() in ("y", "yes", "t", "true", "on", "1"):
        return True
    return False if text.lower() in ("n", "no", "f", "false", "off", "0") else None


def is_picklable(obj: object) -> bool:
    """Whether ``pickle`` takes ``obj``."""
    try:
        pickle.dumps(obj)
    except (pickle.PickleError, AttributeError, RuntimeError, TypeError):
        return False
    return True


def clean_namespace(hparams: MutableMapping[str, Any]) -> None:
    """Drop from ``hparams`` what cannot be pickled, with a warning for each."""
    for name in [name for name, value in hparams.items() if not is_picklable(value)]:
        rank_zero_warn(
            f"Attribute '{name}' removed from hparams because it cannot be pickled. You can suppress this warning by"
            f" setting `self.save_hyperparameters(ignore=['{name}'])`."
        )
        del hparams[name]


def parse_class_init_keys(cls: type) -> tuple[str, str | None, str | None]:
    """How ``cls.__init__`` calls its ``self``, its ``*args`` and its ``**kwargs``; None for one that it lacks."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())  # type: ignore[misc]
    by_kind = {parameter.kind: parameter.name for parameter in parameters}
    variadic = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return parameters[0].name, by_kind.get(variadic[0]), by_kind.get(variadic[1])


def get_init_args(frame: FrameType) -> dict[str, Any]:
    """The arguments, ``self`` and ``*args`` aside, with which the ``__init__`` of ``frame`` runs; {} for another frame.

    Python keeps the class at hand only in a method that says ``super()``: one without is not recognised.
    """
    return init_call(frame)[1]


def init_call(frame: FrameType) -> tuple[Any, dict[str, Any]]:
    """The object that the ``__init__`` of ``frame`` makes, and its arguments; ``(None, {})`` for another frame."""
    variables = frame.f_locals
    if frame.f_code.co_name != "__init__" or "__class__" not in variables:
        return None, {}
    own, *parameters = inspect.signature(variables["__class__"].__init__).parameters.values()
    arguments: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments.update(variables.get(parameter.name, {}))
        elif parameter.kind is not parameter.VAR_POSITIONAL and parameter.name in variables:
            arguments[parameter.name] = variables[parameter.name]
    return variables.get(own.name), arguments


def collect_init_args(
    frame: FrameType | None, path_args: list[dict[str, Any]], inside: bool = False, classes: tuple[type, ...] = ()
) -> list[dict[str, Any]]:
    """The arguments of the ``__init__`` calls around ``frame``, added to ``path_args``, that of the subclass last.

    Args:
        frame: The first such call may be further out, around a helper method; from there they must follow each other.
        path_args: What was collected before; it is changed and returned.
        inside: Such a call has been met.
        classes: Only objects of these classes count; none: all.
    """
    while frame is not None:
        made, arguments = init_call(frame)
        if made is not None and (not classes or isinstance(made, classes)):
            path_args.append(arguments)
            inside = True
        elif inside:
            break
        frame = frame.f_back
    return path_args


def save_hyperparameters(
    obj: Any, *args: Any, ignore: str | Iterable[str] | None = None, frame: FrameType | None = None
) -> None:
    """``obj.save_hyperparameters``, for the ``__init__`` that calls this function."""
    caller = inspect.currentframe()
    obj.save_hyperparameters(*args, ignore=ignore, frame=frame or (caller.f_back if caller else None))


def _holders(model: Any, attribute: str) -> list[Any]:
    """The objects and dicts that have ``attribute``: the model, its hyperparameters, its datamodule, those of that."""
    trainer = getattr(model, "_trainer", None)
    datamodule = trainer.datamodule if trainer is not None else None
    holders = []
    for owner in (model, datamodule):
        if owner is not None and hasattr(owner, attribute):
            holders.append(owner)
        if owner is not None and attribute in getattr(owner, "hparams", ()):
            holders.append(owner.hparams)
    return holders


def _holders_or_raise(model: Any, attribute: str) -> list[Any]:
    holders = _holders(model, attribute)
    if not holders:
        raise AttributeError(
            f"{attribute} is neither stored in the model namespace nor the `hparams` namespace/dict, nor the "
            "datamodule."
        )
    return holders


def lightning_hasattr(model: Any, attribute: str) -> bool:
    """Whether the model, its datamodule, or the hyperparameters of one of them have ``attribute``."""
    return bool(_holders(model, attribute))


def lightning_getattr(model: Any, attribute: str) -> Any:
    """``attribute`` of the datamodule's hyperparameters, the datamodule, the model's hyperparameters or the model,
    whichever has it first.

    Raises:
        AttributeError: None of them has it.
    """
    holder = _holders_or_raise(model, attribute)[-1]
    return holder[attribute] if isinstance(holder, dict) else getattr(holder, attribute)


def lightning_setattr(model: Any, attribute: str, value: Any) -> None:
    """Set ``attribute`` wherever it is: model, datamodule, hyperparameters of both.

    Raises:
        AttributeError: None of them has it.
    """
    for holder in _holders_or_raise(model, attribute):
        if isinstance(holder, dict):
            holder[attribute] = value
        else:
            setattr(holder, attribute, value)
