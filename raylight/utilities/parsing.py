"""Helpers for arguments and hyperparameters."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import MutableMapping
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


def is_picklable(obj: object) -> bool:
    """Whether ``pickle.dumps`` takes ``obj``."""
    try:
        pickle.dumps(obj)
    except (pickle.PickleError, AttributeError, RuntimeError, TypeError):
        return False
    return True


def clean_namespace(hparams: MutableMapping[str, Any]) -> None:
    """Drop, with a warning each, the items of ``hparams`` that cannot be pickled."""
    for name in [name for name, value in hparams.items() if not is_picklable(value)]:
        rank_zero_warn(
            f"Attribute '{name}' removed from hparams because it cannot be pickled. You can suppress this warning by "
            f"setting `self.save_hyperparameters(ignore=['{name}'])`."
        )
        del hparams[name]


def parse_class_init_keys(cls: type) -> tuple[str, str | None, str | None]:
    """What ``cls.__init__`` calls ``self``, ``*args`` and ``**kwargs``; None for one that it lacks."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())  # type: ignore[misc]

    def name_of(kind: Any) -> str | None:
        return next((parameter.name for parameter in parameters if parameter.kind is kind), None)

    variadic = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return parameters[0].name, name_of(variadic[0]), name_of(variadic[1])
