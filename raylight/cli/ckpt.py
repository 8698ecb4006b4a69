"""``raylight ckpt``: look into checkpoint files, and bring those of older versions to today's form."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from typing import Any

from raylight.checkpoint import format as checkpoint_format
from raylight.checkpoint import migrate, storage
from raylight.checkpoint.describe import describe
from raylight.utilities.exceptions import CheckpointError, MisconfigurationException, RaylightError
from raylight.utilities.redaction import without_secrets
from raylight.utilities.secrets import redact_text

BAD_INPUT = 2
"""Exit status where a file cannot be used; as argparse's for a wrong argument."""


def add_command(commands: Any) -> None:
    """Register ``ckpt`` with its own commands."""
    parser = commands.add_parser("ckpt", help="inspect and upgrade checkpoint files", description=__doc__)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    inspecting = actions.add_parser("inspect", help="print what a checkpoint holds; no code in it is run")
    inspecting.add_argument("file", help="path or URI of a checkpoint")
    inspecting.add_argument("--json", action="store_true", help="print JSON")
    inspecting.set_defaults(run=inspect)
    upgrading = actions.add_parser("upgrade", help="rewrite checkpoints of older Lightning versions")
    upgrading.add_argument("paths", nargs="+", metavar="FILE", help="checkpoints, or folders to search for *.ckpt")
    upgrading.add_argument(
        "--output",
        help="write here instead of in place: a file for one FILE, a folder for several; the default replaces FILE "
        "and keeps the original as FILE.bak",
    )
    upgrading.set_defaults(run=upgrade)


# ------------------------------------------------------------------------------------------------ inspect


def inspect(arguments: argparse.Namespace) -> int:
    """Print what a checkpoint holds."""
    try:
        found = describe(checkpoint_format.load(arguments.file))
    except (RaylightError, OSError) as error:
        return _complain(error)
    print(json.dumps(found, indent=2) if arguments.json else _as_text(arguments.file, found))
    return 0


def _as_text(path: str, found: dict[str, Any]) -> str:
    written_by = f", first written by {_shown(found['legacy_version'])}" if found["legacy_version"] else ""
    lines = [
        f"{path!r}: Lightning {_shown(found['lightning_version'])}{written_by}",
        f"epoch {_shown(found['epoch'])}, global step {_shown(found['global_step'])}",
        f"keys: {', '.join(map(_shown, found['keys']))}",
        "modules:",
        *(f"  {_shown(name)}: {_size(size)}" for name, size in found["modules"].items()),
        f"  in all: {_size(_sum(found['modules']))}",
    ]
    for title in ("hyper_parameters", "datamodule_hyper_parameters", "callbacks", "precision", "raylight"):
        if found[title]:
            lines += [f"{title}:", *_indented(found[title])]
    for title in ("optimizers", "lr_schedulers"):
        for number, state in enumerate(found[title]):
            lines += [f"{title}[{number}]:", *_indented(state)]
    if found["added"]:
        lines.append(f"added by the user: {', '.join(map(_shown, found['added']))}")
    return "\n".join(lines)


def _indented(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"  {_shown(name)}: {_shown(item)}" for name, item in value.items()]
    return [f"  {_shown(value)}"]


def _shown(value: Any) -> str:
    """In one line, and without characters that a terminal would obey."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text if text.isprintable() else repr(text)


def _sum(modules: dict[str, dict[str, int]]) -> dict[str, int]:
    return {name: sum(size[name] for size in modules.values()) for name in ("tensors", "elements", "bytes")}


def _size(size: dict[str, int]) -> str:
    return f"{size['tensors']} tensors, {size['elements']:,} elements, {size['bytes']:,} bytes"


# ------------------------------------------------------------------------------------------------ upgrade


def upgrade(arguments: argparse.Namespace) -> int:
    """Rewrite old checkpoints; goes on after one that cannot be, and tells so by the exit status."""
    status = 0
    try:
        targets = _targets(arguments.paths, arguments.output)
    except (RaylightError, OSError) as error:
        return _complain(error)
    for path, target in targets:
        try:
            print(upgrade_one(path, target))
        except (RaylightError, OSError) as error:
            status = _complain(error)
    return status


def _targets(paths: list[str], output: str | None) -> list[tuple[str, str]]:
    """Which file goes where."""
    files = [(file, os.path.relpath(file, path)) for path in paths for file in _files(path)]
    if output is None:
        return [(file, file) for file, _ in files]
    if len(paths) == 1 and not os.path.isdir(paths[0]):
        return [(paths[0], output)]
    if os.path.exists(output) and not os.path.isdir(output):
        raise MisconfigurationException(f"--output {output} is a file: several checkpoints need a folder.")
    return [(file, os.path.join(output, os.path.basename(file) if below == "." else below)) for file, below in files]


def _files(path: str) -> list[str]:
    if not os.path.isdir(path):
        return [path]
    found = [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    found = sorted(file for file in found if file.endswith(".ckpt"))
    if not found:
        raise MisconfigurationException(f"No checkpoint files (*.ckpt) were found in {path}.")
    return found


def upgrade_one(path: str, target: str) -> str:
    """Rewrite one file, atomically; returns what was done."""
    checkpoint, was_plain = _read(path)
    if migrate.is_newer(checkpoint):
        raise CheckpointError(
            f"{path} was left as it is: Lightning {_shown(checkpoint[migrate.VERSION_KEY])}, which wrote it, is newer "
            f"than {checkpoint_format.LIGHTNING_VERSION}, whose format raylight writes."
        )
    before = checkpoint.get(migrate.VERSION_KEY)
    _, applied = migrate.migrate_checkpoint(checkpoint)
    after = checkpoint.get(migrate.VERSION_KEY)
    if was_plain and before == after:
        return f"{path}: nothing to do, it is of version {_shown(after)}"
    if target == path:
        _keep_original(path)
    elif storage.exists(target):
        raise MisconfigurationException(f"{target} exists and was not overwritten: give another --output.")
    for key in ("hyper_parameters", "datamodule_hyper_parameters"):
        if key in checkpoint:
            checkpoint[key] = without_secrets(checkpoint[key])
    checkpoint_format.save(checkpoint, target)
    what = f"changes of {', '.join(applied)}" if applied else "the version alone" if was_plain else "plain types"
    return f"{path}: {_shown(before)} -> {_shown(after)} ({what}), written to {target}"


def _read(path: str) -> tuple[dict[str, Any], bool]:
    """A checkpoint as it is, and whether ``torch.load(weights_only=True)`` reads it too."""
    try:
        return checkpoint_format.load(path, plain_only=True), True
    except CheckpointError:
        return checkpoint_format.load(path), False


def _keep_original(path: str) -> None:
    if not storage.is_local(path):
        raise MisconfigurationException(f"{path} is not a local file: give --output, where the new one shall be.")
    backup = f"{path}.bak"
    if os.path.exists(backup):
        raise MisconfigurationException(
            f"{backup} exists, so the original would be lost and {path} was left as it is: move it, or give --output."
        )
    try:
        os.link(path, backup)  # the same bytes under a second name: the new file takes the first one's place
    except OSError:  # a file system without links
        shutil.copy2(path, backup)


def _complain(error: Exception) -> int:
    print(f"raylight ckpt: {_shown(redact_text(' '.join(str(error).split())))}", file=sys.stderr)
    return BAD_INPUT
