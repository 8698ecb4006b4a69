"""What goes to the cluster with a job: a folder, and variables of its environment."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from raylight.utilities.exceptions import MisconfigurationException

MEBIBYTE = 1024**2
LARGEST_SHOWN = 5
ZIP_HEADERS = 76
"""Bytes that a file or an empty folder adds to Ray's package, beside its content and twice its name."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def check_working_dir(folder: Path, script: Path) -> str:
    """The path of ``script`` in ``folder``, where Ray can pack that.

    Raises:
        MisconfigurationException: One of them is not there, the script is not in the folder or ignored, or the folder
            is too large.
    """
    if not folder.is_dir():
        raise MisconfigurationException(f"--working-dir {folder} is not a folder.")
    if not script.is_file():
        hint = f" It is in --working-dir: give {folder / script}." if (folder / script).is_file() else ""
        raise MisconfigurationException(f"There is no script {str(script)!r}.{hint}")
    folder, script = folder.resolve(), script.resolve()
    if not script.is_relative_to(folder):
        raise MisconfigurationException(
            f"The script {script} is not in the working directory {folder}, which is all that goes to the cluster: "
            f"give --working-dir {script.parent}, or a folder that both are in."
        )
    _check_content(folder, script)
    return script.relative_to(folder).as_posix()


def _check_content(folder: Path, script: Path) -> None:
    from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE  # a job's package goes through the dashboard
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    limit = min(GCS_STORAGE_MAX_SIZE, DASHBOARD_CLIENT_MAX_SIZE)
    sizes: Counter[str] = Counter()
    has_script = False

    def look(path: Path) -> None:
        nonlocal has_script
        is_file = path.is_file()
        if is_file or (path.is_dir() and not any(path.iterdir())):  # neither a link to nowhere nor a socket
            below = path.relative_to(folder)
            content = path.stat().st_size if is_file else 0
            sizes[below.parts[0]] += content + ZIP_HEADERS + 2 * len(os.fsencode(below))
            has_script = has_script or path == script

    _walk(folder, look)
    total = sizes.total()
    if total >= limit:
        largest = ", ".join(f"{name} ({size / MEBIBYTE:.0f} MiB)" for name, size in sizes.most_common(LARGEST_SHOWN))
        raise MisconfigurationException(
            f"The working directory {folder} has {total / MEBIBYTE:.0f} MiB, and Ray takes less than "
            f"{limit / MEBIBYTE:.0f} MiB with a job. The largest in it: {largest}. List what the job does not need "
            "in a .rayignore file there (its lines are as those of .gitignore), and let the job read data from storage "
            "that the cluster has."
        )
    if not has_script:
        raise MisconfigurationException(
            f"The script {script} would not go to the cluster: a .gitignore or .rayignore file in {folder} leaves it "
            "out."
        )


def _walk(folder: Path, look: Callable[[Path], None]) -> None:
    """Show ``look`` what Ray packs, by Ray's own rules."""
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE, get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    takes_gitignore = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    excludes = [_get_excludes(folder, get_runtime_env_default_excludes())]
    _dir_travel(
        folder, excludes, look, include_gitignore=takes_gitignore, logger=logging.Logger("packing", logging.CRITICAL)
    )


def read_env_file(path: str) -> dict[str, str]:
    """The variables of a file of KEY=VALUE lines; empty lines and those that begin with # say nothing.

    ``export`` before a name and a pair of quotes around a value are taken off; nothing is expanded. A message never
    shows a value: it may be a secret.

    Raises:
        MisconfigurationException: There is no such file, or a line is of another form.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise MisconfigurationException(f"--env-file {path} cannot be read: {why}.") from error
    variables: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.removeprefix("export ").partition("=")
        name, value = name.strip(), value.strip()
        if not equals or _NAME.fullmatch(name) is None:
            raise MisconfigurationException(
                f"--env-file {path}, line {number}: expected KEY=VALUE, where KEY is of letters, digits and '_'. "
                "(The line is not shown, as it may hold a secret.)"
            )
        variables[name] = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
    return variables
