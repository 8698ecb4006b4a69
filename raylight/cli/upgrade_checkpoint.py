"""``python -m raylight.utilities.upgrade_checkpoint PATH``: Lightning's words for ``raylight ckpt upgrade``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from raylight.cli import ckpt
from raylight.utilities.exceptions import RaylightError
from raylight.utilities.rank_zero import log


def main() -> None:
    """Upgrade a file, or all files below a folder, in place; each original is kept as FILE.bak.

    Exits with status 1 where there is no such file, or one of them cannot be upgraded.
    """
    parser = argparse.ArgumentParser(
        prog="python -m raylight.utilities.upgrade_checkpoint",
        description="Upgrade checkpoints of older Lightning versions in place.",
    )
    parser.add_argument("path", help="a checkpoint, or a folder to search")
    parser.add_argument("-e", "--extension", default=".ckpt", help="of the files to take of a folder; default: .ckpt")
    parser.add_argument("--map-to-cpu", action="store_true", help="always so: files are read onto the CPU")
    arguments = parser.parse_args()
    path = Path(arguments.path).absolute()
    extension = "." + arguments.extension.removeprefix(".")
    if not path.exists():
        _fail(
            f"The path {path} does not exist. Please provide a valid path to a checkpoint file or a directory "
            f"containing checkpoints ending in {extension}."
        )
    files = [path] if path.is_file() else sorted(path.rglob(f"*{extension}"))
    if not files:
        _fail(
            f"No checkpoint files with extension {extension} were found in {path}. HINT: Try setting the `--extension` "
            "option to specify the right file extension to look for."
        )
    for file in files:
        try:
            print(ckpt.upgrade_one(str(file), str(file)))
        except (RaylightError, OSError) as error:
            _fail(str(error))


def _fail(message: str) -> None:
    log.error(message)
    sys.exit(1)
