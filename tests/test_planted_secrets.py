"""Secrets planted in the environment and among hyperparameters are in nothing that leaves the process."""

from __future__ import annotations

import warnings
import zipfile
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import raylight as pl
from raylight.callbacks import ModelCheckpoint
from raylight.cli import LightningCLI
from raylight.cli.main import main
from raylight.config.messages import Incident, LoggerCall, Text
from raylight.loggers import CSVLogger, TensorBoardLogger
from raylight.sweeps.encoding import NotKept
from raylight.sweeps.record import FAILED, SweepRecord
from raylight.sweeps.report import SweepDisplay
from raylight.utilities import redaction
from raylight.utilities.exceptions import MisconfigurationException
from raylight.utilities.rank_zero import rank_zero_info
from raylight.utilities.secrets import REDACTED
from raylight.worker.remote_logger import RemoteLogger

VARIABLES = {
    "MY_SERVICE_TOKEN": "tok-5f0e9a77c1d2",
    "DB_PASSWORD": "pass:word 'with' quotes",
    "AWS_SECRET_ACCESS_KEY": "aws/4vQ2+planted=",
}
NAMED = {"api_key": "sk-named-0001", "password": "named-0002", "nested": "named-0003", "token": "named-0004"}
SECRETS = [*VARIABLES.values(), *NAMED.values()]
TOKEN = VARIABLES["MY_SERVICE_TOKEN"]


def leaks(folder: Path) -> list[str]:
    """Which secrets are in which files, or members of archives, below ``folder``."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        contents = {str(path.relative_to(folder)): path.read_bytes()}
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents.update({f"{path.name}:{name}": archive.read(name) for name in archive.namelist()})
        found += [
            f"{name}: {secret}"
            for name, content in contents.items()
            for secret in (*SECRETS, VARIABLES["DB_PASSWORD"].replace("'", "''"))
            if secret.encode() in content
        ]
    return found


def test_the_search_finds_them(tmp_path: Path) -> None:
    torch.save({"a": TOKEN}, tmp_path / "a.ckpt")
    (tmp_path / "b.txt").write_text(f"x{NAMED['password']}y")
    assert {leak.split(": ")[1] for leak in leaks(tmp_path)} == {TOKEN, NAMED["password"]}


@pytest.fixture(autouse=True)
def _planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(redaction, "_told", set())


@dataclass
class Database:
    host: str
    password: str


class Opaque:
    def __repr__(self) -> str:
        return f"Opaque({TOKEN})"


class Model(pl.LightningModule):
    def __init__(
        self,
        api_key: str,
        lr: float = 0.1,
        database: Any = None,
        config: dict[str, Any] | None = None,
        options: Any = None,
        url: str = "",
        opaque: Any = None,
        token: str = "none",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(1, 1)
        self.fails = False

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.fails:
            raise ValueError(f"no access with {TOKEN}")
        loss = self.layer(batch).sum()
        self.log("loss", loss)
        self.print("printing", TOKEN, {"a": VARIABLES["DB_PASSWORD"]})
        rank_zero_info(f"informing {TOKEN}")
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("text", f"text of {TOKEN}", self.global_step)
                logger.experiment.add_hparams({"api_key": NAMED["api_key"], "url": TOKEN}, {"loss": 1.0})
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.hparams.opaque is not None:
            checkpoint["note"] = {"of": f"saved with {TOKEN}", "and": Opaque()}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.ones(2, 1))


def model() -> Model:
    return Model(
        api_key=NAMED["api_key"],
        database=Database("host", NAMED["password"]),
        config={"inner": [{"client_secret": NAMED["nested"]}], "dsn": f"db://{VARIABLES['DB_PASSWORD']}@host"},
        options=Namespace(hf_token=NAMED["token"], key=VARIABLES["AWS_SECRET_ACCESS_KEY"]),
        url=f"https://{TOKEN}@host",
        opaque=Opaque(),
    )


def trainer(folder: Path, **flags: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder, max_epochs=1, accelerator="cpu", devices=1, launcher="local", log_every_n_steps=1,
        logger=[TensorBoardLogger(folder), CSVLogger(folder, name="csv")], enable_model_summary=False, **flags,
    )  # fmt: skip


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """``said()``: all that was printed, logged or warned of so far."""
    with caplog.at_level("DEBUG"), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")

        def everything() -> str:
            printed = capfd.readouterr()
            return "\n".join([printed.out, printed.err, *caplog.messages, *(str(each.message) for each in told)])

        yield everything


def test_fit(tmp_path: Path, said: Any) -> None:
    fitted = model()
    saving = ModelCheckpoint(tmp_path / "checkpoints", monitor="loss", save_last=True)
    profiler = pl.profilers.SimpleProfiler(tmp_path, "profile")
    profiled = profiler.summary
    profiler.summary = lambda: f"{profiled()} {TOKEN}"  # type: ignore[method-assign]
    fit = trainer(tmp_path, callbacks=[saving], profiler=profiler)
    fit.fit(fitted)
    fit.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)

    written = {path.suffix for path in tmp_path.rglob("*")} | {path.name for path in tmp_path.rglob("*")}
    assert {".ckpt", ".yaml", ".csv", ".txt", "hparams.yaml", "last.ckpt", "fit-profile.txt"} <= written
    assert any("tfevents" in name for name in written)
    assert leaks(tmp_path) == []
    for text in (tmp_path / "lightning_logs/version_0/hparams.yaml", tmp_path / "csv/version_0/hparams.yaml"):
        assert text.read_text().count(REDACTED) == 9
    assert fitted.hparams.api_key == NAMED["api_key"]
    assert fitted.hparams.database.password == NAMED["password"]

    heard = said()
    assert f"printing {REDACTED}" in heard
    assert f"informing {REDACTED}" in heard
    assert "in place of 'api_key', 'config.inner.client_secret', 'database.password', 'options.hf_token'" in heard
    assert [secret for secret in SECRETS if secret in heard] == []


def test_the_users_exception_is_as_it_was_and_no_file_has_it(tmp_path: Path, said: Any) -> None:
    failing = model()
    saving = ModelCheckpoint(tmp_path / "checkpoints", save_on_exception=True, every_n_train_steps=1)
    fit = trainer(tmp_path, callbacks=[saving])
    fit.fit(failing)
    failing.fails, fit.fit_loop.max_epochs = True, 2
    with pytest.raises(ValueError, match=f"^no access with {TOKEN}$"):
        fit.fit(failing)
    assert leaks(tmp_path) == []
    heard = said()
    assert [secret for secret in SECRETS if secret in heard] == []


def test_a_checkpoint_without_them_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    fit = trainer(tmp_path, fast_dev_run=True)
    with pytest.warns(UserWarning, match="Secrets are not written"):
        fit.fit(Model(NAMED["api_key"], token=NAMED["token"], url="here"))
    fit.save_checkpoint(path)  # they have been named
    with pytest.raises(MisconfigurationException, match=r"'api_key' are secrets.*load_from_checkpoint\(path, api_key="):
        Model.load_from_checkpoint(path)
    with pytest.warns(UserWarning, match="'token' are secrets, .* the defaults of `__init__` are taken"):
        loaded = Model.load_from_checkpoint(path, api_key="other")
    assert (loaded.hparams.api_key, loaded.hparams.token, loaded.hparams.url) == ("other", "none", "here")


def test_one_inside_of_an_argument_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    hparams = {"api_key": "x", "config": {"inner": {"password": REDACTED}}}
    torch.save({"state_dict": Model("x").state_dict(), "hyper_parameters": hparams}, path)
    with pytest.raises(MisconfigurationException, match=r"'config\.inner\.password' are secrets.*path, config="):
        Model.load_from_checkpoint(path)
    assert Model.load_from_checkpoint(path, config={}).hparams.config == {}


@pytest.mark.parametrize("command", [["inspect"], ["inspect", "--json"]])
def test_files_of_others_are_shown_without(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hparams = {"api_key": NAMED["api_key"], "long": "x" * 195 + TOKEN}
    torch.save({"state_dict": {}, "hyper_parameters": hparams}, tmp_path / "a.ckpt")
    assert main(["ckpt", *command, str(tmp_path / "a.ckpt")]) == 0
    shown = capsys.readouterr().out
    assert REDACTED in shown
    assert NAMED["api_key"] not in shown
    assert TOKEN[:5] not in shown


def test_an_upgraded_file_has_none(tmp_path: Path) -> None:
    source = tmp_path / "old" / "a.ckpt"
    source.parent.mkdir()
    hparams = {"api_key": NAMED["api_key"], "url": TOKEN}
    old = {"epoch": 1, "global_step": 2, "pytorch-lightning_version": "1.5.0", "hyper_parameters": hparams}
    torch.save({"state_dict": {}, **old}, source)
    with pytest.warns(UserWarning, match="Secrets are not written"):
        assert main(["ckpt", "upgrade", str(source), "--output", str(tmp_path / "new" / "a.ckpt")]) == 0
    assert (tmp_path / "new" / "a.ckpt").is_file()
    assert leaks(tmp_path / "new") == []


def test_lightning_cli(tmp_path: Path, said: Any) -> None:
    arguments = [
        "fit", f"--model.api_key={NAMED['api_key']}", f"--model.url=https://{TOKEN}@host", "--model.lr=0.5",
        f"--model.config={{client_secret: {NAMED['nested']}}}", f"--trainer.default_root_dir={tmp_path}",
        "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.launcher=local",
        "--trainer.log_every_n_steps=1",
    ]  # fmt: skip
    LightningCLI(Model, args=arguments)
    (config,) = tmp_path.rglob("config.yaml")
    assert f"api_key: {REDACTED}" in config.read_text()
    assert "lr: 0.5" in config.read_text()
    assert list(tmp_path.rglob("*.ckpt"))
    assert leaks(tmp_path) == []
    heard = said()
    assert [secret for secret in SECRETS if secret in heard] == []


def test_events() -> None:
    events: list[Any] = [Text(TOKEN), Incident(f"lost: {TOKEN}", 0, None, 1, 1.0)]
    logger = RemoteLogger(0, pl.trainer._logger_info(CSVLogger(".")), events.append)
    tensor = torch.ones(1)
    logger.experiment.add_text("text", TOKEN)
    logger.log_hyperparams({"api_key": NAMED["api_key"], "lr": 1}, step=2)
    logger.experiment.add_image("image", tensor)
    assert [secret for secret in SECRETS if secret in repr(events)] == []
    assert events[2] == LoggerCall(0, ("experiment", "add_text"), ("text", REDACTED), {})
    assert events[3] == LoggerCall(0, ("log_hyperparams",), ({"api_key": REDACTED, "lr": 1},), {"step": 2})
    assert torch.equal(events[4].args[1], tensor)


def test_the_files_of_a_sweep_and_what_it_says(tmp_path: Path, said: Any) -> None:
    record = SweepRecord(str(tmp_path), "loss", "min", {"space": {"api_key": NAMED["api_key"], "lr": 0.1}})
    trial = record.add({"api_key": NAMED["api_key"], "lr": 0.1, "url": TOKEN})
    trial.error, trial.status = f"ValueError: {TOKEN}", FAILED
    record.save()
    record.save_trial(trial)
    with SweepDisplay(record, total=1, enabled=True) as display:
        display.changed(trial)

    assert trial.params["api_key"] == NAMED["api_key"]
    assert leaks(tmp_path) == []
    heard = said()
    assert [secret for secret in SECRETS if secret in heard] == []
    loaded = SweepRecord.load(str(tmp_path)).trials[trial.name]
    assert loaded.params["lr"] == 0.1
    assert isinstance(loaded.params["api_key"], NotKept)


def test_a_sweep_is_resumed_with_them_given_again(tmp_path: Path) -> None:
    space = {"model.api_key": NAMED["api_key"], "lr": 0.1}
    record = SweepRecord(
        str(tmp_path), "loss", "min", {"model": {"$opaque": "a model"}, "datamodule": None, "space": space}
    )
    record.add(dict(space))
    with pytest.warns(UserWarning, match="in place of 'api_key'.*Give them again to `sweep.resume`"):
        record.save()
    with pytest.raises(
        MisconfigurationException, match=r"give space= again \(it is a secret.*trial_0000 cannot be run"
    ):
        pl.sweep.resume(tmp_path)
    with pytest.raises(MisconfigurationException) as raised:
        pl.sweep.resume(tmp_path, space=space)
    assert "give model= again" in str(raised.value)
    assert "secret" not in str(raised.value)
