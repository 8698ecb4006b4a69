"""The same command lines under raylight and under Lightning."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning.cli
import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader

import raylight.cli

OURS_ONLY = {
    "elastic",
    "elastic_wait",
    "num_workers", "resources_per_worker", "launcher", "resource_timeout", "idle_timeout", "max_failures",
    "shard_iterable_datasets", "snapshot_every_n_steps", "spare_workers", "hang_timeout",
}  # fmt: skip


@pytest.fixture(autouse=True)
def command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No arguments of pytest's, and no word of what is going to change in jsonargparse."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["any.py"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


class Encoder(nn.Module):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.width = width


def cli_of(side: Any) -> Any:
    return raylight.cli if side.ours else pytorch_lightning.cli


def model_of(side: Any) -> Any:
    class Net(side.Model):  # type: ignore[misc, name-defined]
        def __init__(self, width: int = 3, rate: float = 0.1, encoder=None, names=None) -> None:  # type: ignore[no-untyped-def]
            super().__init__()
            self.save_hyperparameters()
            self.encoder = encoder

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("test_loss", self.loss(batch))

        def train_dataloader(self) -> Any:
            return side.loader(2)

        test_dataloader = train_dataloader

    Net.__init__.__annotations__.update(encoder=Encoder | None, names=list[str] | None)
    return Net


def data_of(side: Any) -> Any:
    class Data(side.pl.LightningDataModule):  # type: ignore[misc, name-defined]
        def __init__(self, batch_size: int = 2) -> None:
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self) -> DataLoader[Any]:
            return side.loader(2)

        test_dataloader = train_dataloader

    return Data


QUIET = ["logger=false", "accelerator=cpu", "devices=1", "max_epochs=1", "num_sanity_val_steps=0"]
QUIET += [
    "enable_progress_bar=false",
    "enable_model_summary=false",
    "enable_checkpointing=false",
    "log_every_n_steps=1",
]


def run_cli(side: Any, *args: str, data: bool = True, **kwargs: Any) -> Any:
    flags = [f"--trainer.{flag}" for flag in QUIET] + [f"--trainer.default_root_dir={side.root}"]
    if side.ours:
        flags.append("--trainer.launcher=local")
    command, rest = (args[:1], args[1:]) if args and not args[0].startswith("-") else ((), args)
    os.chdir(side.root)
    return cli_of(side).LightningCLI(
        kwargs.pop("model", model_of(side)),
        data_of(side) if data else None,
        args=[*command, *flags, *rest],
        run=bool(command),
        **kwargs,
    )


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--model.width=7", "--model.rate=1", "--data.batch_size=5"],
        ["--model.names=[a, b]", "--model.names+=c"],
        [f"--model.encoder={__name__}.Encoder", "--model.encoder.width=9"],
        ["--optimizer=Adam", "--optimizer.lr=0.5"],
        ["--optimizer=torch.optim.SGD", "--lr_scheduler=StepLR", "--lr_scheduler.step_size=3"],
        ["--seed_everything=5"],
        ["--seed_everything=false"],
        ["--seed_everything=true"],
    ],
)
@pytest.mark.filterwarnings("ignore:.*will be overridden")
def test_what_is_parsed(same_in_both: Any, args: list[str]) -> None:
    def run(side: Any) -> Any:
        cli = run_cli(side, *args)
        text = cli.parser.dump(cli.config, skip_none=False)
        parsed = yaml.safe_load(text)
        del parsed["trainer"]
        hparams = [{**owner.hparams, "_instantiator": None} for owner in (cli.model, cli.datamodule)]
        return [parsed, hparams, sorted(vars(cli.config_init)), cli.model.encoder is None, text.partition("==")[0][:2]]

    same_in_both(run)


def test_trainer_flags_and_their_defaults(both_sides: Any, call: Any) -> None:
    def run(side: Any) -> Any:
        cli = cli_of(side).LightningCLI(model_of(side), args=[], run=False)
        return yaml.safe_load(cli.parser.dump(cli.config, skip_none=False))["trainer"]

    theirs, ours = (call(side, run) for side in both_sides)
    shared = theirs.keys() & ours.keys()
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}
    assert ours.keys() - theirs.keys() <= OURS_ONLY


@pytest.mark.parametrize("command", ["fit", "test"])
def test_files_and_outcome_of_a_sub_command(same_in_both: Any, command: str) -> None:
    def run(side: Any) -> Any:
        cli = run_cli(side, command, "--model.width=7")
        saved = yaml.safe_load(Path("config.yaml").read_text())
        del saved["trainer"]
        return [side.files(), saved, cli.trainer.global_step, cli.subcommand, list(vars(cli.config))]

    same_in_both(run)


def test_optimizers_from_the_command_line(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        scheduler = f"{cli_of(side).__name__}.ReduceLROnPlateau"
        args = [
            "--optimizer=Adam",
            "--optimizer.lr=0.5",
            f"--lr_scheduler={scheduler}",
            "--lr_scheduler.monitor=train_loss",
        ]
        with pytest.warns(UserWarning, match="`Net.configure_optimizers` will be overridden by `LightningCLI"):
            cli = run_cli(side, "fit", *args)
        (config,) = cli.trainer.lr_scheduler_configs
        optimizer = cli.trainer.optimizers[0]
        return [type(optimizer).__name__, optimizer.param_groups[0]["lr"], config.monitor, config.reduce_on_plateau]

    same_in_both(run)


@pytest.mark.parametrize(
    "args",
    [
        ["--model.width=wide"],
        ["--model.no_such=1"],
        ["--model.encoder=torch.optim.Adam"],
        ["--optimizer=NoSuch"],
        ["--trainer.max_epochs=many"],
        ["--config=missing.yaml"],
        ["--ckpt_path=x"],
        ["fly"],
        ["fit", "--data.batch_size=[1]"],
    ],
)
def test_wrong_command_lines(same_in_both: Any, args: list[str]) -> None:
    def run(side: Any) -> Any:
        with contextlib.redirect_stderr(io.StringIO()) as stderr, pytest.raises(SystemExit) as exit_:
            run_cli(side, *args)
        last = stderr.getvalue().partition("error: ")[2].splitlines()
        return [exit_.value.code, last[0].replace(side.pl.__name__, "pl")]

    same_in_both(run)


def test_config_that_exists(same_error: Any) -> None:
    def run(side: Any) -> Any:
        (side.root / "config.yaml").write_text("old: true")
        run_cli(side, "fit")

    assert "to NOT exist. Aborting to avoid overwriting results of a previous run" in str(same_error(run))


def test_several_optimizers(same_error: Any) -> None:
    def run(side: Any) -> Any:
        class Own(cli_of(side).LightningCLI):  # type: ignore[misc]
            def add_arguments_to_parser(self, parser: Any) -> None:
                parser.add_optimizer_args(torch.optim.Adam, nested_key="one")
                parser.add_optimizer_args(torch.optim.Adam, nested_key="two")

        os.chdir(side.root)
        Own(model_of(side), args=[], run=False)

    assert "expects at most one optimizer and one lr_scheduler to be 'AUTOMATIC'" in str(same_error(run))


def test_links_and_callbacks(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Own(cli_of(side).LightningCLI):  # type: ignore[misc]
            def add_arguments_to_parser(self, parser: Any) -> None:
                parser.add_lightning_class_args(side.pl.callbacks.EarlyStopping, "stopping")
                parser.set_defaults({"stopping.monitor": "train_loss", "stopping.patience": 5})
                parser.link_arguments("data.batch_size", "model.width", compute_fn=lambda size: size * 2)

        os.chdir(side.root)
        args = ["--data.batch_size=4", "--stopping.patience=7", "--trainer.accelerator=cpu", "--trainer.logger=false"]
        cli = Own(model_of(side), data_of(side), args=args, run=False)
        stopping = cli.trainer.early_stopping_callback
        return [cli.model.hparams["width"], stopping.patience, stopping.monitor, cli.config.stopping.patience]

    same_in_both(run)


def test_checkpoints_of_either_are_read_by_both(both_sides: Any, call: Any) -> None:
    encoder = json.dumps({"class_path": f"{__name__}.Encoder", "init_args": {"width": 9}})

    def save(side: Any) -> Any:
        cli = run_cli(side, "fit", "--model.width=7", f"--model.encoder={encoder}")
        cli.trainer.save_checkpoint(side.root / "cli.ckpt")
        return cli.model.hparams

    theirs, ours = both_sides
    assert dict(call(theirs, save)) == {
        **call(ours, save),
        "_instantiator": "pytorch_lightning.cli.instantiate_module",
    }
    model = model_of(ours).load_from_checkpoint(theirs.root / "cli.ckpt")
    assert (model.hparams["width"], model.encoder.width) == (7, 9)
    assert torch.load(ours.root / "cli.ckpt", weights_only=True)["hyper_parameters"]["_instantiator"] == (
        "raylight.cli.instantiate_module"
    )
