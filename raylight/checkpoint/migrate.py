"""Files of older Lightning versions, brought to the form that is written today.

What changed, by the version that changed it::

    0.10.0  state of ModelCheckpoint moved from the top level to "callbacks"; that of EarlyStopping was too little
    1.5.0   keys of "callbacks" are text, not classes
    1.6.0   "loops" count steps and epochs; before, the top-level epoch and global_step did
    1.6.5   the loggers' step is counted by itself
    1.9.0   ModelCheckpoint's key no longer names save_on_train_epoch_end
    2.0.0   apex is gone; the loops below "fit_loop", and those of evaluation, are flattened; one optimizer per step
    2.1.0   the gradient scaler's state is under "MixedPrecision"
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import IO, Any

from raylight.checkpoint import format as checkpoint_format
from raylight.checkpoint import storage
from raylight.checkpoint.background import wait_for
from raylight.checkpoint.progress import Position, to_loops
from raylight.utilities.rank_zero import rank_zero_info, rank_zero_warn

VERSION_KEY = "pytorch-lightning_version"
LEGACY_VERSION_KEY = "legacy_pytorch-lightning_version"
"""The version that wrote a file which has been brought to today's form."""

Checkpoint = dict[str, Any]


def load(path: storage.PathOrURI | IO[bytes], map_location: checkpoint_format.MapLocation = "cpu") -> Checkpoint:
    """Read a checkpoint of any version, without running code, in today's form; the file stays as it is.

    Args:
        path: A local path, a URI, ``http(s)://`` included, or a seekable binary stream.
        map_location: As in ``torch.load``; None: the device of each tensor when saved, or the CPU where there is none.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointError: It is broken, unsafe or no checkpoint.
    """
    if isinstance(path, str | os.PathLike):
        wait_for(path)
    return upgraded(checkpoint_format.load(path, map_location), path)


def upgraded(checkpoint: Checkpoint, path: Any) -> Checkpoint:
    """``checkpoint`` in today's form; where that took a change, it is said, with the ``path`` that it is of."""
    if migrate_checkpoint(checkpoint)[1]:
        rank_zero_info(
            f"The checkpoint was upgraded from Lightning v{checkpoint[LEGACY_VERSION_KEY]} to "
            f"v{checkpoint[VERSION_KEY]} as it was read. `raylight ckpt upgrade {path}` does it to the file."
        )
    return checkpoint


def migrate_checkpoint(
    checkpoint: Checkpoint, target_version: str | None = None
) -> tuple[Checkpoint, dict[str, list[str]]]:
    """Bring ``checkpoint`` to today's form, in place.

    One of a newer version is left as it is, with a warning; one that does not say its version is left as well.

    Args:
        checkpoint: What ``torch.load`` gave.
        target_version: Leave out what has changed since this version; None: nothing.

    Returns:
        ``checkpoint``, and the changes that were made up for: the version of each, with the names of what was done;
        none for a file of today.
    """
    version = checkpoint.get(VERSION_KEY)
    if not isinstance(version, str):
        return checkpoint, {}
    if is_newer(checkpoint):
        rank_zero_warn(
            f"The loaded checkpoint was produced with Lightning v{version}, which is newer than your current Lightning "
            f"version: v{checkpoint_format.LIGHTNING_VERSION}, whose format raylight reads. What has been added since "
            "is not understood; update raylight if anything is missing."
        )
        return checkpoint, {}
    last = _parse(target_version or checkpoint_format.LIGHTNING_VERSION)
    applied = {}
    for changed, migrations in _MIGRATIONS.items():
        if _parse(version) < _parse(changed) <= last:
            for migration in migrations:
                migration(checkpoint)
            applied[changed] = [migration.__name__ for migration in migrations]
    if version != checkpoint_format.LIGHTNING_VERSION:
        checkpoint.setdefault(LEGACY_VERSION_KEY, version)
        checkpoint[VERSION_KEY] = checkpoint_format.LIGHTNING_VERSION
    return checkpoint, applied


def is_newer(checkpoint: Checkpoint) -> bool:
    """Whether a newer version wrote it than the one whose format is known."""
    version = checkpoint.get(VERSION_KEY)
    return isinstance(version, str) and _parse(version) > _parse(checkpoint_format.LIGHTNING_VERSION)


def _parse(version: str) -> tuple[int, int, int, bool]:
    """Numbers that compare as versions do; a pre-release comes before its release."""
    match = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?(.*)", version)
    if match is None:
        return 0, 0, 0, False
    major, minor, patch = (int(part or 0) for part in match.groups()[:3])
    return major, minor, patch, re.match(r"\.?(a|b|rc|dev)", match[4]) is None


# ------------------------------------------------------------------------------------------------ callbacks


def _move_callback_states(checkpoint: Checkpoint) -> None:
    places = {
        "checkpoint_callback_best": ("ModelCheckpoint", "best_model_score"),
        "checkpoint_callback_best_model_score": ("ModelCheckpoint", "best_model_score"),
        "checkpoint_callback_best_model_path": ("ModelCheckpoint", "best_model_path"),
    }
    for unusable in ("early_stop_callback_wait", "early_stop_callback_patience"):  # the score to beat was not kept
        checkpoint.pop(unusable, None)
    states = checkpoint.get("callbacks") or {}
    for old, (callback, name) in places.items():
        if old in checkpoint:
            states.setdefault(callback, {})[name] = checkpoint.pop(old)
    if states:
        checkpoint["callbacks"] = states


def _name_callbacks(checkpoint: Checkpoint) -> None:
    states = checkpoint.get("callbacks")
    if states:
        checkpoint["callbacks"] = {
            key.__qualname__ if isinstance(key, type) else key: state for key, state in states.items()
        }


def _shorten_checkpoint_keys(checkpoint: Checkpoint) -> None:
    states = checkpoint.get("callbacks")
    if not states:
        return
    renamed = {}
    for key, state in states.items():
        if isinstance(key, str) and key.startswith("ModelCheckpoint"):
            key = re.sub(", 'save_on_train_epoch_end': (None|True|False)", "", key)
        renamed[key] = state
    if len(renamed) == len(states):
        checkpoint["callbacks"] = renamed
        return
    rank_zero_warn(
        "You have multiple `ModelCheckpoint` callback states in this checkpoint, but we found state keys that would "
        "end up colliding with each other after an upgrade, which means we can't differentiate which of your "
        "checkpoint callbacks needs which states. At least one of your `ModelCheckpoint` callbacks will not be able to "
        "reload the state."
    )


# ------------------------------------------------------------------------------------------------ loops


def _count_in_loops(checkpoint: Checkpoint) -> None:
    """Before 1.6 loops, if there were any, did not count optimizer steps or epochs."""
    epoch, global_step = checkpoint.get("epoch", 0), checkpoint.get("global_step", 0)
    loops = checkpoint.get("loops") or {}
    if "fit_loop" not in loops:
        # Whether steps were automatic is not known: both kinds have counted, and the run knows which is its own.
        fit_loop = to_loops(Position(), automatic=True)["fit_loop"]
        fit_loop["epoch_loop.state_dict"].pop("_batches_that_stepped")
        checkpoint["loops"] = {**loops, "fit_loop": fit_loop}
    else:
        fit_loop = loops["fit_loop"]
        _flatten_fit_loop(checkpoint)
    automatic = fit_loop.setdefault("epoch_loop.automatic_optimization.optim_progress", {})
    for counts in (
        automatic.setdefault("optimizer", {}).setdefault("step", {}),
        fit_loop.setdefault("epoch_loop.manual_optimization.optim_step_progress", {}),
    ):
        counts.setdefault("total", {"ready": 0})["completed"] = global_step
    progress = fit_loop.setdefault("epoch_progress", {"total": {}, "current": {}})
    progress["current"]["completed"] = epoch


def _count_logged_steps(checkpoint: Checkpoint) -> None:
    fit_loop = (checkpoint.get("loops") or {}).get("fit_loop")
    if fit_loop is not None:
        fit_loop.setdefault("epoch_loop.state_dict", {}).setdefault(
            "_batches_that_stepped", checkpoint.get("global_step", 0)
        )


_RENAMED_LOOPS = (
    ("epoch_loop.batch_loop.manual_loop.", "epoch_loop.manual_optimization."),
    ("epoch_loop.batch_loop.optimizer_loop.", "epoch_loop.automatic_optimization."),
    ("epoch_loop.manual_loop.", "epoch_loop.manual_optimization."),
    ("epoch_loop.optimizer_loop.", "epoch_loop.automatic_optimization."),
    ("epoch_loop.val_loop.epoch_loop.", "epoch_loop.val_loop."),
)


def _flatten_fit_loop(checkpoint: Checkpoint) -> None:
    fit_loop = (checkpoint.get("loops") or {}).get("fit_loop")
    if fit_loop is None:
        return
    for old in list(fit_loop):
        for prefix, renamed in _RENAMED_LOOPS:
            if old.startswith(prefix):
                fit_loop[renamed + old.removeprefix(prefix)] = fit_loop.pop(old)
                break
    fit_loop.pop("epoch_loop.val_loop.dataloader_progress", None)
    if state := fit_loop.pop("epoch_loop.batch_loop.state_dict", None):  # a loop of the user's own: kept for them
        fit_loop.setdefault("epoch_loop.state_dict", {})["old_batch_loop_state_dict"] = state
    fit_loop.get("epoch_loop.automatic_optimization.optim_progress", {}).pop("optimizer_position", None)


def _flatten_evaluation_loops(checkpoint: Checkpoint) -> None:
    loops = checkpoint.get("loops") or {}
    for name in ("validate_loop", "test_loop", "predict_loop"):
        loop = loops.get(name)
        if loop is None:
            continue
        loop.pop("dataloader_progress", None)
        below = [key for key in loop if key.startswith("epoch_loop.")]
        loop.update({key.removeprefix("epoch_loop."): loop.pop(key) for key in below})


# ------------------------------------------------------------------------------------------------ precision


def _drop_apex(checkpoint: Checkpoint) -> None:
    if checkpoint.pop("amp_scaling_state", None) is not None:
        rank_zero_warn(
            "This checkpoint contains apex AMP data, but apex support has been removed in v2.0.0. The loss scale "
            "starts anew."
        )


def _rename_scaler(checkpoint: Checkpoint) -> None:
    state = checkpoint.pop("native_amp_scaling_state", None)
    for old in ("NativeMixedPrecisionPlugin", "MixedPrecisionPlugin"):
        state = checkpoint.pop(old, state)
    if state:
        checkpoint.setdefault("MixedPrecision", state)


_MIGRATIONS: dict[str, list[Callable[[Checkpoint], None]]] = {
    "0.10.0": [_move_callback_states],
    "1.5.0": [_name_callbacks],
    "1.6.0": [_count_in_loops],
    "1.6.5": [_count_logged_steps],
    "1.9.0": [_shorten_checkpoint_keys],
    "2.0.0": [_drop_apex, _flatten_fit_loop, _flatten_evaluation_loops],
    "2.1.0": [_rename_scaler],
}
