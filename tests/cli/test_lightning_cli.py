"""LightningCLI as its users see it: arguments in, objects, files and errors out."""

from __future__ import annotations

import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
import yaml
from jsonargparse import Namespace
from torch import nn
from torch.utils.data import DataLoader

import raylight as pl
import raylight.cli
from raylight.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from raylight.cli import (
    LightningArgumentParser,
    LightningCLI,
    LRSchedulerCallable,
    OptimizerCallable,
    ReduceLROnPlateau,
    SaveConfigCallback,
    instantiate_class,
    instantiate_module,
)
from raylight.config.flags import TrainerConfig
from raylight.loggers import CSVLogger, TensorBoardLogger
from raylight.strategies import SingleDeviceStrategy
from raylight.utilities.exceptions import MisconfigurationException

HERE = __name__
QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "launcher": "local",
    "max_epochs": 1,
    "limit_train_batches": 1,
    "limit_val_batches": 1,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


class Kind(Enum):
    SMALL = 1
    LARGE = 2


class Encoder(nn.Module):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.width = width


class OtherEncoder(Encoder):
    def __init__(self, width: int = 2, depth: int = 1) -> None:
        super().__init__(width)
        self.depth = depth


class Data(pl.LightningDataModule):
    def __init__(self, batch_size: int = 1, num_classes: int = 5) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size = batch_size
        self.num_classes = num_classes

    def loader(self) -> DataLoader[Any]:
        return DataLoader(torch.ones(4, 3), batch_size=self.batch_size)  # type: ignore[arg-type]

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


class Model(pl.LightningModule):
    """A small model.

    Args:
        width: Of its layer.
    """

    def __init__(self, width: int = 3, encoder: Encoder | None = None, kind: Kind = Kind.SMALL) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.width, self.encoder, self.kind = width, encoder, kind
        self.layer = nn.Linear(3, 1)

    def loss(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch).sum()
        self.log("loss", loss)
        return loss

    training_step = validation_step = test_step = loss

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch)

    def train_dataloader(self) -> Any:
        return DataLoader(torch.ones(4, 3))  # type: ignore[arg-type]

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


class SGDModel(Model):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Injected(SGDModel):
    """Its optimizer and scheduler are made by what it is given."""

    def __init__(
        self,
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: LRSchedulerCallable = torch.optim.lr_scheduler.ConstantLR,
        activation: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.optimizer, self.scheduler, self.activation = optimizer, scheduler, activation

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, no arguments, and a fixed seed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["any.py"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")


def flags(**changed: Any) -> list[str]:
    given = {**QUIET, **changed}
    return [f"--trainer.{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in given.items()]


def parse(
    *args: str, model: Any = SGDModel, data: Any = None, cls: type[LightningCLI] = LightningCLI, **kw: Any
) -> Any:
    """A CLI that runs nothing."""
    return cls(model, data, args=[*flags(), *args], run=False, **kw)


def fit(*args: str, model: Any = SGDModel, data: Any = None, cls: type[LightningCLI] = LightningCLI, **kw: Any) -> Any:
    trainer = kw.pop("trainer", {})
    return cls(model, data, args=["fit", *flags(**trainer), *args], **kw)


def write(path: str, content: Any) -> str:
    Path(path).write_text(yaml.safe_dump(content))
    return path


# ------------------------------------------------------------------------------------------------ arguments


def test_every_flag_of_the_trainer_has_its_type_default_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    cli = parse()
    names = list(inspect.signature(pl.Trainer.__init__).parameters)[1:]
    assert list(cli.config.trainer.as_dict()) == names

    defaults = LightningCLI(SGDModel, args=[], run=False).config.trainer
    assert defaults.max_epochs is None
    assert defaults.max_steps == -1
    with pytest.raises(SystemExit):
        parse("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "Epochs to train; -1 has no limit" in text
    assert "Callback" in text
    for name in names:
        assert f"--trainer.{name} " in text
    assert TrainerConfig.__dataclass_fields__["max_epochs"].type == "int | None"


def test_launcher_defaults_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLIGHT_LAUNCHER", "local")

    assert LightningCLI(SGDModel, args=[], run=False).trainer.config.launcher == "local"


def test_flags_default_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_TRAINER_MAX_STEPS", "7")
    monkeypatch.setenv("PL_TRAINER_MAX_EPOCHS", "8")
    trainer = LightningCLI(SGDModel, args=["--trainer.max_epochs=3"], run=False).trainer
    assert (trainer.config.max_steps, trainer.config.max_epochs) == (7, 3)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("max_epochs", "many"),
        ("accumulate_grad_batches", "[1]"),
        ("limit_train_batches", "all"),
        ("callbacks", "torch.nn.ReLU"),
        ("epochs_at_most", "3"),
    ],
)
def test_wrong_flags_are_named(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse(f"--trainer.{flag}", value)

    assert exit_.value.code == 2
    assert flag in capsys.readouterr().err


def test_classes_among_the_flags() -> None:
    callbacks = [
        {"class_path": "EarlyStopping", "init_args": {"monitor": "loss"}},
        {"class_path": "raylight.callbacks.LearningRateMonitor", "init_args": {"logging_interval": "epoch"}},
    ]
    cli = parse(
        f"--trainer.callbacks={json.dumps(callbacks)}",
        "--trainer.logger=CSVLogger",
        "--trainer.logger.save_dir=here",
        '--trainer.strategy={"class_path": "SingleDeviceStrategy"}',
    )

    assert [type(each) for each in cli.trainer.callbacks][:2] == [EarlyStopping, LearningRateMonitor]
    assert cli.trainer.callbacks[1].logging_interval == "epoch"
    assert isinstance(cli.trainer.logger, CSVLogger)
    assert cli.trainer.logger.save_dir == "here"
    assert isinstance(cli.config_init.trainer.strategy, SingleDeviceStrategy)


def test_logger_with_the_arguments_of_its_writer() -> None:
    cli = parse("--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=here", "--trainer.logger.max_queue=3")

    assert isinstance(cli.trainer.logger, TensorBoardLogger)


def test_callbacks_one_by_one() -> None:
    cli = parse("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=loss", "--trainer.callbacks+=Timer")

    assert [type(each).__name__ for each in cli.trainer.callbacks][:2] == ["EarlyStopping", "Timer"]


def test_trainer_defaults() -> None:
    always = ModelCheckpoint(monitor="loss")
    defaults = {**QUIET, "enable_checkpointing": True, "max_epochs": 7, "callbacks": [always]}
    cli = LightningCLI(SGDModel, args=[], run=False, trainer_defaults=defaults)
    assert cli.trainer.max_epochs == 7
    assert always in cli.trainer.callbacks

    single = {**defaults, "callbacks": always}
    args = ["--trainer.max_epochs=3", "--trainer.callbacks=LearningRateMonitor", "--trainer.logger=true"]
    cli = LightningCLI(SGDModel, args=args, run=False, trainer_defaults=single)
    assert cli.trainer.max_epochs == 3
    assert {ModelCheckpoint, LearningRateMonitor, SaveConfigCallback} <= {type(each) for each in cli.trainer.callbacks}


def test_instantiate_trainer_with_other_flags() -> None:
    cli = parse()

    assert cli.instantiate_trainer(max_epochs=9).max_epochs == 9
    assert cli.trainer.max_epochs == 1


def test_trainer_from_a_function() -> None:
    def make(epochs: int = 2, callbacks: list[pl.Callback] | None = None) -> pl.Trainer:
        return pl.Trainer(**{**QUIET, "max_epochs": epochs}, callbacks=callbacks)

    make.__annotations__ = {"epochs": int, "callbacks": list[pl.Callback] | None, "return": pl.Trainer}
    cli = LightningCLI(SGDModel, args=["--trainer.epochs=4"], run=False, trainer_class=make)

    assert cli.trainer.max_epochs == 4


def test_trainer_without_callbacks_is_told() -> None:
    class Bare(pl.Trainer):
        def __init__(self) -> None:
            super().__init__(**QUIET)

    with pytest.warns(UserWarning, match="`callbacks` argument so they will not be included"):
        LightningCLI(SGDModel, args=[], run=False, trainer_class=Bare)


def test_model_and_data_arguments() -> None:
    cli = parse("--model.width=8", "--model.kind=LARGE", "--data.batch_size=2", data=Data)

    assert (cli.model.width, cli.model.kind, cli.datamodule.batch_size) == (8, Kind.LARGE, 2)
    assert cli.config.model.width == 8
    assert cli.config_init.model is cli.model
    assert cli.config_init.data is cli.datamodule


def test_model_from_a_function() -> None:
    def make(size: int = 1) -> Model:
        return SGDModel(width=size)

    make.__annotations__ = {"size": int, "return": Model}

    assert parse("--model.size=5", model=make).model.width == 5


@pytest.mark.parametrize("name", ["SGDModel", f"{HERE}.SGDModel"])
def test_subclass_modes(name: str) -> None:
    for model, kwargs in ((None, {}), (Model, {"subclass_mode_model": True})):
        cli = parse(f"--model={name}", "--model.width=6", f"--data={HERE}.Data", model=model, **kwargs)
        assert type(cli.model) is SGDModel
        assert cli.model.width == 6
        assert type(cli.datamodule) is Data
    assert parse(model=SGDModel).datamodule is None


def test_wrong_names_of_classes(capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("NoSuchModel", f"{HERE}.Data", "no.such.Model"):
        with pytest.raises(SystemExit):
            parse(f"--model={model}", model=None)
        assert model.rpartition(".")[2] in capsys.readouterr().err


def test_subclass_mode_data_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(model=SGDModel, data=Data, subclass_mode_data=True)

    assert "required: data" in capsys.readouterr().err


def test_nested_classes() -> None:
    cli = parse("--model.encoder=OtherEncoder", "--model.encoder.depth=4", "--model.encoder.width=9")

    assert isinstance(cli.model.encoder, OtherEncoder)
    assert (cli.model.encoder.depth, cli.model.encoder.width) == (4, 9)


def test_args_of_every_form() -> None:
    config = {"trainer": {**QUIET, "max_epochs": 5}, "model": {"width": 4}}
    for args in (config, Namespace(trainer=Namespace(config["trainer"]), model=Namespace(width=4))):
        cli = LightningCLI(SGDModel, args=args, run=False)  # type: ignore[arg-type]
        assert (cli.trainer.max_epochs, cli.model.width) == (5, 4)


def test_args_beside_a_command_line_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["any.py", "--trainer.max_epochs=9"])

    with pytest.warns(UserWarning, match="LightningCLI's args parameter"):
        assert parse().trainer.max_epochs == 1
    assert LightningCLI(SGDModel, run=False).trainer.max_epochs == 9


def test_own_arguments_and_links() -> None:
    class Linked(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_argument("--note", default="none")
            parser.add_lightning_class_args(EarlyStopping, "early_stopping")
            parser.set_defaults({"early_stopping.monitor": "loss"})
            parser.link_arguments("data.batch_size", "model.width")
            parser.link_arguments("data.num_classes", "model.encoder.init_args.width", apply_on="instantiate")

    args = ("--data.batch_size=12", "--model.encoder=Encoder", "--note=x", "--early_stopping.patience=8")
    cli = parse(*args, data=Data, cls=Linked)

    assert cli.model.width == 12
    assert cli.model.encoder.width == 5
    assert cli.config.note == "x"
    found = next(each for each in cli.trainer.callbacks if isinstance(each, EarlyStopping))
    assert (found.monitor, found.patience) == ("loss", 8)
    assert cli.model.hparams["width"] == 12
    assert cli.model.hparams["encoder"]["init_args"]["width"] == 5


def test_add_lightning_class_args_refuses_other_classes() -> None:
    with pytest.raises(MisconfigurationException, match="Cannot add arguments from: .*Encoder"):
        LightningArgumentParser().add_lightning_class_args(Encoder, "encoder")
    with pytest.raises(MisconfigurationException, match="arguments of EarlyStopping need a nested_key"):
        LightningArgumentParser().add_lightning_class_args(EarlyStopping, None)


def test_a_parser_by_itself() -> None:
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(pl.Trainer, None)
    parser.add_optimizer_args(torch.optim.SGD, "sgd")

    assert parser.parse_args(["--max_epochs=3", "--sgd.lr=0.5"]).max_epochs == 3
    with pytest.raises(AssertionError):
        parser.add_optimizer_args(nn.Module, "wrong")  # type: ignore[arg-type]


def test_own_parser_class() -> None:
    class Parser(LightningArgumentParser):
        pass

    class Own(LightningCLI):
        def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
            parser = super().init_parser(**kwargs)
            parser.add_argument("--extra", type=int, default=1)
            return parser

    cli = parse("--extra=2", cls=Own, parser_class=Parser, parser_kwargs={"description": "Mine."})

    assert isinstance(cli.parser, Parser)
    assert cli.parser.description == "Mine."
    assert cli.config.extra == 2


# ------------------------------------------------------------------------------------------------ configuration files


def test_config_files_are_merged() -> None:
    first = write("first.yaml", {"trainer": {"max_epochs": 5, "max_steps": 3}, "model": {"width": 1}})
    second = write("second.yaml", {"trainer": {"max_epochs": 6}})
    cli = LightningCLI(SGDModel, args=["-c", first, "--config", second, "--model.width=7"], run=False)

    assert (cli.trainer.max_epochs, cli.trainer.max_steps, cli.model.width) == (6, 3, 7)


def test_config_of_a_part_and_of_a_sub_command() -> None:
    write("model.yaml", {"width": 11})
    write("fit.yaml", {"trainer": QUIET, "model": {"width": 2}})
    write("all.yaml", {"fit": {"trainer": {**QUIET, "max_epochs": 2}}, "test": {"trainer": QUIET}})

    def run(*args: str) -> LightningCLI:
        return LightningCLI(SGDModel, args=list(args), save_config_callback=None)

    assert run("fit", "-c", "fit.yaml").model.width == 2
    assert run("fit", "-c", "fit.yaml", "--model", "model.yaml").model.width == 11
    assert run("--config", "all.yaml", "fit", "--model.width=1").trainer.max_epochs == 2


def test_print_config_can_be_read_again(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        fit("--optimizer=Adam", "--print_config", trainer={"max_epochs": 4})
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"# raylight=={pl.__version__}")
    assert yaml.safe_load(printed)["optimizer"]["class_path"] == "torch.optim.Adam"
    assert yaml.safe_load(printed)["trainer"]["max_epochs"] == 4

    Path("again.yaml").write_text(printed)
    with pytest.raises(SystemExit):
        LightningCLI(SGDModel, args=["fit", "--config=again.yaml", "--print_config"])
    assert capsys.readouterr().out == printed


def test_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    write("env.yaml", {"trainer": {"max_steps": 2}})
    monkeypatch.setenv("PL_TRAINER__MAX_EPOCHS", "8")
    monkeypatch.setenv("PL_CONFIG", "env.yaml")
    monkeypatch.setenv("PL_MODEL__WIDTH", "2")
    cli = LightningCLI(SGDModel, args=["--model.width=3"], run=False, parser_kwargs={"default_env": True})
    assert (cli.trainer.max_epochs, cli.trainer.max_steps, cli.model.width) == (8, 2, 3)
    assert LightningCLI(SGDModel, args=[], run=False).model.width == 3


def test_environment_variables_of_a_sub_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_FIT__MODEL__WIDTH", "21")
    monkeypatch.setenv("MINE_FIT__MODEL__WIDTH", "22")

    def width(**parser_kwargs: Any) -> int:
        return fit(parser_kwargs=parser_kwargs, save_config_callback=None).model.width

    assert width(default_env=True) == 21
    assert width(default_env=True, env_prefix="MINE") == 22
    assert width() == 3


def test_parser_kwargs_of_a_sub_command() -> None:
    write("defaults.yaml", {"model": {"width": 13}})
    kwargs = {"fit": {"default_config_files": ["defaults.yaml"]}}

    assert fit(parser_kwargs=kwargs).model.width == 13


# ------------------------------------------------------------------------------------------------ seeds


@pytest.mark.parametrize(("default", "args", "expected"), [(3, [], 3), (False, [], False), (True, [], 1)])
def test_seed_everything(default: Any, args: list[str], expected: Any) -> None:
    cli = parse(*args, seed_everything_default=default)

    assert cli.config["seed_everything"] == expected
    if expected is not False:
        assert torch.initial_seed() == expected


def test_seed_of_the_command_line() -> None:
    assert parse("--seed_everything=17").config["seed_everything"] == 17
    assert parse("--seed_everything=false").config["seed_everything"] is False
    assert fit("--seed_everything=18").config.fit.seed_everything == 18


# ------------------------------------------------------------------------------------------------ running


class Noting(LightningCLI):
    notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def before_instantiate_classes(self) -> None:
        type(self).notes = []
        self.note(f"parsed {'model' in dir(self)}")

    def after_instantiate_classes(self) -> None:
        self.note(f"made {type(self.trainer).__name__}")

    def before_fit(self) -> None:
        self.note(f"before {self.trainer.global_step}")

    def after_fit(self) -> None:
        self.note(f"after {self.trainer.global_step}")


def test_hooks_around_a_sub_command() -> None:
    cli = fit(cls=Noting)

    assert cli.notes == ["parsed False", "made Trainer", "before 0", "after 1"]
    assert cli.subcommand == "fit"


def test_a_method_of_the_cli_takes_the_place_of_the_trainers() -> None:
    class Own(LightningCLI):
        def fit(self, model: Any, **kwargs: Any) -> None:
            self.given = {"model": model, **kwargs}

    cli = fit(cls=Own, data=Data)

    assert cli.given == {"model": cli.model, "datamodule": cli.datamodule, "ckpt_path": None, "weights_only": None}
    assert cli.trainer.global_step == 0


@pytest.mark.parametrize("name", ["validate", "test", "predict"])
def test_other_sub_commands(name: str) -> None:
    limits = {"limit_test_batches": 2, "limit_predict_batches": 2}
    cli = LightningCLI(SGDModel, Data, args=[name, *flags(**limits)])

    assert cli.trainer.state.fn == name
    assert cli.trainer.state.finished
    assert cli.trainer.datamodule is cli.datamodule


def test_sub_commands_of_the_users_own() -> None:
    class Longer(pl.Trainer):
        def fit_twice(self, model: pl.LightningModule, times: int = 1, datamodule: Any = None) -> None:
            """Fit several times.

            More words.
            """
            self.times = times

    class Own(LightningCLI):
        @staticmethod
        def subcommands() -> dict[str, set[str]]:
            return {**LightningCLI.subcommands(), "fit_twice": {"model", "datamodule"}}

    cli = Own(SGDModel, trainer_class=Longer, args=["fit_twice", *flags(), "--times=2"])

    assert cli.trainer.times == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("args", [[], ["fly"], ["fit", "--no.such=1"]])
def test_wrong_command_lines(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        LightningCLI(SGDModel, args=args)

    assert exit_.value.code == 2
    assert "error:" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ optimizers


def test_optimizer_and_scheduler_from_the_command_line() -> None:
    cli = fit(
        "--optimizer=Adam", "--optimizer.lr=0.5", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=50", model=Model
    )

    assert isinstance(cli.trainer.optimizers[0], torch.optim.Adam)
    config = cli.trainer.lr_scheduler_configs[0]
    assert isinstance(config.scheduler, torch.optim.lr_scheduler.StepLR)
    assert config.scheduler.step_size == 50
    assert config.scheduler.base_lrs == [0.5]


def test_plateau_watches_its_metric() -> None:
    args = ["--optimizer=SGD", "--lr_scheduler=raylight.cli.ReduceLROnPlateau", "--lr_scheduler.monitor=loss"]
    cli = fit(*args, model=Model)

    config = cli.trainer.lr_scheduler_configs[0]
    assert isinstance(config.scheduler, ReduceLROnPlateau)
    assert (config.monitor, config.reduce_on_plateau) == ("loss", True)


def test_scheduler_without_optimizer_is_left_to_the_model() -> None:
    cli = fit("--lr_scheduler=StepLR", "--lr_scheduler.step_size=50")

    assert isinstance(cli.trainer.optimizers[0], torch.optim.SGD)
    assert cli.trainer.lr_scheduler_configs == []


def test_the_models_own_optimizer_is_replaced_with_a_word() -> None:
    with pytest.warns(UserWarning, match="`SGDModel.configure_optimizers` will be overridden by `LightningCLI.conf"):
        cli = fit("--optimizer=Adam")

    assert isinstance(cli.trainer.optimizers[0], torch.optim.Adam)


def test_own_configure_optimizers() -> None:
    class Own(LightningCLI):
        @staticmethod
        def configure_optimizers(lightning_module: Any, optimizer: Any, lr_scheduler: Any = None) -> Any:
            lightning_module.got = (optimizer, lr_scheduler)
            return {"optimizer": optimizer}

    cli = fit("--optimizer=Adam", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=2", model=Model, cls=Own)

    assert isinstance(cli.model.got[1], torch.optim.lr_scheduler.StepLR)
    assert cli.trainer.optimizers == [cli.model.got[0]]
    assert cli.trainer.lr_scheduler_configs == []


def test_added_optimizer_args() -> None:
    class Own(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_optimizer_args(torch.optim.Adam)
            parser.add_lr_scheduler_args((torch.optim.lr_scheduler.ExponentialLR,))

    cli = fit("--optimizer.lr=0.25", "--lr_scheduler=ExponentialLR", "--lr_scheduler.gamma=0.5", model=Model, cls=Own)

    assert isinstance(cli.trainer.optimizers[0], torch.optim.Adam)
    assert cli.trainer.lr_scheduler_configs[0].scheduler.base_lrs == [0.25]


def test_several_automatic_optimizers_are_refused() -> None:
    class Own(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_optimizer_args(torch.optim.Adam, nested_key="first")
            parser.add_optimizer_args(torch.optim.SGD, nested_key="second")

    with pytest.raises(MisconfigurationException, match="at most one optimizer and one lr_scheduler to be 'AUTOMATIC'"):
        parse("--second.lr=0.1", cls=Own)


def test_optimizers_linked_to_the_model() -> None:
    class Linked(Model):
        def __init__(self, one: dict[str, Any], two: dict[str, Any]) -> None:
            super().__init__()
            self.one, self.two = one, two

    class Own(LightningCLI):
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            parser.add_optimizer_args((torch.optim.Optimizer,), nested_key="first", link_to="model.one")
            parser.add_optimizer_args(torch.optim.SGD, nested_key="second", link_to="model.two")

    Linked.__init__.__annotations__.update(one=dict, two=dict)
    cli = parse("--first=Adam", "--second.lr=0.3", model=Linked, cls=Own, auto_configure_optimizers=False)

    made = instantiate_class(cli.model.parameters(), cli.model.one)
    assert isinstance(made, torch.optim.Adam)
    assert instantiate_class((cli.model.parameters(),), cli.model.two).defaults["lr"] == 0.3


def test_without_automatic_optimizers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--optimizer=Adam", auto_configure_optimizers=False)

    assert "--optimizer" in capsys.readouterr().err


def test_optimizers_of_a_callable_type() -> None:
    scheduler = json.dumps({"class_path": "StepLR", "init_args": {"step_size": 3}})
    args = ["--model.optimizer=SGD", "--model.optimizer.lr=0.5", f"--model.scheduler={scheduler}"]
    cli = fit(*args, "--model.activation=torch.relu", model=Injected)

    assert cli.trainer.optimizers[0].defaults["lr"] == 0.5
    assert cli.trainer.lr_scheduler_configs[0].scheduler.step_size == 3
    assert cli.model.activation is torch.relu
    assert isinstance(fit(model=Injected, save_config_callback=None).trainer.optimizers[0], torch.optim.Adam)


def test_the_model_of_an_automatic_optimizer_travels() -> None:
    cli = parse(
        "--optimizer=SGD", "--optimizer.lr=0.5", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=2", model=Model
    )
    model = pickle.loads(cloudpickle.dumps(cli.model))

    (optimizer,), (scheduler,) = model.configure_optimizers()
    assert optimizer.param_groups[0]["params"][0] is model.layer.weight
    assert scheduler.step_size == 2


# ------------------------------------------------------------------------------------------------ the saved config


def test_config_is_saved_beside_the_logs(tmp_path: Path) -> None:
    cli = fit("--model.width=4", trainer={"logger": True, "default_root_dir": "root"})

    saved = Path(cli.trainer.log_dir, "config.yaml")
    assert saved.resolve() == tmp_path / "root" / "lightning_logs" / "version_0" / "config.yaml"
    content = yaml.safe_load(saved.read_text())
    assert list(content) == [
        "seed_everything",
        "trainer",
        "model",
        "data",
        "optimizer",
        "lr_scheduler",
        "ckpt_path",
        "weights_only",
    ]
    assert content["seed_everything"] == 1
    assert content["model"] == {"width": 4, "encoder": None, "kind": "SMALL"}

    again = LightningCLI(SGDModel, args=["fit", "--config", str(saved)])
    assert again.model.width == 4
    assert Path(again.trainer.log_dir).name == "version_1"


def test_config_of_an_earlier_run_is_kept() -> None:
    write("config.yaml", {"old": True})
    with pytest.raises(RuntimeError, match="SaveConfigCallback expected .*config.yaml to NOT exist. Aborting to avoid"):
        fit()
    assert yaml.safe_load(Path("config.yaml").read_text()) == {"old": True}

    fit(save_config_kwargs={"overwrite": True})
    assert "model" in yaml.safe_load(Path("config.yaml").read_text())
    fit(save_config_kwargs={"config_filename": "name.yaml"})
    assert Path("name.yaml").is_file()


def test_config_is_not_saved(tmp_path: Path) -> None:
    fit(save_config_callback=None)
    fit(trainer={"fast_dev_run": 1})

    assert list(tmp_path.iterdir()) == []


def test_config_in_several_files() -> None:
    Path("in").mkdir()
    write("in/data.yaml", {"batch_size": 2})
    write("in/run.yaml", {"data": "data.yaml", "trainer": {**QUIET, "default_root_dir": "out"}})
    LightningCLI(SGDModel, Data, args=["fit", "--config=in/run.yaml"], save_config_kwargs={"multifile": True})

    assert yaml.safe_load(Path("out/config.yaml").read_text())["data"] == "data.yaml"
    assert yaml.safe_load(Path("out/data.yaml").read_text()) == {"batch_size": 2, "num_classes": 5}


class Elsewhere(SaveConfigCallback):
    def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
        text = self.parser.dump(self.config, skip_none=False)
        Path("elsewhere.yaml").write_text(f"{stage}: {json.dumps(yaml.safe_load(text)['model'])}")


@pytest.mark.parametrize("beside", [True, False])
def test_config_saved_elsewhere(beside: bool) -> None:
    fit("--model.width=4", save_config_callback=Elsewhere, save_config_kwargs={"save_to_log_dir": beside})

    assert yaml.safe_load(Path("elsewhere.yaml").read_text())["fit"]["width"] == 4
    assert Path("config.yaml").exists() is beside


def test_config_saved_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="`save_to_log_dir=False` only makes sense when subclassing"):
        parse(save_config_kwargs={"save_to_log_dir": False})


def test_config_is_saved_once() -> None:
    cli = fit()
    Path("config.yaml").unlink()
    cli.trainer.test(cli.model)

    assert not Path("config.yaml").exists()


def test_the_callback_travels() -> None:
    """To a worker, whose ``__main__`` has none of the script's classes."""

    class Local(Encoder):
        pass

    globals()["Local"] = Local
    Local.__qualname__ = "Local"
    try:
        cli = parse(f"--model.encoder={HERE}.Local", "--model.kind=LARGE")
        saver = next(each for each in cli.trainer.callbacks if isinstance(each, SaveConfigCallback))
        pickled = cloudpickle.dumps(Elsewhere(saver.parser, saver.config))
        expected = saver.parser.dump(saver.config, skip_none=False)
    finally:
        del globals()["Local"]
    travelled = pickle.loads(pickled)

    assert travelled.parser.dump(travelled.config, skip_none=False) == expected
    trainer = pl.Trainer(**QUIET, callbacks=[travelled])
    trainer.fit(SGDModel())
    assert Path("config.yaml").read_text() == expected
    assert Path("elsewhere.yaml").exists()


# ------------------------------------------------------------------------------------------------ checkpoints


def test_load_from_checkpoint_makes_nested_classes_again() -> None:
    cli = fit("--model.encoder=OtherEncoder", "--model.encoder.depth=4", "--model.kind=LARGE", data=Data)
    cli.trainer.save_checkpoint("model.ckpt")
    assert cli.model.hparams == {
        "width": 3,
        "encoder": {"class_path": f"{HERE}.OtherEncoder", "init_args": {"width": 2, "depth": 4}},
        "kind": "LARGE",
        "_instantiator": "raylight.cli.instantiate_module",
    }
    assert cli.datamodule.hparams == {
        "batch_size": 1,
        "num_classes": 5,
        "_instantiator": "raylight.cli.instantiate_module",
    }

    model = SGDModel.load_from_checkpoint("model.ckpt")
    assert isinstance(model.encoder, OtherEncoder)
    assert (model.encoder.depth, model.kind) == (4, Kind.LARGE)
    assert SGDModel.load_from_checkpoint("model.ckpt", width=10).width == 10
    assert Data.load_from_checkpoint("model.ckpt").batch_size == 1


def test_load_from_checkpoint_of_callables() -> None:
    cli = fit("--model.optimizer=SGD", "--model.optimizer.lr=0.5", model=Injected, data=Data)
    cli.trainer.save_checkpoint("model.ckpt")

    model = Injected.load_from_checkpoint("model.ckpt")
    optimizer = model.configure_optimizers()["optimizer"]
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["lr"] == 0.5
    assert model.hparams == cli.model.hparams


def test_load_from_checkpoint_of_the_base_class() -> None:
    cli = fit(f"--model={HERE}.SGDModel", "--model.width=6", model=Model, subclass_mode_model=True)
    cli.trainer.save_checkpoint("model.ckpt")
    assert cli.model.hparams["_class_path"] == f"{HERE}.SGDModel"

    model = pl.LightningModule.load_from_checkpoint("model.ckpt")
    assert type(model) is SGDModel
    assert model.width == 6


def test_hyperparameters_as_they_are() -> None:
    cli = parse("--model.encoder=OtherEncoder", load_from_checkpoint_support=False, model=SGDModelWithoutEncoder)

    assert cli.model.hparams == {"width": 3}


class SGDModelWithoutEncoder(pl.LightningModule):
    def __init__(self, width: int = 3, encoder: Encoder | None = None) -> None:
        super().__init__()
        self.save_hyperparameters(ignore="encoder")


def test_ignored_hyperparameters() -> None:
    assert set(parse(model=SGDModelWithoutEncoder).model.hparams) == {"width", "_instantiator"}


def test_hyperparameters_of_a_model_within_the_model() -> None:
    class Outer(SGDModel):
        def __init__(self, size: int = 1) -> None:
            super().__init__()
            self.inner = SGDModelWithoutEncoder(width=33)

    cli = parse(model=Outer)

    assert "_instantiator" in cli.model.hparams
    assert "_instantiator" not in cli.model.inner.hparams
    assert cli.model.inner.hparams["width"] == 33


def test_hyperparameters_of_the_checkpoint_to_go_on_from() -> None:
    first = fit("--model.width=19")
    first.trainer.save_checkpoint("model.ckpt")

    cli = LightningCLI(SGDModel, args=["validate", *flags(), "--ckpt_path=model.ckpt"], save_config_callback=None)
    assert cli.model.width == 19
    assert cli.config.validate.model.width == 19


def test_hyperparameters_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    fit("--model.width=19").trainer.save_checkpoint("model.ckpt")

    with pytest.raises(SystemExit):
        LightningCLI(Injected, args=["validate", *flags(), "--ckpt_path=model.ckpt"])
    assert "Parsing of ckpt_path hyperparameters failed!" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({"_instantiator": "os.system"}, "'os.system' from the checkpoint is not in the allowlist"),
        (
            {"_instantiator": "pytorch_lightning.cli.instantiate_module", "_class_path": "os.system"},
            "'os.system' requested by the checkpoint does not resolve to an already imported subclass of SGDModel",
        ),
        (
            {"_instantiator": "raylight.cli.instantiate_module", "encoder": {"class_path": "subprocess.Popen"}},
            "SGDModel cannot be made from the configuration in the checkpoint",
        ),
        (
            {"_instantiator": "raylight.cli.instantiate_module", "encoder": {"class_path": "antigravity.Encoder"}},
            "may not name 'antigravity.Encoder'",
        ),
        (
            {"_instantiator": "raylight.cli.instantiate_module", "encoder": {"class_path": "this.Encoder"}},
            "may not name 'this.Encoder': the program has not imported it",
        ),
    ],
)
def test_a_checkpoint_runs_no_code(hparams: dict[str, Any], message: str) -> None:
    torch.save({"hyper_parameters": hparams, "state_dict": {}}, "bad.ckpt")

    with pytest.raises(ValueError, match=message):
        SGDModel.load_from_checkpoint("bad.ckpt")
    assert "this" not in sys.modules
    assert "antigravity" not in sys.modules


def test_instantiate_module() -> None:
    model = instantiate_module(Model, {"_class_path": f"{HERE}.SGDModel", "width": 2})

    assert type(model) is SGDModel
    assert model.width == 2


# ------------------------------------------------------------------------------------------------ the package


def test_import_without_jsonargparse(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("jsonargparse", "docstring_parser"):
        monkeypatch.setitem(sys.modules, name, None)
        for module in ("arguments", "save_config", "lightning_cli"):
            monkeypatch.delitem(sys.modules, f"raylight.cli.{module}", raising=False)
            monkeypatch.delattr(raylight.cli, module, raising=False)
        with pytest.raises(ModuleNotFoundError, match=r"raylight\[cli\]"):
            raylight.cli.LightningCLI  # noqa: B018
        monkeypatch.undo()


def test_names() -> None:
    assert all(getattr(raylight.cli, name) is not None for name in raylight.cli.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'NoSuchName'"):
        raylight.cli.NoSuchName  # noqa: B018


def test_a_script(tmp_path: Path) -> None:
    """Model and config of ``__main__``, and nothing heavy on ``import raylight.cli``."""
    Path("script.py").write_text(
        "import sys\n"
        "import raylight.cli\n"
        "assert 'jsonargparse' not in sys.modules\n"
        "import torch, raylight as pl\n"
        "from raylight.cli import LightningCLI\n"
        "class Model(pl.LightningModule):\n"
        "    def __init__(self, part: torch.nn.Module):\n"
        "        super().__init__()\n"
        "        self.part = part\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        return self.part(batch).sum()\n"
        "    def train_dataloader(self):\n"
        "        return torch.utils.data.DataLoader(torch.ones(4, 3))\n"
        "class Part(torch.nn.Linear):\n"
        "    pass\n"
        "if __name__ == '__main__':\n"
        "    cli = LightningCLI(Model)\n"
        "    print('beside', type(cli.model.part).__module__, cli.trainer.global_step)\n"
    )
    Path("beside.py").write_text("import torch\nclass Part(torch.nn.Linear): ...\n")
    part = {"class_path": "beside.Part", "init_args": {"in_features": 3, "out_features": 1}}
    write("run.yaml", {"trainer": QUIET, "model": {"part": part}})

    done = subprocess.run(
        [sys.executable, "script.py", "fit", "--config=run.yaml", "--optimizer=SGD"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(pl.__file__).parents[1]), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert "beside beside 4" in done.stdout or "beside beside 1" in done.stdout
    assert yaml.safe_load(Path("config.yaml").read_text())["model"]["part"]["class_path"] == "beside.Part"
