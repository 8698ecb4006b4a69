"""A run that is submitted to a cluster: its name, and the folder that all its submissions share.

The working directory of a job is a new one each time, so paths that are relative in the script lie in that folder.
Runs on the driver.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys

from raylight.checkpoint import storage
from raylight.config.flags import TrainerConfig
from raylight.utilities.exceptions import MisconfigurationException

RUN_ID_VARIABLE = "RAYLIGHT_RUN_ID"
STORAGE_VARIABLE = "RAYLIGHT_STORAGE"
"""A path or URI, below which each run has its folder."""
DEFAULT_STORAGE = "~/raylight"
_RUN_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


def check_run_id(text: str) -> str:
    """``text``, where it can name a run, and so a folder.

    Raises:
        MisconfigurationException: It cannot.
    """
    if re.fullmatch(_RUN_ID, text) is None:
        raise MisconfigurationException(
            f"The run id {text!r} must be of letters, digits, '.', '_' and '-', begin with a letter or digit, and have "
            "100 characters at most."
        )
    return text


def run_id() -> str | None:
    """Name of the run that this process is a submission of; None where it is none, and in Ray's workers.

    A Trainer there, as in a trial of Ray Tune, is not the run, though it may see the variable.

    Raises:
        MisconfigurationException: The environment has one that cannot be a name.
    """
    text = os.environ.get(RUN_ID_VARIABLE, "")
    return check_run_id(text) if text and not _is_ray_worker() else None


def _is_ray_worker() -> bool:
    ray = sys.modules.get("ray")  # which such a process has always imported
    return ray is not None and ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE


def run_folder(local: bool = False) -> str:
    """The folder of this process's run.

    Args:
        local: On this machine, even if what is to last lies behind a URI: logs cannot.
    """
    name = run_id()
    assert name is not None
    root = os.environ.get(STORAGE_VARIABLE) or DEFAULT_STORAGE
    if local and not storage.is_local(root):
        root = DEFAULT_STORAGE
    path = storage.path_without_scheme(root)
    return storage.join(root if path is None else os.path.abspath(os.path.expanduser(path)), name)


def below_run(path: str | os.PathLike[str], local: bool = False) -> str | os.PathLike[str]:
    """``path``, if relative, below the folder of this process's run; as it is where that is no submission."""
    if run_id() is None or not storage.is_local(path):
        return path
    text = os.fspath(path)
    if text.startswith("file://") or os.path.isabs(os.path.expanduser(os.path.expandvars(text))):
        return path
    below = os.path.normpath(text)
    return run_folder(local) if below == "." else storage.join(run_folder(local), below)


def in_run_folder(config: TrainerConfig) -> TrainerConfig:
    """The flags of a Trainer, with ``default_root_dir`` in the folder of this process's run."""
    if run_id() is None:
        return config
    return dataclasses.replace(config, default_root_dir=below_run(config.default_root_dir or "."))


def parts_from_logs(config: TrainerConfig) -> bool:
    """Whether checkpoints go to the run's folder behind a URI, and logs, which cannot, to one of this machine."""
    root = config.default_root_dir
    return run_id() is not None and root is not None and not storage.is_local(root)
