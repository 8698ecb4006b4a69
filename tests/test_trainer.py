"""What the driver does around a run: assembling, checking, finding checkpoints."""

import importlib.metadata
import inspect
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import raylight as pl
from raylight.assembly import check_state_keys, make_callbacks, make_loggers, with_model_callbacks
from raylight.callbacks import Callback, ModelCheckpoint, RichModelSummary, RichProgressBar, Timer
from raylight.config.accelerators import wants_ray
from raylight.config.flags import TrainerConfig
from raylight.loggers import CSVLogger, TensorBoardLogger
from raylight.utilities import exceptions
from raylight.utilities.exceptions import MisconfigurationException, UnknownFlagError, WorkerError

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val", self.layer(batch).mean())

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader() -> DataLoader[torch.Tensor]:
    return DataLoader(torch.ones(6, 4), batch_size=2)  # type: ignore[arg-type]


def types_of(callbacks: list[Any]) -> list[type]:
    return [type(callback) for callback in callbacks]


def test_default_callbacks_with_checkpoints_last() -> None:
    class Own(Callback):
        pass

    callbacks = make_callbacks(TrainerConfig(max_time="00:00:00:01"), [ModelCheckpoint(), Own()])
    assert types_of(callbacks) == [Own, Timer, RichProgressBar, RichModelSummary, ModelCheckpoint]


def test_barebones_adds_nothing() -> None:
    config = TrainerConfig(barebones=True)
    assert make_callbacks(config, None) == []
    assert make_loggers(config, None) == []


def test_accumulation_as_a_dict_becomes_a_callback() -> None:
    callbacks = make_callbacks(TrainerConfig(barebones=True, accumulate_grad_batches={0: 2, 3: 4}), None)
    assert [callback.scheduling for callback in callbacks] == [{0: 2, 3: 4}]


@pytest.mark.parametrize(
    ("flags", "callback", "text"),
    [
        ({"enable_checkpointing": False}, ModelCheckpoint(), "enable_checkpointing=False"),
        ({"enable_progress_bar": False}, RichProgressBar(), "enable_progress_bar=False"),
    ],
)
def test_a_callback_that_a_flag_forbids(flags: dict[str, Any], callback: Callback, text: str) -> None:
    with pytest.raises(MisconfigurationException, match=text):
        pl.Trainer(callbacks=callback, **flags)


def test_two_progress_bars_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match="multiple progress bar"):
        pl.Trainer(callbacks=[RichProgressBar(), RichProgressBar()])


def test_model_callbacks_replace_those_of_their_type() -> None:
    old, new, other = ModelCheckpoint(monitor="a"), ModelCheckpoint(monitor="b"), RichProgressBar()
    assert with_model_callbacks([other, old], [new]) == [other, new]
    assert with_model_callbacks([other, old], []) == [other, old]


def test_two_stateful_callbacks_of_one_key_are_refused() -> None:
    class Stateful(Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"a": 1}

    with pytest.raises(RuntimeError, match="more than one stateful callback of type `Stateful`"):
        check_state_keys([Stateful(), Stateful()])
    check_state_keys([Callback(), Callback(), Stateful()])


def test_loggers(tmp_path: Path) -> None:
    config = TrainerConfig(default_root_dir=tmp_path)
    csv = CSVLogger(tmp_path)
    assert isinstance(make_loggers(config, None)[0], TensorBoardLogger)
    assert make_loggers(config, False) == []
    assert make_loggers(config, csv) == [csv]
    assert make_loggers(config, [csv, csv]) == [csv, csv]


def test_all_unknown_flags_are_named_with_a_guess() -> None:
    with pytest.raises(UnknownFlagError, match=r"'max_epoch' \(did you mean max_epochs\?\), 'presicion'") as error:
        pl.Trainer(max_epoch=1, presicion=16)
    assert isinstance(error.value, TypeError)


def test_signature_names_every_flag() -> None:
    names = set(inspect.signature(pl.Trainer).parameters)
    assert {"logger", "callbacks", "max_epochs", "precision", "launcher"} <= names


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, False),
        ({"devices": 1, "accelerator": "cpu"}, False),
        ({"devices": 2, "accelerator": "cpu"}, True),
        ({"num_workers": 1}, True),
        ({"num_nodes": 2, "accelerator": "cpu"}, True),
        ({"launcher": "ray"}, True),
    ],
)
def test_where_a_run_goes(flags: dict[str, Any], expected: bool) -> None:
    assert wants_ray(TrainerConfig(**flags)) is expected


def test_launcher_default_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLIGHT_LAUNCHER", "ray")
    assert wants_ray(TrainerConfig())
    assert not wants_ray(TrainerConfig(launcher="local"))


def test_local_launcher_refuses_several_workers() -> None:
    with pytest.raises(MisconfigurationException, match="launcher='local' runs one worker"):
        pl.Trainer(launcher="local", accelerator="cpu", devices=2)


def test_no_model_yet() -> None:
    with pytest.raises(TypeError, match=r"`Trainer.validate\(\)` requires a `LightningModule`"):
        pl.Trainer(**QUIET).validate(dataloaders=loader())


def test_what_is_no_model() -> None:
    with pytest.raises(TypeError, match="must be a `LightningModule` or .*, got `Linear`"):
        pl.Trainer(**QUIET).fit(torch.nn.Linear(1, 1), loader())  # type: ignore[arg-type]


def test_loaders_and_datamodule_together_are_ambiguous() -> None:
    with pytest.raises(MisconfigurationException, match=r"You cannot pass `train_dataloader` .*datamodule=...\)`"):
        pl.Trainer(**QUIET).fit(Model(), loader(), datamodule=pl.LightningDataModule())


def test_predictions_are_written_or_returned(tmp_path: Path) -> None:
    class Predicting(Model):
        def predict_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            return self.layer(batch).flatten()

    folder, model = tmp_path / "predictions", Predicting()
    message = rf"Leave that out, and read them back with pyarrow.parquet.read_table\('{folder}'\)"
    with pytest.raises(MisconfigurationException, match=message):
        pl.Trainer(**QUIET).predict(model, loader(), return_predictions=True, write_to=folder)
    assert not folder.exists()
    for returned in (None, False):
        assert pl.Trainer(**QUIET).predict(model, loader(), return_predictions=returned, write_to=folder) is None
    assert (folder / "_SUCCESS").exists()


@pytest.mark.parametrize("missing", ["training_step", "configure_optimizers"])
def test_a_missing_method_is_named(missing: str) -> None:
    methods = {name: getattr(Model, name) for name in ("training_step", "configure_optimizers") if name != missing}
    incomplete = type("Incomplete", (pl.LightningModule,), methods)
    with pytest.raises(MisconfigurationException, match=f"No `{missing}\\(\\)` method defined"):
        pl.Trainer(**QUIET).fit(incomplete(), loader())


def test_a_missing_loader_is_named() -> None:
    with pytest.raises(MisconfigurationException, match="train_dataloader"):
        pl.Trainer(**QUIET).fit(Model())


def test_unsafe_loading_is_warned_about(tmp_path: Path) -> None:
    pl.Trainer(**QUIET, max_epochs=1).fit(model := Model(), loader(), loader())
    model.trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match="weights_only=False would let a checkpoint run code"):
        pl.Trainer(**QUIET).validate(Model(), loader(), ckpt_path=tmp_path / "a.ckpt", weights_only=False)


def test_best_checkpoint_before_there_is_one(tmp_path: Path) -> None:
    trainer = pl.Trainer(**{**QUIET, "enable_checkpointing": True}, default_root_dir=tmp_path)
    with pytest.raises(ValueError, match="not configured to save the best model, or has not saved any yet"):
        trainer.test(Model(), loader(), ckpt_path="best")
    with pytest.raises(ValueError, match="`ModelCheckpoint` is not configured"):
        pl.Trainer(**QUIET).test(Model(), loader(), ckpt_path="best")


def test_best_and_last_are_found_after_fit(tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, save_last=True)
    trainer = pl.Trainer(
        **{**QUIET, "enable_checkpointing": True}, callbacks=saver, max_epochs=1, default_root_dir=tmp_path
    )
    model = Model()
    trainer.fit(model, loader(), loader())
    trained = model.layer.weight.detach().clone()
    for path in ("best", "last"):
        model.layer.weight.data.zero_()
        trainer.validate(model, loader(), ckpt_path=path, verbose=False)
        assert torch.equal(model.layer.weight, trained)


def test_state_of_a_fresh_trainer() -> None:
    trainer = pl.Trainer(**QUIET)
    assert (trainer.global_step, trainer.current_epoch, trainer.world_size) == (0, 0, 1)
    assert trainer.callback_metrics == {}
    assert str(trainer.state.status) == "initializing"
    with pytest.raises(AttributeError, match="model is attached"):
        trainer.save_checkpoint("x.ckpt")


def test_raising_max_epochs_trains_on() -> None:
    trainer = pl.Trainer(**QUIET, max_epochs=1)
    model = Model()
    trainer.fit(model, loader(), loader())
    trainer.fit(model, loader(), loader())
    assert (trainer.current_epoch, trainer.global_step) == (1, 3)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, loader(), loader())
    assert (trainer.current_epoch, trainer.global_step, trainer.fit_loop.epoch_loop.total_batch_idx) == (3, 9, 8)


def test_save_checkpoint_after_fit(tmp_path: Path) -> None:
    trainer = pl.Trainer(**QUIET, max_epochs=1, default_root_dir=tmp_path)
    model = Model()
    trainer.fit(model, loader(), loader())
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    content = torch.load(tmp_path / "own.ckpt", weights_only=True)
    assert torch.equal(content["state_dict"]["layer.weight"], model.layer.weight)
    assert content["global_step"] == 3


def test_root_dir_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pl.Trainer(**QUIET).default_root_dir == os.getcwd()
    assert pl.Trainer(**QUIET, default_root_dir="runs").default_root_dir == str(tmp_path / "runs")


def test_exceptions_survive_pickling() -> None:
    for kind in vars(exceptions).values():
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert str(pickle.loads(pickle.dumps(kind("what happened")))) == "what happened"
    lost = pickle.loads(pickle.dumps(WorkerError("gone", rank=3, node="10.0.0.2")))
    assert (lost.rank, lost.node) == (3, "10.0.0.2")


class _EntryPoint:
    name = "mocked"

    def __init__(self, factory: Any) -> None:
        self._factory = factory

    def load(self) -> Any:
        return self._factory


def test_callbacks_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package may register one factory for Lightning and for raylight; its callbacks are added once."""
    one, two, three = Callback(), ModelCheckpoint(), Callback()
    points = {
        "raylight.callbacks_factory": [_EntryPoint(factory := lambda: [one, two])],
        "lightning.pytorch.callbacks_factory": [_EntryPoint(factory), _EntryPoint(lambda: three)],
    }
    installed = SimpleNamespace(select=lambda group: points[group])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda: installed)
    trainer = pl.Trainer(enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    assert trainer.callbacks == [one, three, two]


def test_state_keys_are_compared_when_the_trainer_is_made() -> None:
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `ModelCheckpoint`"):
        pl.Trainer(callbacks=[ModelCheckpoint(), ModelCheckpoint()])
    pl.Trainer(callbacks=[ModelCheckpoint(monitor="a"), ModelCheckpoint(monitor="b")])


@pytest.mark.parametrize("configured", [None, [], ()])
def test_a_model_without_callbacks(configured: Any) -> None:
    mine = [Callback(), ModelCheckpoint()]
    assert with_model_callbacks(mine, configured) == mine


def test_a_model_with_one_callback() -> None:
    class Special(ModelCheckpoint):
        pass

    special, general = Special(), ModelCheckpoint()
    assert with_model_callbacks([general], special) == [special]
    assert with_model_callbacks([special], general) == [special, general]


def test_print_without_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    pl.Trainer(**QUIET, launcher="local").print("ready", 1, sep="-")
    assert capsys.readouterr().out == "ready-1\n"


def test_init_module_has_the_precision_and_may_leave_weights_empty() -> None:
    trainer = pl.Trainer(**QUIET, launcher="local", precision="64-true")
    with trainer.init_module():
        assert torch.nn.Linear(2, 2).weight.dtype == torch.float64
    state = torch.get_rng_state()
    with trainer.init_module(empty_init=True):
        torch.nn.Linear(2, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.nn.Linear(2, 2).weight.dtype == torch.float32
