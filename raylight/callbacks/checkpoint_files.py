"""Where checkpoint files lie, on a local disk or behind a URI."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from raylight.callbacks.checkpoint_naming import pattern_of
from raylight.checkpoint import storage
from raylight.checkpoint.names import verify_below
from raylight.config.run_id import below_run

if TYPE_CHECKING:
    from raylight.worker.trainer_view import TrainerView


def absolute_dirpath(dirpath: str | os.PathLike[str] | None) -> str | None:
    """A local ``dirpath`` with ``~`` and links resolved; a URI, an empty path and None as they are."""
    path = None if dirpath is None else storage.join(below_run(dirpath)) if dirpath else ""
    if not path or "://" in path:
        return path
    return os.path.realpath(os.path.expanduser(path))


def default_dirpath(trainer: TrainerView) -> str:
    """The "checkpoints" folder beside the first logger's files, or in ``default_root_dir`` when there is no logger."""
    if not trainer.loggers:
        return storage.join(trainer.default_root_dir, "checkpoints")
    logger = trainer.loggers[0]
    save_dir = trainer.default_root_dir if logger.save_dir is None else logger.save_dir
    version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
    parts = [verify_below(part, f"{type(logger).__name__}'s name and version") for part in (str(logger.name), version)]
    return storage.join(save_dir, *parts, "checkpoints")


def has_files(folder: str) -> bool:
    return len(storage.list_dir(folder)) > 0


def find_files(folder: str, template: str, extension: str) -> set[str]:
    """Files in ``folder`` whose name may come from ``template``, a version at its end included."""
    begins_like = pattern_of(template).match
    names = storage.list_dir(folder)
    return {storage.join(folder, name) for name in names if name.endswith(extension) and begins_like(name)}


def lies_in(path: str, folder: str) -> bool:
    """Whether ``path``, local or a URI, is somewhere below ``folder``."""
    return _comparable(path).startswith(_comparable(folder).rstrip("/") + "/")


def same_path(path: str, other: str) -> bool:
    """Whether two paths, local or URIs, are spelled for the same file; links are not followed."""
    return _comparable(path) == _comparable(other)


def _comparable(path: str) -> str:
    return path.partition("?")[0] if "://" in path else os.path.abspath(path)
