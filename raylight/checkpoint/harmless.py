"""Objects in old checkpoints that can be read without running what they name.

Lightning before 2.0 pickled more than plain types: its AttributeDict, Namespaces, paths, numpy scalars, and the
classes of callbacks as keys. ``torch.load(weights_only=True)`` refuses all of these. Here each such name is given a
stand-in of ours, which only keeps what the file says about it; ``to_values`` then puts plain values in their place.
The names in the file are never imported, and no name outside this table is accepted.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch

_PACKAGES = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric")

_CALLBACKS = {
    "model_checkpoint": ("ModelCheckpoint",),
    "early_stopping": ("EarlyStopping",),
    "lr_monitor": ("LearningRateMonitor",),
    "lr_logger": ("LearningRateLogger",),
    "gradient_accumulation_scheduler": ("GradientAccumulationScheduler",),
    "progress": ("ProgressBar",),
    "gpu_stats_monitor": ("GPUStatsMonitor",),
    "quantization": ("QuantizationAwareTraining",),
    "pruning": ("ModelPruning",),
    "swa": ("StochasticWeightAveraging",),
    "stochastic_weight_avg": ("StochasticWeightAveraging",),
    "finetuning": ("BackboneFinetuning", "BaseFinetuning"),
    "lambda_function": ("LambdaCallback",),
    "timer": ("Timer",),
    "base": ("Callback",),
}


class _Attributes:
    """An object of which only the attributes matter."""

    def __init__(self, *args: Any) -> None:
        self.values: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise _refusal("a Namespace without names")
        self.values = state


class _DType:
    """A numpy dtype: its code and byte order."""

    def __init__(self, code: Any = None, *args: Any) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else code
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]

    def of_numbers(self) -> np.dtype[Any]:
        """The dtype, if its values are numbers or text; objects and records are refused."""
        if not isinstance(self.code, str) or self.code[:1] not in "biufcSU" or self.order not in "<>=|":
            raise _refusal(f"numpy.dtype({self.code!r})")
        dtype: np.dtype[Any] = np.dtype(self.code).newbyteorder(self.order)  # type: ignore[arg-type]
        return dtype


class _Array:
    """A numpy array: its shape, dtype and bytes."""

    def __init__(self, *args: Any) -> None:
        self.content: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        numbers = dtype.of_numbers()
        array = np.frombuffer(_bytes(content), numbers)
        self.content = array.reshape(shape, order="F" if is_fortran else "C")


def _refusal(what: str) -> pickle.UnpicklingError:
    """As torch's reader words it."""
    return pickle.UnpicklingError(f"Unsupported global: GLOBAL {what} was not an allowed global by default.")


def _bytes(content: Any) -> bytes:
    return content.encode("latin1") if isinstance(content, str) else bytes(content)


def _scalar(dtype: _DType, content: Any) -> Any:
    return np.frombuffer(_bytes(content), dtype.of_numbers(), count=1)[0].item()


def _posix_path(*parts: str) -> str:
    return str(PurePosixPath(*parts))


def _windows_path(*parts: str) -> str:
    return str(PureWindowsPath(*parts))


def _empty_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _list(items: Any = (), *_: Any) -> list[Any]:
    return list(items)


def _same(value: Any = None, *_: Any) -> Any:
    return value


def safe_globals() -> list[Any]:
    """Stand-ins and the names that they stand for, as ``torch.serialization.safe_globals`` takes them."""
    table: dict[str, Any] = {}
    for package in _PACKAGES:
        for place in ("utilities.parsing", "utilities.data", "core.hparams"):
            table[f"{package}.{place}.AttributeDict"] = dict
        table[f"{package}.utilities.enums._FaultTolerantMode"] = _same
        for module, names in _CALLBACKS.items():
            # Only ever keys of "callbacks": the text is enough, and text cannot be called.
            table.update({f"{package}.callbacks.{module}.{name}": name for name in names})
        for module in ("argparse", "argparse_utils"):
            table[f"{package}.utilities.{module}._gpus_arg_default"] = "_gpus_arg_default"
    for name in ("raylight.utilities.parsing.AttributeDict", "raylight.core.hparams.AttributeDict"):
        table[name] = dict
    for name in ("argparse.Namespace", "types.SimpleNamespace", "jsonargparse.namespace.Namespace"):
        table[name] = _Attributes
    for module in ("pathlib", "pathlib._local"):
        table.update({f"{module}.{name}": _posix_path for name in ("PosixPath", "PurePosixPath", "Path", "PurePath")})
        table.update({f"{module}.{name}": _windows_path for name in ("WindowsPath", "PureWindowsPath")})
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray.scalar"] = _scalar
        table[f"{core}.multiarray._reconstruct"] = _Array
    table.update({"numpy.dtype": _DType, "numpy.ndarray": _Array})
    table.update({"collections.defaultdict": _empty_dict, "collections.deque": _list, "builtins.frozenset": _list})
    # What a defaultdict makes: never called, as the defaultdict becomes a dict.
    table.update({f"builtins.{name}": name for name in ("list", "dict", "int", "float", "str", "bool", "tuple")})
    return [(stand_in, name) for name, stand_in in table.items()]


def to_values(value: Any) -> Any:
    """``value`` with plain values in place of stand-ins; its dicts and lists are changed in place."""
    return _replace(value, set())


def _replace(value: Any, seen: set[int]) -> Any:
    convert = _CONVERTED.get(type(value))
    if convert is not None:
        value = convert(value)
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(_replace(item, seen) for item in value)
    if not isinstance(value, dict | list) or id(value) in seen:
        return value
    seen.add(id(value))
    if isinstance(value, list):
        value[:] = [_replace(item, seen) for item in value]
    else:
        for key in list(value):
            value[key] = _replace(value[key], seen)
    return value


def _array_to_plain(array: _Array) -> Any:
    if array.content is None:
        return []
    if array.content.dtype.kind in "SU":
        return array.content.tolist()
    return torch.from_numpy(array.content.astype(array.content.dtype.newbyteorder("=")))


_CONVERTED: dict[type, Callable[[Any], Any]] = {
    _Attributes: lambda stand_in: stand_in.values,
    _DType: lambda stand_in: str(stand_in.of_numbers()),
    _Array: _array_to_plain,
}
