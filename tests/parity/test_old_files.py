"""Files of older versions go on in raylight as they do in Lightning of today."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from raylight.checkpoint import migrate, progress

VERSIONS = ["0.9.0", "1.0.8", "1.4.9", "1.5.10", "1.6.4", "1.8.6", "1.9.5", "2.0.9", "2.1.4"]
"""At least one on each side of every change."""


def aged(checkpoint: dict[str, Any], version: str) -> dict[str, Any]:
    """``checkpoint``, saved at the end of an epoch by Lightning 2.6, in the layout of ``version``."""
    old = copy.deepcopy(checkpoint)
    old["pytorch-lightning_version"] = version
    numbers = tuple(int(part) for part in version.split("."))
    if numbers < (2, 1) and (scale := old.pop("MixedPrecision", None)):
        old["native_amp_scaling_state" if numbers < (1, 6) else "MixedPrecisionPlugin"] = scale
    if numbers < (2, 0):
        old["loops"] = _nested_loops(old["loops"])
    if numbers < (1, 9):
        old["callbacks"] = {_long_key(key): state for key, state in old["callbacks"].items()}
    if numbers < (1, 6, 5):
        del old["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
    if numbers < (1, 6):
        _uncount(old)
    if numbers < (1, 5):
        del old["loops"]
        old["callbacks"] = {_class_of(key): state for key, state in old["callbacks"].items()}
        if "hyper_parameters" in old:
            old["hyper_parameters"] = _attribute_dict()(old["hyper_parameters"])
    if numbers < (0, 10):
        states = {cls.__name__: state for cls, state in old.pop("callbacks").items()}
        old["checkpoint_callback_best_model_score"] = states["ModelCheckpoint"]["best_model_score"]
        old["checkpoint_callback_best_model_path"] = states["ModelCheckpoint"]["best_model_path"]
        old["early_stop_callback_wait"] = states["EarlyStopping"]["wait_count"]
        old["early_stop_callback_patience"] = states["EarlyStopping"]["patience"]
    return old


def _nested_loops(loops: dict[str, Any]) -> dict[str, Any]:
    fit_loop = {
        key.replace("epoch_loop.automatic_optimization.", "epoch_loop.batch_loop.optimizer_loop.")
        .replace("epoch_loop.manual_optimization.", "epoch_loop.batch_loop.manual_loop.")
        .replace("epoch_loop.val_loop.", "epoch_loop.val_loop.epoch_loop."): value
        for key, value in loops["fit_loop"].items()
    }
    fit_loop["epoch_loop.batch_loop.state_dict"] = {}
    fit_loop["epoch_loop.val_loop.state_dict"] = {}
    fit_loop["epoch_loop.val_loop.dataloader_progress"] = {"total": {"ready": 1, "completed": 1}}
    fit_loop["epoch_loop.batch_loop.optimizer_loop.optim_progress"]["optimizer_position"] = 1
    nested: dict[str, Any] = {"fit_loop": fit_loop}
    for name in ("validate_loop", "test_loop", "predict_loop"):
        nested[name] = {f"epoch_loop.{key}": value for key, value in loops[name].items()}
        nested[name].update(state_dict={}, dataloader_progress={"total": {"ready": 0, "completed": 0}})
    return nested


def _long_key(key: str) -> str:
    if not key.startswith("ModelCheckpoint"):
        return key
    return key.replace("'train_time_interval': None}", "'train_time_interval': None, 'save_on_train_epoch_end': None}")


def _uncount(old: dict[str, Any]) -> None:
    """Loops of 1.5 had the places of these counts, and left them at zero."""
    fit_loop = old["loops"]["fit_loop"]
    steps = fit_loop["epoch_loop.batch_loop.optimizer_loop.optim_progress"]["optimizer"]["step"]
    steps["total"]["completed"] = 0
    fit_loop["epoch_loop.batch_loop.manual_loop.optim_step_progress"]["total"]["completed"] = 0
    epochs = old["epoch"] + 1
    old["epoch"] = epochs
    fit_loop["epoch_progress"]["current"] = {"ready": epochs, "started": epochs, "processed": epochs, "completed": 0}


def _class_of(key: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_lightning import callbacks
    return getattr(callbacks, key.partition("{")[0])


def _attribute_dict() -> Any:
    from pytorch_lightning.utilities.parsing import AttributeDict

    return AttributeDict


def write_aged(path: Any, target: Any, version: str) -> None:
    """The file ``path`` once more, at ``target``, as ``version`` would have written it."""
    torch.save(aged(torch.load(path, weights_only=True), version), target)


def make(side: Any) -> Any:
    """A model with hyperparameters, Adam, a scheduler and validation."""

    class Model(side.Model):  # type: ignore[misc, name-defined]
        def __init__(self, rate: float = 0.05) -> None:
            super().__init__()
            self.save_hyperparameters()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["rate"])
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

        def train_dataloader(self) -> Any:
            return side.loader()

        def val_dataloader(self) -> Any:
            return side.loader(2)

    return Model()


def callbacks_of(side: Any, folder: Path) -> list[Any]:
    return [
        side.pl.callbacks.ModelCheckpoint(dirpath=folder, monitor="val_loss", filename="best"),
        side.pl.callbacks.EarlyStopping("val_loss", patience=7),
    ]


@pytest.fixture
def modern(both_sides: Any, call: Any) -> Path:
    """What Lightning of today writes after two epochs."""
    theirs = both_sides[0]
    trainer = call(theirs, lambda side: side.fit(make(side), *callbacks_of(side, side.root), max_epochs=2))
    theirs.logger.rows.clear()
    return Path(trainer.checkpoint_callback.best_model_path)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
@pytest.mark.parametrize("version", [version for version in VERSIONS if version >= "1.5"])
def test_goes_on(version: str, modern: Path, same_in_both: Any) -> None:
    file = modern.with_name("old.ckpt")
    write_aged(modern, file, version)

    def resume(side: Any) -> Any:
        model = make(side)
        saver, stopper = callbacks_of(side, modern.parent)
        read: list[Any] = []
        hook = side.callback(
            on_train_start=lambda *_: read.append([stopper.wait_count, stopper.patience, saver.best_model_score])
        )
        trainer = side.trainer(saver, stopper, hook, max_epochs=4)
        trainer.fit(model, ckpt_path=file, weights_only=None if side.ours else False)
        rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
        return side.outcome(trainer, model), rates, read

    outcome = same_in_both(resume)[0]
    assert (outcome["current_epoch"], outcome["global_step"], len(outcome["losses"])) == (4, 20, 10)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
@pytest.mark.parametrize("version", [version for version in VERSIONS if version < "1.5"])
def test_goes_on_without_loops(version: str, modern: Path, ours: Any) -> None:
    """As if never stopped. Lightning of today trains all epochs once more, or fails."""
    whole, model = make(ours), make(ours)
    ours.fit(whole, max_epochs=4)
    write_aged(modern, modern.with_name("old.ckpt"), version)
    saver, stopper = callbacks_of(ours, modern.parent)

    trainer = ours.trainer(saver, stopper, max_epochs=4)
    trainer.fit(model, ckpt_path=modern.with_name("old.ckpt"))

    assert (trainer.current_epoch, trainer.global_step) == (4, 20)
    assert model.losses == pytest.approx(whole.losses[10:], rel=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_model_is_loaded(version: str, modern: Path, both_sides: Any) -> None:
    write_aged(modern, modern.with_name("old.ckpt"), version)

    model = type(make(both_sides[1])).load_from_checkpoint(modern.with_name("old.ckpt"))

    assert model.hparams == {"rate": 0.05}
    for name, value in torch.load(modern, weights_only=True)["state_dict"].items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize("version", VERSIONS)
def test_same_position_as_lightnings_migration(version: str, modern: Path) -> None:
    from pytorch_lightning.utilities.migration import migrate_checkpoint

    checkpoint = torch.load(modern, weights_only=True)
    ours, theirs = aged(checkpoint, version), aged(checkpoint, version)
    _, applied = migrate.migrate_checkpoint(ours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it takes class objects for keys that collide
        migrate_checkpoint(theirs)

    position = progress.from_checkpoint(ours)
    theirs_position = progress.from_checkpoint(theirs)
    theirs_position.val_batches = position.val_batches  # left nested there, and lost
    theirs_position.epoch_val_batches = position.epoch_val_batches
    if version < "1.5":
        theirs_position.logger_step = position.global_step  # lost there
    assert position == theirs_position
    assert ours["pytorch-lightning_version"] == "2.6.6"
    assert ours["legacy_pytorch-lightning_version"] == theirs["legacy_pytorch-lightning_version"] == version
    assert set(applied) >= {"2.1.0"} or version == "2.1.4"
    assert migrate.migrate_checkpoint(ours)[1] == {}
