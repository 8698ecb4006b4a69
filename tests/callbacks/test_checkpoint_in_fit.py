"""What ModelCheckpoint leaves on the disk and in its attributes is what Lightning's leaves."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from raylight.callbacks import ModelCheckpoint

VAL_LOSSES = [3.0, 1.0, 2.0, 0.5, 4.0]


def left_behind(program: Any, checkpoint: Any) -> dict[str, Any]:
    score = checkpoint.best_model_score
    return {
        "files": program.files(),
        "best": program.relative(checkpoint.best_model_path),
        "best_score": None if score is None else round(float(score), 4),
        "best_k": {program.relative(path): round(float(each), 4) for path, each in checkpoint.best_k_models.items()},
        "kth": program.relative(checkpoint.kth_best_model_path),
        "kth_value": round(float(checkpoint.kth_value), 4),
        "last": program.relative(checkpoint.last_model_path),
    }


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "all": ({"save_top_k": -1}, {}),
    "none": ({"save_top_k": 0}, {}),
    "none_but_last": ({"save_top_k": 0, "save_last": True}, {}),
    "best": ({"monitor": "val_loss"}, {}),
    "best_two_named": ({"monitor": "val_loss", "save_top_k": 2, "filename": "{epoch:02d}-{val_loss:.2f}"}, {}),
    "best_two_max": ({"monitor": "val_loss", "mode": "max", "save_top_k": 2}, {}),
    "all_ranked": ({"monitor": "val_loss", "save_top_k": -1}, {}),
    "train_metric": ({"monitor": "train_loss", "save_top_k": 2}, {}),
    "same_name": ({"monitor": "val_loss", "save_top_k": 3, "filename": "same"}, {}),
    "same_name_overwritten": ({"save_top_k": -1, "filename": "same", "enable_version_counter": False}, {}),
    "no_inserted_names": ({"filename": "e{epoch}/s{step}-{missing}", "auto_insert_metric_name": False}, {}),
    "last": ({"save_last": True, "monitor": "val_loss"}, {}),
    "last_link": ({"save_last": "link", "save_top_k": -1}, {}),
    "last_link_ranked": ({"save_last": "link", "monitor": "val_loss"}, {}),
    "every_second_epoch": ({"every_n_epochs": 2, "save_top_k": -1}, {}),
    "every_second_epoch_last": ({"every_n_epochs": 2, "save_top_k": 0, "save_last": True}, {}),
    "no_epoch": ({"every_n_epochs": 0, "save_top_k": -1, "save_last": True}, {}),
    "every_three_steps": ({"every_n_train_steps": 3, "save_top_k": -1}, {}),
    "every_three_steps_last": ({"every_n_train_steps": 3, "save_last": True}, {}),
    "steps_and_validation_metric": ({"every_n_train_steps": 3, "monitor": "val_loss", "save_top_k": -1}, {}),
    "steps_and_stale_metric": (
        {"every_n_train_steps": 4, "monitor": "val_loss", "save_top_k": -1, "save_on_train_epoch_end": False},
        {},
    ),
    "steps_and_validation_twice": (
        {"every_n_train_steps": 2, "monitor": "val_loss", "save_top_k": -1},
        {"val_check_interval": 0.5},
    ),
    "accumulated": ({"every_n_train_steps": 2, "save_top_k": -1}, {"accumulate_grad_batches": 2}),
    "accumulated_ranked": (
        {"every_n_train_steps": 3, "save_top_k": -1, "monitor": "val_loss", "save_on_train_epoch_end": False},
        {"accumulate_grad_batches": 2},
    ),
    "every_moment": ({"train_time_interval": timedelta(0), "save_top_k": -1}, {}),
    "never_in_time": ({"train_time_interval": timedelta(hours=1), "save_top_k": -1, "save_last": True}, {}),
    "validation_twice": ({"monitor": "val_loss", "save_top_k": -1}, {"val_check_interval": 0.5}),
    "validation_every_second_epoch": ({"monitor": "val_loss", "save_top_k": -1}, {"check_val_every_n_epoch": 2}),
    "after_validation": ({"save_on_train_epoch_end": False, "save_top_k": -1}, {}),
    "after_epoch": ({"save_on_train_epoch_end": True, "save_top_k": -1}, {"val_check_interval": 0.5}),
    "no_validation": ({"save_top_k": -1}, {"limit_val_batches": 0}),
    "stopped_in_epoch": ({"save_top_k": -1}, {"max_steps": 6}),
    "fast_dev_run": ({"save_top_k": -1}, {"fast_dev_run": 2}),
}


@pytest.mark.parametrize("case", CASES)
def test_files_and_attributes(same_in_both: Any, case: str) -> None:
    arguments, flags = CASES[case]

    def run(program: Any) -> dict[str, Any]:
        checkpoint = program.pl.callbacks.ModelCheckpoint(dirpath=program.root / "kept", **arguments)
        program.trainer(checkpoint, **{"max_epochs": 4, **flags}).fit(program.model(VAL_LOSSES))
        return left_behind(program, checkpoint)

    outcome = same_in_both(run)
    assert bool(outcome["files"]) == (case not in ("none", "fast_dev_run"))


def test_fast_dev_run_leaves_nothing(in_raylight: Any) -> None:
    """Not even last.ckpt, which Lightning writes here."""
    checkpoint = ModelCheckpoint(in_raylight.root, save_last=True)
    in_raylight.trainer(checkpoint, fast_dev_run=True).fit(in_raylight.model(VAL_LOSSES))
    assert in_raylight.files() == []


def test_nan_ranks_last(same_in_both: Any) -> None:
    def run(program: Any) -> dict[str, Any]:
        checkpoint = program.pl.callbacks.ModelCheckpoint(program.root, monitor="val_loss", save_top_k=2)
        program.trainer(checkpoint, max_epochs=4).fit(program.model([math.nan, 2.0, math.nan, 1.0]))
        return left_behind(program, checkpoint)

    assert same_in_both(run)["best"] == "epoch=3-step=16.ckpt"


def test_templated_last(same_in_both: Any) -> None:
    def run(program: Any) -> dict[str, Any]:
        checkpoint = program.pl.callbacks.ModelCheckpoint(program.root, save_last=True)
        checkpoint.CHECKPOINT_NAME_LAST = "{epoch}-last"
        program.trainer(checkpoint, max_epochs=2).fit(program.model())
        return left_behind(program, checkpoint)

    assert same_in_both(run)["last"] == "epoch=1-last.ckpt"


def test_link_points_to_the_newest(same_in_both: Any) -> None:
    def run(program: Any) -> str:
        checkpoint = program.pl.callbacks.ModelCheckpoint(program.root, save_last="link", save_top_k=-1)
        program.trainer(checkpoint, max_epochs=2).fit(program.model())
        return str(Path(checkpoint.last_model_path).readlink())

    assert same_in_both(run) == "epoch=1-step=8.ckpt"


@pytest.mark.parametrize("with_logger", [False, True])
def test_default_folder(same_in_both: Any, with_logger: bool) -> None:
    def run(program: Any) -> str:
        checkpoint = program.pl.callbacks.ModelCheckpoint()
        logger = program.pl.loggers.CSVLogger(program.root, name="name", version=3) if with_logger else False
        program.trainer(checkpoint, max_epochs=1, logger=logger).fit(program.model())
        return str(program.relative(checkpoint.best_model_path))

    folder = "name/version_3/checkpoints" if with_logger else "checkpoints"
    assert same_in_both(run) == f"{folder}/epoch=0-step=4.ckpt"


def test_weights_only(same_in_both: Any) -> None:
    def run(program: Any) -> bool:
        checkpoint = program.pl.callbacks.ModelCheckpoint(program.root, save_weights_only=True)
        program.trainer(checkpoint, max_epochs=1).fit(program.model())
        return "optimizer_states" in torch.load(checkpoint.best_model_path, weights_only=True)

    assert same_in_both(run) is False


def test_state_in_the_file(same_in_both: Any) -> None:
    def run(program: Any) -> dict[str, Any]:
        checkpoint = program.pl.callbacks.ModelCheckpoint(program.root, monitor="val_loss", save_top_k=2)
        program.trainer(checkpoint, max_epochs=2).fit(program.model(VAL_LOSSES))
        ((key, state),) = torch.load(checkpoint.best_model_path, weights_only=True)["callbacks"].items()
        assert state["dirpath"] == str(program.root)
        return {"key": key, "names": sorted(state), "best": program.relative(state["best_model_path"])}

    assert same_in_both(run)["best"] == "epoch=1-step=8.ckpt"


def test_resuming_keeps_the_ranking_and_the_resumed_file(same_in_both: Any) -> None:
    def run(program: Any) -> dict[str, Any]:
        first = program.pl.callbacks.ModelCheckpoint(program.root, monitor="val_loss")
        program.trainer(first, max_epochs=2).fit(program.model([3.0, 2.0]))
        second = program.pl.callbacks.ModelCheckpoint(program.root, monitor="val_loss")
        if program.pl.__name__ == "raylight":
            with pytest.warns(UserWarning, match="exists and is not empty"):
                program.trainer(second, max_epochs=4).fit(program.model([4.0, 1.0]), ckpt_path=first.best_model_path)
        else:
            program.trainer(second, max_epochs=4).fit(program.model([4.0, 1.0]), ckpt_path=first.best_model_path)
        return left_behind(program, second)

    outcome = same_in_both(run)
    assert outcome["files"] == ["epoch=1-step=8.ckpt", "epoch=3-step=16.ckpt"]


def test_saves_on_exception(same_in_both: Any) -> None:
    def run(program: Any) -> list[str]:
        class Broken(program.pl.Callback):  # type: ignore[misc, name-defined]
            def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
                if trainer.global_step == 2:
                    raise RuntimeError("broken")

        checkpoint = program.pl.callbacks.ModelCheckpoint(program.root, save_on_exception=True, save_last=True)
        with pytest.raises(RuntimeError, match="broken"):
            program.trainer(checkpoint, Broken(), max_epochs=1).fit(program.model())
        return list(program.files())

    assert same_in_both(run) == ["epoch=0-step=2.ckpt", "last.ckpt"]


def test_metric_that_is_never_logged(same_in_both: Any) -> None:
    def run(program: Any) -> None:
        checkpoint = program.pl.callbacks.ModelCheckpoint(program.root, monitor="vall_loss")
        with pytest.raises(Exception, match="could not find the monitored key in the returned metrics") as caught:
            program.trainer(checkpoint, max_epochs=1).fit(program.model(VAL_LOSSES))
        assert type(caught.value).__name__ == "MisconfigurationException"

    same_in_both(run)


def test_second_fit_goes_on(same_in_both: Any) -> None:
    def run(program: Any) -> dict[str, Any]:
        checkpoint = program.pl.callbacks.ModelCheckpoint(program.root, monitor="val_loss", save_top_k=1)
        trainer, model = program.trainer(checkpoint, max_epochs=1), program.model([2.0, 1.0])
        trainer.fit(model)
        if program.pl.__name__ == "raylight":
            trainer.max_epochs = 2
            with pytest.warns(UserWarning, match="exists and is not empty"):
                trainer.fit(model)
        else:
            trainer.fit_loop.max_epochs = 2
            trainer.fit(model)
        return left_behind(program, checkpoint)

    assert same_in_both(run)["files"] == ["epoch=1-step=8.ckpt"]
