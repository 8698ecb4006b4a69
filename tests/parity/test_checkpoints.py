"""Files that one library writes and the other reads; names of files and keys."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

OTHERS_ONLY = {"raylight"}
"""Keys that only raylight's files have."""


def make(side: Any, optimizer: Any = torch.optim.Adam, manual: bool = False) -> Any:
    """A model with a scheduler, hyperparameters, validation, Adam's state."""

    class Model(side.Model):  # type: ignore[misc, name-defined]
        def __init__(self, rate: float = 0.05) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.automatic_optimization = not manual
            self.start: list[Any] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            if manual:
                self.optimizers().zero_grad()
                self.manual_backward(loss)
                self.optimizers().step()
                return None
            return loss

        def on_train_start(self) -> None:
            trainer = self.trainer
            self.start.append([trainer.current_epoch, trainer.global_step])
            self.start.append(deepcopy(self.state_dict()))
            self.start.append([deepcopy(self.plain_state(each)) for each in trainer.optimizers])
            self.start.append([config.scheduler.state_dict()["last_epoch"] for config in trainer.lr_scheduler_configs])

        def plain_state(self, optimizer: Any) -> Any:
            state = optimizer.state_dict()
            return [state["state"], [group["lr"] for group in state["param_groups"]]]

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch))

        def configure_optimizers(self) -> Any:
            made = optimizer(self.parameters(), lr=self.hparams["rate"])
            scheduler = torch.optim.lr_scheduler.StepLR(made, 3, 0.5)
            return {"optimizer": made, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

        def train_dataloader(self) -> Any:
            return side.loader()

        def val_dataloader(self) -> Any:
            return side.loader(2)

    return Model()


def shape(value: Any) -> Any:
    """Keys and types of a checkpoint; values of plain ones."""
    if isinstance(value, dict):
        return {Path(str(key)).name: shape(item) for key, item in value.items() if key not in OTHERS_ONLY}
    if isinstance(value, list | tuple):
        return [shape(item) for item in value]
    if isinstance(value, torch.Tensor):
        return list(value.shape)
    if isinstance(value, str) and "/" in value:
        return Path(value).name
    return value


def save_points(side: Any) -> Any:
    """A callback that saves in every hook of its life, into a file named by the hook and its count."""
    hooks = (
        "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_train_batch_end", "on_validation_start",
        "on_validation_end", "on_train_epoch_end", "on_train_end", "on_fit_end",
    )  # fmt: skip
    counts = dict.fromkeys(hooks, 0)

    def saver(hook: str) -> Any:
        def save(trainer: Any, *_: Any) -> None:
            counts[hook] += 1
            trainer.save_checkpoint(side.root / f"{hook}-{counts[hook]}.ckpt")

        return save

    return side.callback(**{hook: saver(hook) for hook in hooks})


@pytest.mark.parametrize("manual", [False, True])
def test_content_of_a_file(same_in_both: Any, manual: bool) -> None:
    def run(side: Any) -> Any:
        callbacks = [
            side.pl.callbacks.ModelCheckpoint(monitor="val_loss", filename="best"),
            side.pl.callbacks.EarlyStopping("val_loss"),
            side.pl.callbacks.Timer(),
        ]
        model = make(side, manual=manual)
        trainer = side.fit(model, *callbacks, max_epochs=2)
        checkpoint = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)
        for state in checkpoint["callbacks"].values():
            state.pop("time_elapsed", None)
        loops = checkpoint.pop("loops")
        return shape(checkpoint), sorted(loops), sorted(loops["fit_loop"])

    keys = same_in_both(run)[0]
    assert sorted(keys) == [
        "callbacks", "epoch", "global_step", "hparams_name", "hyper_parameters", "lr_schedulers", "optimizer_states",
        "pytorch-lightning_version", "state_dict",
    ]  # fmt: skip


SAVED = [
    "on_train_batch_end-2", "on_train_batch_end-5", "on_train_batch_end-7", "on_validation_start-1",
    "on_validation_end-1", "on_train_epoch_end-1", "on_train_epoch_end-2", "on_train_end-1", "on_fit_end-1",
]  # fmt: skip
BETWEEN = ["on_train_start-1", "on_train_epoch_start-1", "on_train_epoch_start-2", "on_train_batch_start-1"]
"""Saved here, Lightning itself loses count."""


@pytest.mark.parametrize("interval", [1.0, 2])
@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize("writer", [0, 1], ids=["theirs", "ours"])
def test_resumed_by_either(
    saved: str, writer: int, interval: Any, both_sides: Any, same_in_both: Any, call: Any
) -> None:
    """A file goes on the same in both libraries: counters, weights, optimizer, scheduler, and how much is trained."""
    side = both_sides[writer]
    call(side, lambda side: side.fit(make(side), save_points(side), max_epochs=2, val_check_interval=interval))
    side.logger.rows.clear()

    def resume(side: Any) -> Any:
        model = make(side)
        ended: list[int] = []
        hook = side.callback(on_train_epoch_end=lambda trainer, module: ended.append(trainer.current_epoch))
        trainer = side.trainer(hook, max_epochs=3, val_check_interval=interval)
        trainer.fit(model, ckpt_path=both_sides[writer].root / f"{saved}.ckpt")
        steps = [[name for name in row if name != "epoch"] + [step] for step, row in side.logger.rows]
        return model.start, trainer.current_epoch, trainer.global_step, len(model.losses), steps, ended

    same_in_both(resume)


@pytest.mark.parametrize("saved", [*SAVED, *BETWEEN])
@pytest.mark.parametrize("writer", [0, 1], ids=["theirs", "ours"])
def test_resumed_as_if_never_stopped(saved: str, writer: int, both_sides: Any, call: Any) -> None:
    """Wherever the file was saved: raylight takes each batch once and ends where one run ends."""
    ours, side = both_sides[1], both_sides[writer]
    whole = make(ours)
    ours.fit(whole, max_epochs=3)
    call(side, lambda side: side.fit(make(side), save_points(side), max_epochs=2))
    model = make(ours)
    trainer = ours.trainer(max_epochs=3)
    trainer.fit(model, ckpt_path=side.root / f"{saved}.ckpt")
    assert (trainer.global_step, trainer.current_epoch) == (15, 3)
    assert model.losses == pytest.approx(whole.losses[-len(model.losses) :], rel=1e-5)
    for one, other in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_weights_only(same_in_both: Any, same_error: Any) -> None:
    def save(side: Any) -> Any:
        trainer = side.fit(make(side))
        trainer.save_checkpoint(side.root / "weights.ckpt", weights_only=True)
        return sorted(set(torch.load(side.root / "weights.ckpt", weights_only=True)))

    def resume(side: Any) -> Any:
        save(side)
        side.trainer(max_epochs=2).fit(make(side), ckpt_path=side.root / "weights.ckpt")

    same_in_both(save)
    same_error(resume)


def test_load_from_the_others_file(both_sides: Any, call: Any) -> None:
    for writer, reader in (both_sides, both_sides[::-1]):
        model = make(writer)
        trainer = call(writer, lambda side, model=model: side.fit(model))
        trainer.save_checkpoint(writer.root / "model.ckpt")
        loaded = call(
            reader, lambda side, path=writer.root / "model.ckpt": type(make(side)).load_from_checkpoint(path, rate=0.7)
        )
        assert loaded.hparams["rate"] == 0.7
        for one, other in zip(loaded.parameters(), model.parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
@pytest.mark.parametrize("logger", ["TensorBoardLogger", "CSVLogger", None])
def test_files_of_two_runs(same_in_both: Any, logger: str | None) -> None:
    """Default checkpoint, version folders, hparams.yaml, metrics.csv."""

    def run(side: Any) -> Any:
        for _ in range(2):
            made = getattr(side.pl.loggers, logger)(str(side.root)) if logger else False
            trainer = side.fit(make(side), logger=made, enable_checkpointing=True)
        csv = [path.read_text() for path in sorted(side.root.rglob("metrics.csv"))]
        yaml = [path.read_text() for path in sorted(side.root.rglob("hparams.yaml"))]
        log_dir = Path(trainer.log_dir).relative_to(side.root)
        best = Path(trainer.checkpoint_callback.best_model_path).relative_to(side.root)
        return side.files(), csv, yaml, str(log_dir), str(best)

    files = same_in_both(run)[0]
    assert any(file.endswith("checkpoints/epoch=0-step=5.ckpt") for file in files)


def test_default_logger(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        trainer = side.fit(make(side), logger=True)
        return type(trainer.logger).__name__, side.files(), str(Path(trainer.log_dir).relative_to(side.root))

    same_in_both(run)


@pytest.mark.parametrize("which", ["best", "last", None])
@pytest.mark.filterwarnings("ignore:`.*ckpt_path=None.*was called without a model:UserWarning")
def test_evaluating_a_checkpoint(same_in_both: Any, which: str | None) -> None:
    def run(side: Any) -> Any:
        checkpoint = side.pl.callbacks.ModelCheckpoint(dirpath=side.root, monitor="val_loss", save_last=True)
        trainer = side.fit(make(side), checkpoint, max_epochs=3)
        results = trainer.validate(ckpt_path=which, verbose=False)
        return results, Path(trainer.ckpt_path).name if which else "", trainer.global_step, trainer.current_epoch

    same_in_both(run)


@pytest.mark.parametrize("which", ["best", "last", "missing.ckpt"])
def test_checkpoint_that_is_not_there(which: str, same_error: Any, same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        model = make(side)
        side.trainer().fit(model, ckpt_path=which)
        return model.losses

    if which == "last":  # a warning in both
        with pytest.warns(UserWarning, match="no last checkpoint"):
            same_in_both(run)
    else:
        same_error(run)


def test_saving_without_a_model(same_error: Any) -> None:
    same_error(lambda side: side.trainer().save_checkpoint(side.root / "nothing.ckpt"))
