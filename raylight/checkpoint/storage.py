"""Files at a local path or behind a URI, through one set of functions.

A path without a scheme is local, and so is ``file://``; both are handled by ``os`` alone. Every other URI (``s3://``,
``gs://``, ``hdfs://``, ``abfs://``, or any that an installed fsspec package knows) goes through ``pyarrow.fs``, which
is imported only then.

The characters of a URI's path are taken as they are, so a name such as ``epoch=3 loss=50%.ckpt`` needs no quoting (in
``file://`` they are percent-decoded, as ``Path.as_uri`` encodes them). What follows a ``?`` are options of the file
system and not part of the name: ``s3://bucket/run?region=eu-west-1``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, BinaryIO, TypeAlias, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import url2pathname, urlopen

from raylight.utilities.exceptions import MisconfigurationException

PathOrURI: TypeAlias = str | os.PathLike[str]

_URI = re.compile(r"(?P<root>[A-Za-z][A-Za-z0-9+.-]+://[^/?]*)(?P<path>[^?]*)(?P<options>\?.*)?", re.DOTALL)
_COPY_BYTES = 16 * 2**20

SECONDS_BEFORE_RETRIES = (1.0, 5.0, 15.0)
"""Waited before what failed on S3 for a passing reason is done for the second, third and last time."""
SECONDS_UNTIL_STALE = 86400.0
"""A temporary file that is older than this is no longer being written."""

_PASSING = re.compile(
    r"AWS Error (?:INTERNAL_FAILURE|NETWORK_CONNECTION|REQUEST_TIMEOUT|SERVICE_UNAVAILABLE|SLOW_DOWN|THROTTLING"
    r"|\w+ \(HTTP status (?:408|429|5\d\d)\))"
)
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")
_T = TypeVar("_T")


_home: Any = None
_shared: str | None = None
"""See ``use_home``."""


def use_home(filesystem: Any, shared: str | None = None) -> None:
    """Take local paths for those of ``filesystem``, a ``pyarrow.fs.FileSystem``; None: of this machine.

    Args:
        filesystem: Of another machine.
        shared: A folder, without links in its path, that this machine sees as well: what is in it is read and written
            here. None: there is none.
    """
    global _home, _shared
    _home, _shared = filesystem, shared


def is_local(path: PathOrURI) -> bool:
    """Whether ``path`` is on a file system of this machine, network mounts included."""
    return _local_path(path) is not None


def path_without_scheme(path: PathOrURI) -> str | None:
    """A path, be it given as a ``file://`` URI; None for other URIs."""
    text = _text(path)
    if text.startswith("file://"):
        return url2pathname(urlsplit(text).path)
    return text if _URI.fullmatch(text) is None else None


def join(path: PathOrURI, *parts: str) -> str:
    """``path`` with ``parts`` below it; the options of a URI stay at its end.

    Parts that come from data belong through ``safe_name`` first.
    """
    text = _text(path)
    uri = _URI.fullmatch(text)
    if uri is None:
        return os.path.join(text, *parts)
    pieces = [uri["root"] + uri["path"].rstrip("/"), *(part.strip("/") for part in parts)]
    return "/".join(piece for piece in pieces if piece) + (uri["options"] or "")


def parent(path: PathOrURI) -> str:
    """The folder that ``path`` is in; empty for a name alone."""
    text = _text(path)
    uri = _URI.fullmatch(text)
    if uri is None or text.startswith("file://"):
        return os.path.dirname(path_without_scheme(path) or text)
    return uri["root"] + uri["path"].rpartition("/")[0] + (uri["options"] or "")


def safe_name(name: str) -> str:
    """``name`` itself, if it stays below the folder that it is joined to.

    Raises:
        ValueError: It is empty or absolute, has a ``..`` part, a drive, a scheme or a NUL character.
    """
    parts = name.replace("\\", "/").split("/")
    drive_or_scheme = re.match(r"[A-Za-z]:|[A-Za-z0-9+.-]+://", name)
    if parts[0] == "" or ".." in parts or drive_or_scheme or "\0" in name:
        raise ValueError(f"The name {name!r} would leave its folder. Use a relative name without '..' parts.")
    return name


def exists(path: PathOrURI) -> bool:
    """Whether a file or a folder is there."""
    if (local := _local_path(path)) is not None:
        return os.path.exists(local)
    return bool(_remote_info(path).type.name != "NotFound")


def outlives_process(path: PathOrURI) -> bool:
    """Whether another process gets to the same file: not with what only this one's fsspec knows, such as memory://."""
    return is_local(path) or _remote(path)[0].type_name in ("s3", "gcs", "abfs", "hdfs")


def make_dirs(path: PathOrURI) -> None:
    """Make the folder ``path`` and its parents; one that is there is fine."""
    if (local := _local_path(path)) is not None:
        os.makedirs(local, exist_ok=True)
    else:
        filesystem, key = _remote(path)
        _retried(lambda: filesystem.create_dir(key, recursive=True))


def list_dir(path: PathOrURI) -> list[str]:
    """Sorted names of what is in the folder ``path``; none when there is no such folder."""
    if (local := _local_path(path)) is not None:
        try:
            return sorted(os.listdir(local))
        except FileNotFoundError:
            return []
    return sorted(info.base_name for info in _remote_infos(path))


def modified(path: PathOrURI) -> float:
    """When ``path`` was last written, in seconds since 1970 UTC; 0.0 if its file system does not tell.

    Raises:
        FileNotFoundError: Nothing is there.
    """
    if (local := _local_path(path)) is not None:
        return os.path.getmtime(local)
    info = _remote_info(path)
    if info.type.name == "NotFound":
        raise FileNotFoundError(f"{_text(path)} does not exist.")
    return 0.0 if info.mtime is None else float(info.mtime.timestamp())


def delete(path: PathOrURI) -> None:
    """Delete the file, the symbolic link, or the folder with all that is in it; a missing one is fine."""
    with contextlib.suppress(FileNotFoundError):
        if (local := _local_path(path)) is not None:
            if os.path.isdir(local) and not os.path.islink(local):
                shutil.rmtree(local)
            else:
                os.unlink(local)
            return
        _retried(lambda: _delete_remote(*_remote(path)))


def link(target: str, path: str) -> None:
    """Make ``path`` a relative link to ``target``, in one step where a file or a link was there.

    Both are paths without a scheme. It is a copy where the system gives no right to link.
    """
    source, local = _local_path(target), _local_path(path)
    if source is None or local is None:
        _copy(target, path)
        return
    if os.path.abspath(source) == os.path.abspath(local):
        return
    if os.path.isdir(local) and not os.path.islink(local):
        delete(path)
    temporary = os.path.join(os.path.dirname(local), _temporary_name())
    try:
        os.symlink(os.path.relpath(source, os.path.dirname(local)), temporary)
    except OSError:
        _copy(target, path)
        return
    _replace(temporary, local)


def _copy(source: PathOrURI, path: PathOrURI) -> None:
    with open_read(source) as content:
        write_atomic(path, lambda stream: shutil.copyfileobj(content, stream, _COPY_BYTES))


def delete_leftovers(folder: PathOrURI) -> None:
    """Delete what writes into ``folder`` have left that were killed over a day ago; what cannot be deleted stays.

    An upload to S3 that was killed leaves parts that only a lifecycle rule of the bucket removes.
    """
    oldest = time.time() - SECONDS_UNTIL_STALE
    with contextlib.suppress(OSError):
        for name in list_dir(folder):
            leftover = join(folder, name)
            if _TEMPORARY.fullmatch(name) and 0.0 < modified(leftover) < oldest:
                delete(leftover)


def open_read(path: PathOrURI) -> BinaryIO:
    """A seekable stream of the file's bytes, for the caller to close.

    A remote file, ``http(s)://`` included, is first copied into a temporary file without a name: its readers seek
    often, and each seek would be a request.

    Raises:
        FileNotFoundError: Nothing is there.
    """
    if (local := _local_path(path)) is not None:
        return open(local, "rb")
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        _retried(lambda: _download(path, copy))
    except BaseException:
        copy.close()
        raise
    return copy


def write_atomic(path: PathOrURI, write: Callable[[BinaryIO], None]) -> None:
    """Have ``write`` fill a file that appears at ``path`` only when it is complete.

    It is written under a temporary name in the same folder, whose parents are made, and then renamed. Whatever goes
    wrong, an interrupt included, the temporary file is removed, and an older file at ``path`` stays as it was. Where S3
    fails for a passing reason, ``write`` is called again, with another stream.
    """
    if (local := _local_path(path)) is not None:
        _write_local(local, write)
    else:
        _retried(lambda: _write_remote(*_remote(path), write))


def _write_local(path: str, write: Callable[[BinaryIO], None]) -> None:
    folder = os.path.dirname(path)
    os.makedirs(folder or ".", exist_ok=True)
    temporary = os.path.join(folder, _temporary_name())
    try:
        with open(temporary, "xb") as stream:  # not tempfile: its files are closed to everyone but their owner
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _replace(temporary, path)


def _replace(temporary: str, path: str) -> None:
    """Give ``temporary`` its name, or remove it."""
    try:
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _write_remote(filesystem: Any, key: str, write: Callable[[BinaryIO], None]) -> None:
    # Under a temporary name even where an upload is atomic: pyarrow completes an upload that failed half-way.
    folder = key.rpartition("/")[0]
    temporary = f"{folder}/{_temporary_name()}"
    try:
        if folder:
            filesystem.create_dir(folder, recursive=True)
        with filesystem.open_output_stream(temporary, compression=None) as stream:
            write(stream)
        _move(filesystem, temporary, key)
    except BaseException:
        with contextlib.suppress(OSError):
            filesystem.delete_file(temporary)
        raise


def _move(filesystem: Any, source: str, target: str) -> None:
    try:
        filesystem.move(source, target)
    except OSError as error:  # S3 copies nothing above 5 GiB by itself, and its "move" is such a copy
        if _is_passing(error):
            raise
        with tempfile.TemporaryFile() as copy:  # pyarrow completes an upload whose source fails half-way
            with filesystem.open_input_stream(source, compression=None) as reader:
                shutil.copyfileobj(reader, copy, _COPY_BYTES)
            copy.seek(0)
            with filesystem.open_output_stream(target, compression=None) as writer:
                shutil.copyfileobj(copy, writer, _COPY_BYTES)
        filesystem.delete_file(source)


def _delete_remote(filesystem: Any, key: str) -> None:
    if filesystem.get_file_info(key).type.name == "Directory":
        filesystem.delete_dir(key)
    else:
        filesystem.delete_file(key)


def _download(path: PathOrURI, copy: BinaryIO) -> None:
    copy.seek(0)
    copy.truncate()
    with _open_remote(path) as source:
        shutil.copyfileobj(source, copy, _COPY_BYTES)
    copy.seek(0)


def _retried(action: Callable[[], _T]) -> _T:
    """What ``action`` returns, which is called again where it fails for a passing reason."""
    for seconds in SECONDS_BEFORE_RETRIES:
        try:
            return action()
        except OSError as error:
            if not _is_passing(error):
                raise
        time.sleep(seconds)
    return action()


def _is_passing(error: OSError) -> bool:
    """Whether S3 may well do the same a little later."""
    return _PASSING.search(str(error)) is not None


def _temporary_name() -> str:
    return f".{uuid.uuid4().hex}.tmp"


def _text(path: PathOrURI) -> str:
    text = os.fspath(path)
    if isinstance(path, PurePath):  # Path("s3://bucket") has already become "s3:/bucket"
        text = re.sub(r"^([A-Za-z][A-Za-z0-9+.-]+):/(?!/)", r"\1://", text)
    return text


def _local_path(path: PathOrURI) -> str | None:
    """The path for ``os``, or None when ``path`` is remote."""
    local = path_without_scheme(path)
    if _home is None or local is None:
        return local
    local = str(_home.normalize_path(local))
    return local if _shared is not None and PurePath(os.path.realpath(local)).is_relative_to(_shared) else None


def _remote(path: PathOrURI) -> tuple[Any, str]:
    """The ``pyarrow.fs.FileSystem`` of a URI, and the path in it."""
    if _home is not None and (local := path_without_scheme(path)) is not None:
        return _home, _home.normalize_path(local)
    uri = _URI.fullmatch(_text(path))
    assert uri is not None
    # Only the root is given to the parsers of URIs: they refuse or decode what may well stand in a file's name.
    filesystem, base = _remote_root(uri["root"] + (uri["options"] or ""))
    return filesystem, (base.rstrip("/") + uri["path"]).rstrip("/")


@functools.lru_cache  # opening S3 without a region asks the network where the bucket is
def _remote_root(uri: str) -> tuple[Any, str]:
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

    try:
        filesystem, base = FileSystem.from_uri(uri)
        return filesystem, str(base)
    except ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise MisconfigurationException(f"The URI {uri!r} cannot be used: {error}") from error
    import fsspec

    try:
        filesystem, base = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise MisconfigurationException(
            f"No file system is known for {uri!r} ({error}). Use a local path, file://, s3://, gs://, hdfs:// or "
            "abfs://, or install the fsspec package of that scheme."
        ) from error
    return PyFileSystem(FSSpecHandler(filesystem)), str(base)


def _remote_info(path: PathOrURI) -> Any:
    filesystem, key = _remote(path)
    return _retried(lambda: filesystem.get_file_info(key))


def _remote_infos(folder: PathOrURI) -> list[Any]:
    """Of what is in a folder; empty when there is no such folder."""
    from pyarrow.fs import FileSelector

    filesystem, key = _remote(folder)
    infos: list[Any] = _retried(lambda: filesystem.get_file_info(FileSelector(key, allow_not_found=True)))
    return infos


def _open_remote(path: PathOrURI) -> Any:
    text = _text(path)
    if text.startswith(("http://", "https://")):
        try:
            return urlopen(text)
        except HTTPError as error:
            error.close()
            if error.code == 404:
                raise FileNotFoundError(f"{text} does not exist.") from error
            raise
    filesystem, key = _remote(path)
    return filesystem.open_input_stream(key, compression=None)
