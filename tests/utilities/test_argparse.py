"""Flags on the command line and in the environment."""

from __future__ import annotations

import inspect
import warnings
from argparse import ArgumentParser, Namespace
from typing import Any, Literal

import pytest

import raylight as pl
from raylight.config.flags import TrainerConfig
from raylight.config.legacy import OLD_FLAGS
from raylight.utilities import argparse


def parse(line: str) -> Namespace:
    parser = pl.Trainer.add_argparse_args(ArgumentParser())
    return pl.Trainer.parse_argparser(parser.parse_args(line.split()))


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("--gpus 2", "gpus", 2),
        ("--gpus 0,1", "gpus", "0,1"),
        ("--gpus -1", "gpus", -1),
        ("--gpus 3,", "gpus", "3,"),
        ("--accelerator cpu", "accelerator", "cpu"),
        ("--strategy ddp", "strategy", "ddp"),
        ("--devices auto", "devices", "auto"),
        ("--max_epochs 5", "max_epochs", 5),
        ("--max_time 00:01:00:00", "max_time", "00:01:00:00"),
        ("--limit_train_batches 0.5", "limit_train_batches", 0.5),
        ("--limit_train_batches 10", "limit_train_batches", 10),
        ("--limit_train_batches 1.0", "limit_train_batches", 1.0),
        ("--val_check_interval 0.25", "val_check_interval", 0.25),
        ("--val_check_interval 1000", "val_check_interval", 1000),
        ("--val_check_interval 00:00:10:00", "val_check_interval", "00:00:10:00"),
        ("--precision 16", "precision", 16),
        ("--precision bf16-mixed", "precision", "bf16-mixed"),
        ("--fast_dev_run", "fast_dev_run", True),
        ("--fast_dev_run 3", "fast_dev_run", 3),
        ("--fast_dev_run false", "fast_dev_run", False),
        ("--deterministic warn", "deterministic", "warn"),
        ("--deterministic yes", "deterministic", True),
        ("--logger false", "logger", False),
        ("--enable_checkpointing off", "enable_checkpointing", False),
        ("--detect_anomaly", "detect_anomaly", True),
        ("--auto_scale_batch_size binsearch", "auto_scale_batch_size", "binsearch"),
        ("--auto_lr_find", "auto_lr_find", True),
        ("--track_grad_norm 2", "track_grad_norm", 2),
        ("--track_grad_norm inf", "track_grad_norm", float("inf")),
        ("--accumulate_grad_batches 6", "accumulate_grad_batches", 6),
        ("--default_root_dir /x", "default_root_dir", "/x"),
        ("--replace_sampler_ddp False", "replace_sampler_ddp", False),
    ],
)
def test_values(line: str, name: str, value: Any) -> None:
    found = getattr(parse(line), name)
    assert (type(found), found) == (type(value), value)


def test_defaults() -> None:
    args = vars(parse(""))
    defaults = pl.Trainer.default_attributes()
    assert set(args) <= {*defaults, *OLD_FLAGS}
    assert {"gpus", "max_epochs", "logger", "val_check_interval", "resume_from_checkpoint"} <= set(args)
    assert {"callbacks", *TrainerConfig.OWN}.isdisjoint(args)
    assert all(args[name] == defaults[name] for name in args if name in defaults)


def test_wrong_value(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--max_epochs many")
    assert "argument --max_epochs: invalid int value: 'many'" in capsys.readouterr().err


def test_defaults_make_a_trainer_without_notices() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = pl.Trainer.from_argparse_args(parse("--accelerator cpu"), launcher="local", logger=False)
    assert trainer.config == TrainerConfig(accelerator="cpu", launcher="local")


def test_from_argparse_args() -> None:
    parser = ArgumentParser()
    parser.add_argument("--num_workers", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=32)
    args = pl.Trainer.add_argparse_args(parser).parse_args(["--max_epochs", "3", "--replace_sampler_ddp", "false"])
    args.accelerator = "cpu"
    with pytest.warns(DeprecationWarning, match="use_distributed_sampler"):
        trainer = pl.Trainer.from_argparse_args(args, max_epochs=7, launcher="local", logger=False)
    assert trainer.max_epochs == 7
    assert trainer.config.use_distributed_sampler is False
    assert trainer.config.num_workers is None


def test_from_a_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["script.py", "--max_steps", "9", "--accelerator", "cpu"])
    parser = pl.Trainer.add_argparse_args(ArgumentParser())
    assert pl.Trainer.from_argparse_args(parser, launcher="local", logger=False).max_steps == 9


def test_own_argument_of_an_old_name_stays() -> None:
    parser = ArgumentParser()
    parser.add_argument("--gpus", type=str, default="none")
    assert pl.Trainer.add_argparse_args(parser).parse_args([]).gpus == "none"


def test_group_or_new_parser() -> None:
    parser = ArgumentParser()
    assert pl.Trainer.add_argparse_args(parser) is parser
    assert "raylight.Trainer" in parser.format_help()
    other = pl.Trainer.add_argparse_args(ArgumentParser(), use_argument_group=False)
    assert other.parse_args(["--max_epochs", "2"]).max_epochs == 2
    with pytest.raises(RuntimeError, match="Please only pass an `ArgumentParser` instance"):
        pl.Trainer.add_argparse_args(parser.add_argument_group("mine"))  # type: ignore[arg-type]


def test_deprecated_names() -> None:
    assert pl.Trainer.get_deprecated_arg_names() == list(OLD_FLAGS)


class Data(pl.LightningDataModule):
    def __init__(
        self,
        root: str,
        batch_size: int = 32,
        share: float = 0.5,
        shuffle: bool = False,
        kind: Literal["a", "b"] = "a",
        size: int | None = None,
        transform: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.given = {"root": root, "batch_size": batch_size, "share": share, "shuffle": shuffle, "size": size}


def test_datamodule() -> None:
    parser = Data.add_argparse_args(ArgumentParser())
    args = parser.parse_args(["--root", "/data", "--batch_size", "8", "--shuffle", "--size", "3", "--kind", "b"])
    assert args.kind == "b"
    assert not hasattr(args, "transform")
    data = Data.from_argparse_args(Data.parse_argparser(args), share=0.1)
    assert data.given == {"root": "/data", "batch_size": 8, "share": 0.1, "shuffle": True, "size": 3}
    with pytest.raises(SystemExit):
        parser.parse_args([])


def test_init_arguments_and_types() -> None:
    assert Data.get_init_arguments_and_types()[:6] == [
        ("root", (str,), inspect.Parameter.empty),
        ("batch_size", (int,), 32),
        ("share", (float,), 0.5),
        ("shuffle", (bool,), False),
        ("kind", (str,), "a"),
        ("size", (int, type(None)), None),
    ]


def test_flag_that_is_named_without_a_value() -> None:
    args = argparse.parse_argparser(Data, Namespace(shuffle=None, size=None, other=None))
    assert (args.shuffle, args.size, args.other) == (True, None, None)


# ------------------------------------------------------------------------------------------------ environment


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("RAYLIGHT_LAUNCHER", "local")
    monkeypatch.setenv("PL_TRAINER_ACCELERATOR", "cpu")
    monkeypatch.setenv("PL_TRAINER_LOGGER", "False")
    return monkeypatch


def test_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("PL_TRAINER_MAX_EPOCHS", "5")
    environment.setenv("PL_TRAINER_LIMIT_VAL_BATCHES", "0.25")
    environment.setenv("PL_TRAINER_ENABLE_CHECKPOINTING", "False")
    environment.setenv("PL_TRAINER_MAX_TIME", "00:00:01:00")
    environment.setenv("PL_TRAINER_MIN_EPOCHS", "")
    environment.setenv("PL_TRAINER_NOTHING", "1")
    assert vars(pl.Trainer.match_env_arguments()) == {
        "accelerator": "cpu", "logger": False, "max_epochs": 5, "limit_val_batches": 0.25,
        "enable_checkpointing": False, "max_time": "00:00:01:00",
    }  # fmt: skip
    trainer = pl.Trainer(limit_val_batches=3)
    assert (trainer.max_epochs, trainer.limit_val_batches, trainer.loggers) == (5, 3, [])
    assert trainer.checkpoint_callback is None


def test_old_name_in_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("PL_TRAINER_REPLACE_SAMPLER_DDP", "False")
    with pytest.warns(DeprecationWarning, match="use_distributed_sampler=False"):
        assert pl.Trainer().config.use_distributed_sampler is False


@pytest.mark.filterwarnings("ignore:.*gpus=2.*was removed:DeprecationWarning")
def test_the_call_says_how_many(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RAYLIGHT_LAUNCHER", "ray")
    environment.setenv("PL_TRAINER_DEVICES", "4")
    placed = {}
    for flags in ({}, {"gpus": 2}, {"num_workers": 3}, {"devices": 5}):
        config = pl.Trainer(**flags).config
        placed[next(iter(flags), "none")] = (config.devices, config.num_workers)
    assert placed == {"none": (4, None), "gpus": (2, None), "num_workers": ("auto", 3), "devices": (5, None)}


def test_environment_of_a_subclass(environment: pytest.MonkeyPatch) -> None:
    class Own(pl.Trainer):
        pass

    environment.setenv("PL_OWN_MAX_STEPS", "3")
    environment.setenv("PL_OWN_ACCELERATOR", "cpu")
    assert Own(logger=False).max_steps == 3
    assert pl.Trainer().max_steps == -1


def test_parse_env_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_DATA_BATCH_SIZE", "64")
    assert argparse.parse_env_variables(Data, "MY_%(cls_name)s_%(cls_argument)s") == Namespace(batch_size=64)


def test_positional_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="keyword arguments only"):
        pl.Trainer(True)
