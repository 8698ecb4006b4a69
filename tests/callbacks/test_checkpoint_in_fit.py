"""What ModelCheckpoint leaves on the disk and in its attributes is what Lightning's leaves."""

from __future__ import annotations

import contextlib
import math
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from raylight.callbacks import Callback, ModelCheckpoint
from raylight.checkpoint.format import load
from raylight.checkpoint.io import AsyncCheckpointIO, TorchCheckpointIO
from raylight.loggers import CSVLogger
from raylight.utilities.exceptions import CheckpointNotWrittenError, MisconfigurationException

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


# ------------------------------------------------------------------------------------------------ in the background


@pytest.mark.parametrize(
    "case",
    ["best_two_named", "same_name", "same_name_overwritten", "last", "last_link_ranked", "every_three_steps_last"],
)
def test_the_same_in_the_background(in_raylight: Any, case: str) -> None:
    arguments, flags = CASES[case]
    outcomes = []
    children = psutil.Process().children()  # of other tests
    for async_save in (False, True):
        program = type(in_raylight)(in_raylight.pl, in_raylight.root / str(async_save))
        checkpoint = ModelCheckpoint(dirpath=program.root / "kept", async_save=async_save, **arguments)
        program.trainer(checkpoint, **{"max_epochs": 4, **flags}).fit(program.model(VAL_LOSSES))
        outcomes.append(left_behind(program, checkpoint))
        assert load(checkpoint.last_model_path or checkpoint.best_model_path)["state_dict"]
    assert outcomes[0] == outcomes[1]
    assert set(psutil.Process().children()) <= set(children)


@pytest.mark.parametrize("saves_all", [True, False], ids=["training's state", "weights only"])
def test_memory_is_got_while_training_goes_on(in_raylight: Any, wait_until: Any, saves_all: bool) -> None:
    rooms = []

    class Waits(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0 and trainer.current_epoch == 0:
                room = trainer.strategy.checkpoint_io._room
                wait_until(lambda: room._buffer is not None)
                rooms.append(room._buffer)
                rooms.append(room._num_bytes())

        def on_train_end(self, trainer: Any, *_: Any) -> None:
            rooms.append(trainer.strategy.checkpoint_io._writer._buffers[0])

    class Adaptive(type(in_raylight.model())):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    checkpoint = ModelCheckpoint(in_raylight.root, async_save=True, save_weights_only=not saves_all)
    in_raylight.trainer(Waits(), checkpoint, max_epochs=1).fit(model := Adaptive())
    ahead, size, used = rooms
    assert used is ahead
    parameters = sum(each.nbytes for each in model.parameters())
    assert size == (3 * parameters + 4 * len(list(model.parameters())) if saves_all else parameters)


def test_user_saves_at_once(in_raylight: Any) -> None:
    class Saves(Callback):
        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            trainer.save_checkpoint(in_raylight.root / "own.ckpt")
            assert load(in_raylight.root / "own.ckpt")["global_step"] == trainer.global_step

    checkpoint = ModelCheckpoint(in_raylight.root / "kept", async_save=True)
    in_raylight.trainer(Saves(), checkpoint, max_epochs=2).fit(in_raylight.model())


def test_nothing_is_under_way_after_an_exception(in_raylight: Any) -> None:
    class Broken(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.callbacks.append(self)  # after the checkpoint

        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.current_epoch == 1:
                raise RuntimeError("broken")

    checkpoint = ModelCheckpoint(in_raylight.root, async_save=True, save_top_k=-1, save_on_exception=True)
    children = psutil.Process().children()  # of other tests
    with pytest.raises(RuntimeError, match="broken"):
        in_raylight.trainer(Broken(), checkpoint, max_epochs=3).fit(in_raylight.model())
    assert in_raylight.files() == ["epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt"]
    assert [load(in_raylight.root / name)["global_step"] for name in in_raylight.files()] == [4, 8]
    assert set(psutil.Process().children()) <= set(children)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ends", ["well", "by an exception"])
def test_loader_processes_that_began_after_a_save(in_raylight: Any, ends: str) -> None:
    """They hold what the writing process listens to, and are there when the fit ends."""

    class Broken(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 1 and ends == "by an exception":
                raise RuntimeError("broken")

    loader = DataLoader(TensorDataset(torch.ones(4, 4)), batch_size=2, num_workers=1, persistent_workers=True)
    checkpoint = ModelCheckpoint(
        in_raylight.root, async_save=True, save_top_k=-1, every_n_train_steps=2, save_last=True
    )
    trainer = in_raylight.trainer(Broken(), checkpoint, max_epochs=2, num_sanity_val_steps=0)
    with pytest.raises(RuntimeError, match="broken") if ends != "well" else contextlib.nullcontext():
        trainer.fit(in_raylight.model(VAL_LOSSES), val_dataloaders=loader)
    assert load(checkpoint.last_model_path)["global_step"] == (8 if ends == "well" else 4)


class SpoilsFolder(Callback):
    """Where the checkpoints' folder was, there is a file in the second epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.current_epoch == 1:
            trainer.strategy.checkpoint_io.wait()
            self.folder.rename(self.folder.with_name("moved"))
            self.folder.touch()


@pytest.mark.parametrize("max_epochs", [2, 3], ids=["at the end", "at the next save"])
@pytest.mark.parametrize("async_save", [False, True])
def test_error_names_file_and_remedy(in_raylight: Any, max_epochs: int, async_save: bool) -> None:
    folder = in_raylight.root / "kept"
    checkpoint = ModelCheckpoint(folder, async_save=async_save)
    trainer = in_raylight.trainer(SpoilsFolder(folder), checkpoint, max_epochs=max_epochs)
    expected = r"kept/epoch=1-step=8.ckpt was not written \(FileExistsError.* See that the place is there"
    with pytest.raises(CheckpointNotWrittenError, match=expected):
        trainer.fit(in_raylight.model())
    assert load(folder.with_name("moved") / "epoch=0-step=4.ckpt")["global_step"] == 4


@pytest.mark.parametrize("plugin", [AsyncCheckpointIO, type("Own", (TorchCheckpointIO,), {})])
def test_own_checkpoint_io_decides_itself(in_raylight: Any, plugin: Any) -> None:
    with pytest.raises(MisconfigurationException, match=rf"async_save=True\) has no say beside {plugin.__name__}"):
        in_raylight.trainer(ModelCheckpoint(async_save=True), plugins=plugin(), max_epochs=1).fit(in_raylight.model())
    checkpoint = ModelCheckpoint(in_raylight.root / "kept")
    in_raylight.trainer(checkpoint, plugins=plugin(), max_epochs=1).fit(in_raylight.model())
    assert load(checkpoint.best_model_path)["global_step"] == 4


class IsDoneAgain(Callback):
    """The attempt before was lost before its first snapshot: all files are of what is done again."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        trainer.run.redone_since = 0.0


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("async_save", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        {"save_last": True},
        {"save_last": "link", "monitor": "val_loss", "save_top_k": 2},
        {"filename": "same", "monitor": "val_loss", "save_top_k": -1},
        {"filename": "same", "monitor": "val_loss", "save_top_k": 2, "save_last": True},
    ],
    ids=["newest", "best and link", "same name", "same name of the best"],
)
def test_files_of_what_is_done_again_are_replaced(in_raylight: Any, arguments: Any, async_save: bool) -> None:
    """Those that this attempt itself has written are not, nor those of another callback."""

    def fit(folder: str, *callbacks: Any, max_epochs: int = 4) -> dict[str, Any]:
        program = type(in_raylight)(in_raylight.pl, in_raylight.root / folder)
        checkpoint = ModelCheckpoint(program.root, async_save=async_save, **arguments)
        another = ModelCheckpoint(program.root, async_save=async_save, every_n_train_steps=2, save_last=True)
        program.trainer(*callbacks, checkpoint, another, max_epochs=max_epochs).fit(program.model(VAL_LOSSES))
        steps = {name: load(program.root / name)["global_step"] for name in program.files()}
        return {"steps": steps, "left": [left_behind(program, each) for each in (checkpoint, another)]}

    whole = fit("whole")
    fit("lost", max_epochs=2)
    assert fit("lost", IsDoneAgain()) == whole


def test_logger_hears_of_complete_files(in_raylight: Any) -> None:
    class Uploads(CSVLogger):
        def __init__(self, root: Path) -> None:
            super().__init__(root)
            self.heard: list[tuple[str, int]] = []

        def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
            path = checkpoint_callback._last_checkpoint_saved
            self.heard.append((Path(path).name, load(path)["global_step"]))

    heard = []
    for async_save in (False, True):
        logger = Uploads(in_raylight.root)
        checkpoint = ModelCheckpoint(in_raylight.root / str(async_save), save_last=True, async_save=async_save)
        in_raylight.trainer(checkpoint, logger=logger, max_epochs=2).fit(in_raylight.model())
        heard.append(logger.heard)
    assert len(heard[0]) == 4
    assert heard[0] == heard[1]


def test_what_a_crash_has_left_is_no_checkpoint_and_goes_after_a_day(in_raylight: Any) -> None:
    kept = in_raylight.root / "kept"
    kept.mkdir()
    old, new = (kept / f".{digit * 32}.tmp" for digit in "ab")
    for each in (old, new):
        each.write_bytes(b"half a checkpoint")
    os.utime(old, (1, 1))
    checkpoint = ModelCheckpoint(kept, save_last=True)
    trainer = in_raylight.trainer(checkpoint, max_epochs=1)
    with pytest.warns(UserWarning, match="is not empty"):
        trainer.fit(in_raylight.model())
    assert sorted(each.name for each in kept.iterdir()) == [new.name, "epoch=0-step=4.ckpt", "last.ckpt"]
    assert checkpoint.find_last_checkpoints(trainer) == {str(kept / "last.ckpt")}
