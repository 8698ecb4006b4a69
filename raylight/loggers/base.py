"""What every logger is, and what several of them share.

Loggers live on the driver, or in the only process there is, and are handed floats. In a worker ``trainer.logger`` is a
stand-in that sends what it is told to the driver.
"""

from __future__ import annotations

import functools
import os
import re
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from torch import Tensor
from torch.nn import Module

from raylight.checkpoint import storage
from raylight.checkpoint.names import verify_below
from raylight.config.run_id import below_run
from raylight.utilities.aliases import lazy_names
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank, rank_zero_warn
from raylight.utilities.redaction import without_secrets
from raylight.utilities.secrets import named_parts, redact_text

if TYPE_CHECKING:
    from raylight.callbacks.checkpoint import ModelCheckpoint

L = TypeVar("L")
T = TypeVar("T")


class Logger(ABC):
    """Base of all loggers: name, version, ``log_metrics`` and ``log_hyperparams`` are the subclass's to write."""

    @property
    @abstractmethod
    def name(self) -> str | None:
        """Name of the experiment."""

    @property
    @abstractmethod
    def version(self) -> int | str | None:
        """What tells this run from the others of the same name."""

    @property
    def save_dir(self) -> str | None:
        """The directory given by the user, or None if nothing is written locally."""
        return None

    @property
    def root_dir(self) -> str | None:
        """The directory that holds all versions, or None if nothing is written locally."""
        return None

    @property
    def log_dir(self) -> str | None:
        """The directory of this version, or None if nothing is written locally."""
        return None

    @property
    def group_separator(self) -> str:
        """What stands between the parts of a metric's name."""
        return "/"

    @property
    def experiment(self) -> Any:
        """The object underneath, created on first use; None for a logger that has none."""
        return None

    @abstractmethod
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record ``metrics`` at ``step``."""

    @abstractmethod
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Record the hyperparameters of the run; what else can be given depends on the logger."""

    def log_graph(self, model: Module, input_array: Any = None) -> None:  # noqa: B027 - need not be overridden
        """Record the computational graph of ``model``; most loggers cannot and do nothing."""

    def save(self) -> None:  # noqa: B027
        """Write what is still in memory."""

    def finalize(self, status: str) -> None:
        """The run ended with ``status``: "success" or "failed"; the logger may be used again afterwards."""
        self.save()

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:  # noqa: B027
        """``checkpoint_callback`` has written a checkpoint."""

    @property
    def takes_checkpoints(self) -> bool:
        """Whether ``after_save_checkpoint`` does something, for which the file must be complete."""
        return getattr(self.after_save_checkpoint, "__func__", None) is not Logger.after_save_checkpoint


class DummyExperiment:
    """Swallows everything: each attribute, call and item is the object itself, and iterating it gives nothing."""

    def __getattr__(self, name: str) -> DummyExperiment:
        if name.startswith("__"):  # else copy and pickle would take these for their own protocols
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> DummyExperiment:
        return self

    def __getitem__(self, index: Any) -> DummyExperiment:
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        pass

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __enter__(self) -> DummyExperiment:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


class DummyLogger(Logger):
    """Takes the place of the user's loggers under ``fast_dev_run``: accepts any call and records nothing."""

    def __init__(self) -> None:
        self._experiment = DummyExperiment()

    @property
    def name(self) -> str:
        """Empty."""
        return ""

    @property
    def version(self) -> str:
        """Empty."""
        return ""

    @property
    def experiment(self) -> DummyExperiment:
        """Accepts any attribute, item and call."""
        return self._experiment

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is recorded."""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is recorded."""

    def __getitem__(self, index: int) -> DummyLogger:
        return self

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return _do_nothing


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    pass


def rank_zero_experiment(fn: Callable[[L], T]) -> Callable[[L], T]:
    """Decorate the ``experiment`` property of a logger: ranks other than 0 get an object that swallows everything."""

    @functools.wraps(fn)
    def experiment(self: L) -> T:
        # It takes any call, so its users need not know it: the type stays that of rank 0.
        return fn(self) if rank() == 0 else DummyExperiment()  # type: ignore[return-value]

    return experiment


class LocalLogger(Logger):
    """A logger that writes to ``save_dir/name/version_N``.

    Args:
        save_dir: A local directory; ``~`` and ``$VARIABLES`` are expanded in ``log_dir``, where the files are.
        name: Directory below it; None or "" drops this level.
        version: N, or the whole name of the directory when it is a string. None takes the number after the highest
            one there is, at the first use of the logger, and keeps it.
        prefix: Stands before every metric's name, with a "-" between them.

    Raises:
        MisconfigurationException: ``save_dir`` is a URI, or ``name`` or ``version`` would leave it.
    """

    LOGGER_JOIN_CHAR = "-"
    NAME_HPARAMS_FILE = "hparams.yaml"

    def __init__(
        self, save_dir: str | os.PathLike[str], name: str | None, version: int | str | None, prefix: str
    ) -> None:
        self._save_dir = storage.join(save_dir)
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", self._save_dir):
            raise MisconfigurationException(
                f"{type(self).__name__}(save_dir={self._save_dir!r}): remote log directories are not supported yet. "
                "Give the path of a local directory."
            )
        self._save_dir = os.fspath(below_run(self._save_dir, local=True))
        self._name = verify_below(os.fspath(name or ""), f"{type(self).__name__}(name=...)")
        if isinstance(version, str):
            verify_below(version, f"{type(self).__name__}(version=...)")
        self._version = version
        self._goes_on = False
        self._prefix = prefix

    @property
    def save_dir(self) -> str:
        """The directory given by the user, as it was given."""
        return self._save_dir

    @property
    def name(self) -> str:
        """Name of the experiment, "" if it has none."""
        return self._name

    @property
    def version(self) -> int | str:
        """What tells this run from the others of the same name; decided on first use."""
        if self._version is None:
            self._version = _next_version(_expand(self.root_dir))
        return self._version

    def go_on(self, version: int | str) -> None:
        """The run has logged before, as this version: add to that, unless the user wants another one."""
        if self._version is None and isinstance(version, int):  # a name was given by the user, and is so again
            self._version = version
        self._goes_on = self._version == version

    @property
    def root_dir(self) -> str:
        """The directory that holds all versions: ``save_dir/name``."""
        return os.path.join(self.save_dir, self.name)

    @property
    def log_dir(self) -> str:
        """The directory of this version; it need not exist yet."""
        version = self.version if isinstance(self.version, str) else f"version_{self.version}"
        return _expand(os.path.join(self.root_dir, version))

    def _prefixed(self, metrics: Mapping[str, T]) -> Mapping[str, T]:
        """``metrics`` under the names that they are recorded with."""
        return prefixed(metrics, self._prefix, self.LOGGER_JOIN_CHAR)


def _expand(path: str) -> str:
    return os.path.expanduser(os.path.expandvars(path))


def _next_version(root_dir: str) -> int:
    """One more than the highest N of the directories named version_N, or version_N_anything, in ``root_dir``."""
    if not os.path.isdir(root_dir):
        return 0
    with os.scandir(root_dir) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    numbers = [int(found[1]) for name in names if (found := re.match(r"version_(\d+)(_|$)", name))]
    return max(numbers, default=-1) + 1


def prefixed(metrics: Mapping[str, T], prefix: str, separator: str) -> Mapping[str, T]:
    """``metrics`` with ``prefix`` before every name; unchanged where it is empty."""
    return {f"{prefix}{separator}{name}": value for name, value in metrics.items()} if prefix else metrics


def scalar(value: Any) -> Any:
    """The Python number in a tensor of one element; anything else as it is."""
    return value.item() if isinstance(value, Tensor) else value


def convert_params(params: Mapping[str, Any] | Namespace | None) -> dict[str, Any]:
    """Hyperparameters, however they were given, as a new dict without secrets; None gives an empty one."""
    if params is None:
        return {}
    mapping = named_parts(params)
    if mapping is None:
        raise MisconfigurationException(
            f"Hyperparameters must be a dict, a Namespace or a dataclass, not {type(params).__name__}."
        )
    return dict(without_secrets(mapping))


def flatten_params(params: Mapping[Any, Any], parent_key: str = "") -> dict[str, Any]:
    """Nested hyperparameters with their paths as keys: ``{"a": {"b": 1}, "c": [{"d": 2}]}`` -> ``a/b``, ``c/0/d``.

    Dicts, Namespaces, dataclasses and lists of dicts are entered; other lists stay values.
    """
    flat: dict[str, Any] = {}
    for key, value in params.items():
        path = f"{parent_key}/{key}" if parent_key else str(key)
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            value = dict(enumerate(value))
        mapping = named_parts(value)
        if mapping is None:
            flat[path] = value
        else:
            flat.update(flatten_params(mapping, path))
    return flat


def sanitize_params(params: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Flat hyperparameters as TensorBoard and the like accept them: numbers stay numbers, all else becomes text."""
    return {key: _number_or_text(value) for key, value in params.items()}


def _number_or_text(value: Any) -> bool | int | float | str:
    value = _number(value)
    return value if type(value) in (bool, int, float, str) else redact_text(str(value))


def _number(value: Any) -> Any:
    """The Python number in a numpy scalar or in a tensor of one element; anything else as it is."""
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1):
        return value.item()
    return value


def save_hparams_to_yaml(path: str, hparams: Mapping[str, Any]) -> None:
    """Write ``hparams`` so that ``yaml.safe_load`` gives plain types back.

    Enum members are written by name, paths as text, tuples as lists. What YAML has no type for is written as ``str``
    gives it, with one warning that names those keys.
    """
    import yaml

    copier = _PlainCopier()
    text = yaml.safe_dump(copier.copy(without_secrets(hparams), ""))
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    if copier.as_text:
        rank_zero_warn(f"These hyperparameters have no plain type and are text in {path}: {', '.join(copier.as_text)}")


class _PlainCopier:
    """Copies values into the types that YAML has, and remembers which it could only turn into text.

    An object met twice is copied once: YAML then writes an anchor, and a cycle ends.
    """

    as_text: list[str]
    """Paths ("model/activation") of the values that became text."""

    _TYPES = frozenset({type(None), bool, int, float, str, bytes, date, datetime})

    def __init__(self) -> None:
        self.as_text = []
        # Holds the originals too: an id may be used again once its object is gone.
        self._copies: dict[int, tuple[Any, Any]] = {}

    def copy(self, value: Any, path: str) -> Any:
        value = _plain_scalar(value)
        if type(value) in self._TYPES:
            return value
        if id(value) in self._copies:
            return self._copies[id(value)][1]
        if (mapping := named_parts(value)) is not None:
            return self._copy_mapping(value, mapping, path)
        if isinstance(value, (set, frozenset)):
            return self._keep(value, {self._copy_key(item, path) for item in value})
        if isinstance(value, Sequence):
            items: list[Any] = self._keep(value, [])
            items.extend(self.copy(item, f"{path}/{index}") for index, item in enumerate(value))
            return items
        self.as_text.append(path)
        return redact_text(str(value))

    def _copy_mapping(self, original: Any, mapping: Mapping[Any, Any], path: str) -> dict[Any, Any]:
        result: dict[Any, Any] = self._keep(original, {})
        for key, value in mapping.items():
            key_path = f"{path}/{key}" if path else str(key)
            result[self._copy_key(key, key_path)] = self.copy(value, key_path)
        return result

    def _copy_key(self, key: Any, path: str) -> Any:
        """Keys and members of sets: a list would not be hashable when read back."""
        key = _plain_scalar(key)
        if type(key) in self._TYPES:
            return key
        self.as_text.append(path)
        return str(key)

    def _keep(self, original: Any, copy: T) -> T:
        self._copies[id(original)] = original, copy
        return copy


def _plain_scalar(value: Any) -> Any:
    """Enum members, paths, numpy scalars, tensors of one element, subclasses of str, int and float as the
    plain value they stand for; anything else as it is."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    value = _number(value)
    for plain in (str, int, float):
        if isinstance(value, plain) and not isinstance(value, bool):
            return plain(value)
    return value


if not TYPE_CHECKING:
    __getattr__ = lazy_names(__name__)
