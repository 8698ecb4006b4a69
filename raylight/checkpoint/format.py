"""The checkpoint file: Lightning's keys, plain types only, read without running code.

A checkpoint is a dict, written by ``torch.save``::

    epoch, global_step                  int; counters of finished epochs and optimizer steps
    pytorch-lightning_version           str; ``LIGHTNING_VERSION``, whose format this is
    state_dict                          {name: tensor}, without a "module." prefix
    loops                               {"fit_loop" | "validate_loop" | "test_loop" | "predict_loop": progress}
    callbacks                           {state_key: state}                          absent when only weights are saved
    optimizer_states, lr_schedulers     [state, ...]                                absent when only weights are saved
    MixedPrecision                      state of the gradient scaler                float16 training only
    hparams_name, hyper_parameters      of the LightningModule                      if it saved any
    datamodule_hparams_name, datamodule_hyper_parameters                            likewise, of the LightningDataModule
    <qualified name of the datamodule>  what its ``state_dict`` gave                if it has a state
    raylight                            what Lightning does not keep; absent where there is nothing of the kind
    anything else                       added by an ``on_save_checkpoint``

Lightning reads this file, and this module reads Lightning's. Only the types that ``torch.load(weights_only=True)``
accepts are written. When reading, a few more are accepted, which ``harmless`` lists: what stands for them is made
here, not by the file. Nothing else is: a pickle can run any code, these types cannot.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import warnings
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from raylight.checkpoint import harmless, storage
from raylight.utilities import secrets
from raylight.utilities.exceptions import CheckpointError, CheckpointNotFoundError, CheckpointNotWrittenError
from raylight.utilities.rank_zero import rank_zero_warn

LIGHTNING_VERSION = "2.6.6"
"""Version of PyTorch Lightning whose file format is written."""

MapLocation: TypeAlias = "str | torch.device | dict[str, str] | Callable[[Any, str], Any] | None"

_PLAIN_TYPES = (bool, float, complex, str, bytes, bytearray, torch.device, torch.dtype, torch.layout, torch.Size)
_LONGEST_INT_BITS = 2000  # the restricted unpickler knows no longer ones

_FOLDER_ATTRIBUTE = 0x10  # of MS-DOS, in a zip archive's index

_REFUSED = (
    re.compile(r"GLOBAL (\S+) was not an allowed global"),
    re.compile(r"unsupported GLOBAL (\S+) whose module"),
    re.compile(r"reduce for unrecognized function (.+)"),
    re.compile(r"allowlisted via `add_safe_globals`,? but got (.+)"),
)


def save(checkpoint: dict[str, Any], path: storage.PathOrURI) -> None:
    """Write ``checkpoint`` to ``path``; the file appears when it is complete, and replaces an older one then.

    Args:
        checkpoint: Made plain by ``to_plain`` first; it is not changed.
        path: A local path or a URI; its parent folders are made.

    Raises:
        CheckpointNotWrittenError: The file system refuses; nothing has changed there.
    """
    plain = to_plain(checkpoint)
    try:
        storage.write_atomic(path, lambda stream: torch.save(plain, stream))
    except (OSError, RuntimeError) as error:
        refusal = _refusal(error)
        if refusal is None:
            raise
        raise not_written(path, f"{type(refusal).__name__}: {refusal}", refusal.errno) from refusal


def _refusal(error: BaseException | None) -> OSError | None:
    """What the file system said; torch's writer goes on after that, and raises an error of its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def not_written(path: storage.PathOrURI, reason: str, number: int | None) -> CheckpointNotWrittenError:
    """The error to raise where a file system refused a checkpoint.

    Args:
        path: Of the checkpoint.
        reason: What it said.
        number: The system's number of that, if it has one.
    """
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "Free some space there, keep fewer checkpoints (save_top_k), or save to another place (dirpath)"
    else:
        remedy = "See that the place is there and may be written to, or save to another one (dirpath)"
    return CheckpointNotWrittenError(
        f"The checkpoint {os.fspath(path)} was not written ({reason}). Those before it are as they were. {remedy}; "
        'then go on from the last one, with fit(ckpt_path="last") or its path.'
    )


def not_deleted(path: storage.PathOrURI, reason: str) -> CheckpointError:
    """Likewise for one that was to be deleted."""
    return CheckpointError(
        f"The checkpoint {os.fspath(path)} was not deleted ({reason}); newer ones are written. See that its folder may "
        "be written to, or keep all with save_top_k=-1."
    )


def load(
    path: storage.PathOrURI | IO[bytes], map_location: MapLocation = "cpu", plain_only: bool = False
) -> dict[str, Any]:
    """Read a checkpoint, of Lightning or of raylight, as it is, without running any code that it may hold.

    ``raylight.checkpoint.migrate.load`` also brings it to today's form.

    Args:
        path: A local path, a URI, ``http(s)://`` included, or a seekable binary stream.
        map_location: As in ``torch.load``; None puts each tensor on the device where it was when saved, or on the CPU
            where this machine has no such device.
        plain_only: Refuse the harmless objects of old files too.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointError: The file is truncated or corrupt, cannot be read, holds objects that only code can restore, or
            is not a checkpoint.
    """
    if isinstance(path, str) or hasattr(path, "__fspath__"):
        try:
            stream = storage.open_read(path)
        except FileNotFoundError as error:
            raise CheckpointNotFoundError(
                f"Checkpoint file not found: {path}. Check the path; nothing was loaded."
            ) from error
        except OSError as error:
            raise CheckpointError(f"The checkpoint {path} cannot be opened as a file: {error}.") from error
        with stream:
            checkpoint = _read(stream, str(path), map_location, plain_only)
    else:
        checkpoint = _read(path, str(getattr(path, "name", "stream")), map_location, plain_only)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        found = ", ".join(map(str, list(checkpoint)[:5])) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise CheckpointError(
            f"{path} is not a checkpoint: a dict with the key 'state_dict' was expected, but it holds "
            f"{found or 'nothing'}. Weights alone can be loaded with `model.load_state_dict(torch.load(path))`."
        )
    return checkpoint


def check_weights_only(weights_only: bool | None) -> None:
    """Warn where the ``weights_only`` argument of a method that loads a checkpoint is False: files never run code."""
    if weights_only is False:
        rank_zero_warn(
            "weights_only=False would let a checkpoint run code, which raylight never does: the file is read as with "
            "weights_only=True. Leave it out; classes of yours that a file holds can be allowed with "
            "`torch.serialization.add_safe_globals([...])`."
        )


def to_plain(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``checkpoint`` that ``torch.load(weights_only=True)`` accepts; tensors are shared, not copied.

    Paths become strings; namespaces, dataclasses and mappings such as AttributeDict become dicts; numpy scalars become
    numbers, arrays tensors; enums their value; sets and deques lists; named tuples tuples. OrderedDict, Counter stay.
    What has no plain form is replaced by its ``repr``, and one warning names all such places. Values of secrets in the
    environment are redacted, but for names: a weight may be called like one.
    """
    converter = _PlainConverter()
    plain: dict[str, Any] = converter.convert(checkpoint, "")
    if converter.replaced:
        rank_zero_warn(
            f"The checkpoint keeps only the text of {', '.join(converter.replaced)}: loading such an object would need "
            "to run code. Leave hyperparameters of this kind out with `save_hyperparameters(ignore=[...])` and pass "
            "them to `load_from_checkpoint`; keep other state as tensors, numbers, strings, lists and dicts."
        )
    if converter.redacted:
        rank_zero_warn(
            f"The checkpoint holds {secrets.REDACTED!r} in place of secrets of the environment, in "
            f"{', '.join(converter.redacted)}: leave them out of what is saved, and read them from the environment."
        )
    return plain


def plain_value(value: Any) -> tuple[Any, list[str]]:
    """``value`` as ``to_plain`` makes it, and where in it something was replaced by its ``repr``."""
    converter = _PlainConverter()
    return converter.convert(value, ""), converter.replaced


class _PlainConverter:
    """One walk through a checkpoint."""

    def __init__(self) -> None:
        self.replaced: list[str] = []  # "key.path (type)" of what became its repr
        self.redacted: list[str] = []  # key paths of texts that held a secret
        self._clean = secrets.cleaner()
        self._ancestors: set[int] = set()  # ids of the containers around the current value

    def convert(self, value: Any, key_path: str) -> Any:
        if isinstance(value, str):
            return self._convert_text(value, key_path)
        if value is None or type(value) in _PLAIN_TYPES:
            return value
        if isinstance(value, torch.Tensor):
            return _plain_tensor(value)
        if isinstance(value, Enum):
            return self.convert(value.value, key_path)
        if isinstance(value, PurePath):
            return self._convert_text(str(value), key_path)
        if isinstance(value, np.ndarray):
            return self._convert_array(value, key_path)
        if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
            return self.convert(value.item(), key_path)
        if isinstance(value, int) and value.bit_length() <= _LONGEST_INT_BITS:
            return int(value)
        if isinstance(value, float):
            return float(value)
        return self._convert_container(value, key_path)

    def _convert_text(self, text: str, key_path: str) -> str:
        text = str.__str__(text)  # a subclass would have to be restored by code
        cleaned = self._clean(text)
        if cleaned != text:
            self.redacted.append(key_path)
        return cleaned

    def _convert_container(self, value: Any, key_path: str) -> Any:
        if id(value) in self._ancestors:
            return self._replace(value, key_path)
        self._ancestors.add(id(value))
        try:
            if isinstance(value, Namespace):
                return self._convert_items(vars(value).items(), key_path)
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
                return self._convert_items(fields, key_path)
            if isinstance(value, OrderedDict):
                return self._convert_ordered(value, key_path)
            if isinstance(value, Counter):  # the milestones of MultiStepLR
                return Counter(self._convert_items(value.items(), key_path))
            if isinstance(value, Mapping):
                return self._convert_items(value.items(), key_path)
            if isinstance(value, list | tuple | set | frozenset | deque):
                items = [self.convert(item, f"{key_path}[{index}]") for index, item in enumerate(value)]
                return tuple(items) if isinstance(value, tuple) else items
            return self._replace(value, key_path)
        finally:
            self._ancestors.discard(id(value))

    def _convert_items(self, items: Iterable[tuple[Any, Any]], key_path: str) -> dict[Any, Any]:
        converted = {}
        for key, value in items:
            item_path = f"{key_path}.{key}" if key_path else str(key)
            plain_key = str.__str__(key) if isinstance(key, str) else self.convert(key, f"{item_path} (key)")
            converted[plain_key if isinstance(plain_key, Hashable) else repr(key)] = self.convert(value, item_path)
        return converted

    def _convert_ordered(self, value: OrderedDict[Any, Any], key_path: str) -> OrderedDict[Any, Any]:
        ordered = OrderedDict(self._convert_items(value.items(), key_path))
        if hasattr(value, "_metadata"):  # versions of the modules, which `Module.load_state_dict` reads
            ordered._metadata = self.convert(value._metadata, f"{key_path}._metadata")  # type: ignore[attr-defined]
        return ordered

    def _convert_array(self, array: np.ndarray[Any, Any], key_path: str) -> Any:
        try:
            native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C", subok=False)
            return torch.from_numpy(native)
        except TypeError:  # torch has no such dtype: text, dates, objects
            return self.convert(array.tolist(), key_path)

    def _replace(self, value: Any, key_path: str) -> str:
        self.replaced.append(f"{key_path} ({type(value).__qualname__})")
        return self._clean(repr(value))


def _plain_tensor(tensor: Any) -> Any:
    """``tensor`` without what code would have to restore: a subclass of the user's, Python attributes, hooks."""
    if is_traceable_wrapper_subclass(tensor):  # DTensor and quantized weights; torch vouches for their classes
        return tensor
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return tensor.detach().as_subclass(torch.Tensor)
    return tensor.detach() if vars(tensor) or tensor._backward_hooks else tensor


def _verify(stream: IO[bytes], name: str) -> None:
    """The checksums that ``torch.save`` has written, which ``torch.load`` does not look at.

    Raises:
        CheckpointError: One is wrong, or what is needed to look at it cannot be read.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            damaged = archive.testzip() or _folder_with_content(archive)
    except (zipfile.BadZipFile, EOFError):  # another format, or truncated: torch's reader tells
        return
    except MemoryError:
        raise
    except Exception as error:  # a broken index makes the reader fail in any way, and so does a broken disk
        raise CheckpointError(
            f"{name} is damaged, or cannot be read ({type(error).__name__}: {_first_line(error)}). Load an older "
            "checkpoint, or copy this one anew."
        ) from error
    if damaged is not None:
        raise CheckpointError(
            f"{name} is damaged: its record {damaged!r} is not what its checksum and its entry in the file's index "
            "say. Load an older checkpoint, or copy this one anew."
        )


def _folder_with_content(archive: zipfile.ZipFile) -> str | None:
    """A record that the index calls a folder: torch's reader would leave its tensor as the memory happens to be."""
    folders = [record for record in archive.infolist() if record.external_attr & _FOLDER_ATTRIBUTE]
    return next((record.filename for record in folders if record.file_size > 0), None)


def _read(stream: IO[bytes], name: str, map_location: MapLocation, plain_only: bool) -> Any:
    start = stream.tell()
    _verify(stream, name)
    stream.seek(start)
    try:
        return _torch_load(stream, map_location)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a broken file makes the unpickler fail in any way
        refused = _refused(error)
        if refused is None or plain_only:
            raise _unreadable(name, refused, error) from error
    stream.seek(start)
    try:
        with torch.serialization.safe_globals(harmless.safe_globals()):
            return harmless.to_values(_torch_load(stream, map_location))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise _unreadable(name, _refused(error) or refused, error) from error


def _torch_load(stream: IO[bytes], map_location: MapLocation) -> Any:
    # No mmap: another process may delete or replace the file while its tensors are in use, which on NFS is a crash.
    with warnings.catch_warnings():  # of torch's reader about what it is going to refuse
        warnings.simplefilter("ignore")
        return torch.load(stream, map_location=map_location or _saved_device_or_cpu, weights_only=True)


def _refused(error: Exception) -> str | None:
    """The name in the file that stopped torch's reader; None where it stopped for another reason."""
    return next((match[1] for pattern in _REFUSED if (match := pattern.search(str(error)))), None)


def _unreadable(name: str, refused: str | None, error: Exception) -> CheckpointError:
    if refused is None:
        return CheckpointError(
            f"{name} cannot be read: it is truncated, corrupt, or not written by `torch.save` "
            f"({type(error).__name__}: {_first_line(error)}). Load an older checkpoint, or copy this one anew."
        )
    return CheckpointError(
        f"{name} was not loaded: restoring {refused} would run code from the file, and only tensors and plain "
        "types are accepted. If you trust where it comes from, allow that class with "
        "`torch.serialization.add_safe_globals([...])`, or read it once with `torch.load(..., weights_only=False)` "
        "and write it again with `raylight.checkpoint.format.save`."
    )


def _first_line(error: Exception) -> str:
    """What torch says went wrong, without its advice to turn the safe reader off."""
    text = str(error)
    if "Weights only load failed" in text:
        text = text.partition("WeightsUnpickler error:")[2]
    return next((line.strip()[:200] for line in text.splitlines() if line.strip()), "no details")


def _saved_device_or_cpu(tensor_storage: Any, location: str) -> Any:
    kind = location.partition(":")[0]
    missing = (
        (kind == "cuda" and not torch.cuda.is_available())
        or (kind == "mps" and not torch.backends.mps.is_available())
        or kind == "xla"
    )
    return tensor_storage.cpu() if missing else None  # None: torch's own choice, the device where it was saved
