"""ModelCheckpoint over several runs, callbacks and failures: files, attributes and states are Lightning's."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

NAN = float("nan")


def make_model(side: Any, val_losses: list[float] | None = None) -> Any:
    """The n-th validation logs the n-th value, the last one for all further."""

    class Model(side.Model):  # type: ignore[misc, name-defined]
        num_validations = 0

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if val_losses is not None:
                self.log("val_loss", torch.tensor(val_losses[min(self.num_validations, len(val_losses) - 1)]))

        def on_validation_epoch_end(self) -> None:
            self.num_validations += 1

        def val_dataloader(self) -> Any:
            return side.loader(2)

    return Model()


def saver(side: Any, folder: str = "", **settings: Any) -> Any:
    constants = {name: settings.pop(name) for name in list(settings) if name.isupper()}
    cls = type("ModelCheckpoint", (side.pl.callbacks.ModelCheckpoint,), constants)
    return cls(dirpath=side.root / folder, **settings)


def relative(side: Any, value: Any) -> Any:
    """``value`` with paths from the folder of this side's files on."""
    if isinstance(value, dict):
        return {relative(side, key): relative(side, item) for key, item in value.items()}
    if isinstance(value, str | Path):
        return str(value).replace(os.path.realpath(side.root), "").replace(str(side.root), "")
    return value


def left(side: Any, checkpoint: Any) -> Any:
    return [relative(side, checkpoint.state_dict()), side.files()]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0, 0.5, 0.5], [NAN, 1.0, NAN, float("inf"), 2.0]], ids=["ties", "nan"])
def test_scores(same_in_both: Any, values: list[float], mode: str) -> None:
    def run(side: Any) -> Any:
        checkpoint = saver(side, monitor="val_loss", save_top_k=2, mode=mode)
        side.fit(make_model(side, values), checkpoint, max_epochs=5)
        return left(side, checkpoint)

    same_in_both(run)


@pytest.mark.parametrize(
    "settings",
    [
        {"save_last": True},
        {"save_top_k": -1, "monitor": "epoch", "mode": "max", "filename": "{epoch}"},
        {"save_last": True, "monitor": "val_loss", "CHECKPOINT_NAME_LAST": "last-{epoch}-{val_loss:.1f}"},
        {"save_last": True, "CHECKPOINT_JOIN_CHAR": "_", "CHECKPOINT_EQUALS_CHAR": ":", "FILE_EXTENSION": ".pt"},
        {"STARTING_VERSION": 5, "CHECKPOINT_NAME_LAST": "final", "save_last": True},
        {"enable_version_counter": False, "save_last": True},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_the_same_folder_again(same_in_both: Any, settings: dict[str, Any]) -> None:
    def run(side: Any) -> Any:
        found = []
        for _ in range(3):
            checkpoint = saver(side, **settings)
            side.fit(make_model(side, [3.0, 2.0]), checkpoint, max_epochs=2)
            found.append(left(side, checkpoint))
        return found

    same_in_both(run)


@pytest.mark.filterwarnings("ignore:The dirpath has changed from", "ignore:Checkpoint directory .* is not empty")
@pytest.mark.parametrize("folder", ["first", "second"])
@pytest.mark.parametrize("path", ["best", "last"])
def test_resumed(same_in_both: Any, folder: str, path: str) -> None:
    def run(side: Any) -> Any:
        settings = {"save_last": True, "save_top_k": 2, "monitor": "val_loss"}
        first = saver(side, "first", **settings)
        side.fit(make_model(side, [3.0, 2.0, 1.0]), first, max_epochs=3)
        second = saver(side, folder, **settings)
        trainer = side.trainer(second, max_epochs=5)
        ckpt_path = first.best_model_path if path == "best" else first.last_model_path
        trainer.fit(make_model(side, [1.5, 0.5]), ckpt_path=ckpt_path)
        return left(side, second), trainer.global_step

    same_in_both(run)


def test_several_together(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        savers = [
            saver(side, "a", every_n_train_steps=2, save_top_k=-1),
            saver(side, "b", every_n_epochs=2),
            saver(side, "c", monitor="train_loss", train_time_interval=timedelta(0), save_top_k=-1),
            saver(side, "c", monitor="val_loss", mode="max", save_top_k=2),
        ]
        trainer = side.fit(make_model(side, [1.0, 2.0, 3.0]), *savers, max_epochs=3)
        assert trainer.checkpoint_callbacks == savers
        saved = torch.load(savers[0].best_model_path, weights_only=False)["callbacks"]
        return [left(side, each) for each in savers], relative(side, saved)

    same_in_both(run)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize(
    "hook",
    [
        "on_train_start",
        "on_train_batch_start",
        "on_train_batch_end",
        "on_validation_start",
        "on_validation_epoch_end",
        "on_train_epoch_end",
        "on_train_end",
        "on_before_optimizer_step",
    ],
)
def test_saved_on_an_exception(same_in_both: Any, hook: str, error: type[BaseException]) -> None:
    def run(side: Any) -> Any:
        def fail(trainer: Any, *_: Any) -> None:
            if trainer.current_epoch == 1 or hook in ("on_train_start", "on_train_end"):
                raise error

        checkpoint = saver(side, save_on_exception=True, save_top_k=-1, save_last=True, monitor="train_loss")
        # Lightning ends the process after Ctrl-C
        with pytest.raises((RuntimeError, KeyboardInterrupt, SystemExit)):
            side.fit(make_model(side), side.callback(**{hook: fail}), checkpoint, max_epochs=2)
        return left(side, checkpoint)

    same_in_both(run)


def test_a_missing_metric_is_told_once(ours: Any) -> None:
    with pytest.warns(UserWarning, match=r"ModelCheckpoint\(monitor='nope'\)` could not find") as told:
        ours.fit(make_model(ours), saver(ours, monitor="nope"), max_epochs=3, limit_val_batches=0)
    assert len(told) == 1


def test_a_missing_metric_after_validation(same_error: Any) -> None:
    error = same_error(lambda side: side.fit(make_model(side, [1.0]), saver(side, monitor="nope")))
    assert "could not find the monitored key" in str(error)


def test_the_loggers_are_told(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        told: list[Any] = []
        side.logger.after_save_checkpoint = lambda callback: told.append(left(side, callback))
        side.fit(make_model(side), saver(side, save_last=True), max_epochs=2)
        return told

    assert len(same_in_both(run)) == 4
