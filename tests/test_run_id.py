"""A run that is submitted again: where its files are, and how it goes on. Here in this process, without Ray."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import raylight as pl
from raylight import trainer as trainer_module
from raylight.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from raylight.config.run_id import RUN_ID_VARIABLE, STORAGE_VARIABLE, run_id
from raylight.engine.interrupt import graceful_interrupt
from raylight.loggers import CSVLogger, TensorBoardLogger
from raylight.sweeps import entry
from raylight.utilities.exceptions import MisconfigurationException, SIGTERMException

Fit = Callable[..., tuple[pl.Trainer, "Model"]]


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5))
        self.seen: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(self.trainer.global_step)
        loss = self.layer(batch).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.1)


class Terminated(pl.Callback):
    """The process gets a SIGTERM after ``step``, or before the first batch of the epoch that follows it."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.heard: list[BaseException] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step and self.step % 4:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        self.heard.append(exception)


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(RUN_ID_VARIABLE, "x")
    monkeypatch.setenv(STORAGE_VARIABLE, str(tmp_path / "runs"))
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    return tmp_path / "runs"


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> Fit:
    """``fit(stopped_at=None, ckpt_path=None, **flags)``: as the first of a new process."""

    def call(stopped_at: int | None = None, ckpt_path: Any = None, **flags: Any) -> tuple[pl.Trainer, Model]:
        monkeypatch.setattr(trainer_module, "_resumable_fits", iter(range(10)))
        pl.seed_everything(1, verbose=False)
        model, stops = Model(), [] if stopped_at is None else [Terminated(stopped_at)]
        settings = {"logger": False, "enable_checkpointing": False, "max_epochs": 3, **flags}
        trainer = pl.Trainer(
            launcher="local", accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
            callbacks=[*stops, *settings.pop("callbacks", [])], log_every_n_steps=1, **settings,
        )  # fmt: skip
        loader = DataLoader(torch.randn(4, 1), batch_size=1, shuffle=True)
        if stopped_at is None:
            trainer.fit(model, loader, ckpt_path=ckpt_path)
            return trainer, model
        with pytest.raises(SIGTERMException) as ended:
            trainer.fit(model, loader, ckpt_path=ckpt_path)
        assert ended.value.code == 143
        assert [type(each) for each in stops[0].heard] == [SIGTERMException]
        return trainer, model

    return call


@pytest.mark.parametrize("step", [0, 1, 4, 6])
def test_a_stopped_fit_goes_on(fit: Fit, step: int, monkeypatch: pytest.MonkeyPatch, storage: Path) -> None:
    monkeypatch.setenv(RUN_ID_VARIABLE, "whole")
    _, whole = fit()
    monkeypatch.setenv(RUN_ID_VARIABLE, "x")
    _, part = fit(stopped_at=step)
    assert part.seen == list(range(step))
    trainer, rest = fit()
    assert rest.seen == list(range(step, 12))
    assert all(torch.equal(value, rest.state_dict()[name]) for name, value in whole.state_dict().items())
    assert trainer.default_root_dir == str(storage / "x")
    assert os.listdir() == []


def test_a_fit_that_is_over_is_loaded(fit: Fit, storage: Path) -> None:
    _, first = fit()
    trainer, again = fit()
    assert (again.seen, trainer.global_step, trainer.current_epoch) == ([], 12, 3)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    _, more = fit(max_epochs=4)
    assert more.seen == list(range(12, 16))
    assert sorted(os.listdir(storage / "x")) == ["resume-x-0-a.ckpt", "resume-x-0-b.ckpt", "resume-x-0.json"]


def test_one_that_stopped_early_is_over(fit: Fit) -> None:
    class Stops(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = True

    assert len(fit(callbacks=[Stops()])[1].seen) == 4
    assert fit(callbacks=[Stops()])[1].seen == []


def test_the_end_within_an_epoch_is_kept(fit: Fit) -> None:
    fit(max_steps=6)
    assert fit(max_steps=6)[1].seen == []
    assert fit(max_steps=8)[1].seen == [6, 7]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used")
def test_a_checkpoint_of_the_script_is_where_it_first_begins(fit: Fit, tmp_path: Path) -> None:
    keeper = ModelCheckpoint(tmp_path / "given", every_n_train_steps=2, save_top_k=-1)
    fit(enable_checkpointing=True, callbacks=[keeper], max_epochs=1)
    for file in (tmp_path / "runs/x").glob("resume-*"):
        file.unlink()
    given = str(tmp_path / "given/epoch=0-step=2.ckpt")
    assert fit(stopped_at=6, ckpt_path=given)[1].seen == [2, 3, 4, 5]
    assert fit(ckpt_path=given)[1].seen == list(range(6, 12))


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_logs_and_checkpoints_go_on(fit: Fit, storage: Path) -> None:
    flags = {"logger": True, "enable_checkpointing": True}
    fit(stopped_at=6, **flags)
    trainer, _ = fit(**flags)
    folder = storage / "x/lightning_logs"
    assert os.listdir(folder) == ["version_0"]
    assert trainer.checkpoint_callback.best_model_path == str(folder / "version_0/checkpoints/epoch=2-step=12.ckpt")
    assert os.listdir(folder / "version_0/checkpoints") == ["epoch=2-step=12.ckpt"]


def test_rows_are_added(fit: Fit, storage: Path) -> None:
    fit(stopped_at=6, logger=CSVLogger("csv"))
    fit(logger=CSVLogger("csv"))
    rows = (storage / "x/csv/lightning_logs/version_0/metrics.csv").read_text().split()
    assert rows[0] == "epoch,loss,step"
    assert [int(row.rpartition(",")[2]) for row in rows[1:]] == list(range(12))


def test_a_record_cannot_lead_elsewhere(fit: Fit, storage: Path) -> None:
    fit(stopped_at=6, logger=CSVLogger("csv"))
    record = storage / "x/resume-x-0.json"
    record.write_text(json.dumps({"versions": ["../../../out"]}))
    fit(logger=CSVLogger("csv"))
    assert sorted(os.listdir(storage / "x/csv/lightning_logs")) == ["version_0", "version_1"]
    for content in ("no JSON", "[]", '{"versions": 3}'):
        record.write_text(content)
        fit(logger=CSVLogger("csv"))


def test_where_paths_lie(storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = str(storage / "x")
    assert pl.Trainer(logger=False).default_root_dir == own
    assert pl.Trainer(logger=False, default_root_dir="a/b").default_root_dir == f"{own}/a/b"
    assert pl.Trainer(logger=False, default_root_dir=tmp_path).default_root_dir == str(tmp_path)
    assert TensorBoardLogger("tb").save_dir == f"{own}/tb"
    assert TensorBoardLogger("~/tb").save_dir == "~/tb"
    assert ModelCheckpoint("models").dirpath == os.path.realpath(f"{own}/models")
    assert ModelCheckpoint("s3://bucket/models").dirpath == "s3://bucket/models"
    assert OnExceptionCheckpoint(".").dirpath == own
    assert OnExceptionCheckpoint(tmp_path.as_uri()).ckpt_path == f"{tmp_path.as_uri()}/on_exception.ckpt"
    monkeypatch.setenv(STORAGE_VARIABLE, "s3://bucket/runs")
    monkeypatch.setenv("HOME", str(tmp_path))
    trainer = pl.Trainer()
    assert trainer.default_root_dir == "s3://bucket/runs/x"
    assert trainer.logger.save_dir == f"{tmp_path}/raylight/x"
    assert trainer.checkpoint_callback.dirpath == "s3://bucket/runs/x/checkpoints"
    monkeypatch.setenv(STORAGE_VARIABLE, f"file://{tmp_path}/runs")
    assert pl.Trainer().default_root_dir == f"{tmp_path}/runs/x"
    monkeypatch.delenv(STORAGE_VARIABLE)
    assert pl.Trainer(logger=False).default_root_dir == f"{tmp_path}/raylight/x"
    monkeypatch.delenv(RUN_ID_VARIABLE)
    assert pl.Trainer(logger=False).default_root_dir == os.getcwd()
    assert TensorBoardLogger("tb").save_dir == "tb"


def test_uris_that_are_paths(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Path("s3://bucket/models")  # which has become "s3:/bucket/models"
    assert ModelCheckpoint(given).dirpath == "s3://bucket/models"
    assert OnExceptionCheckpoint(given).ckpt_path == "s3://bucket/models/on_exception.ckpt"
    trainer = pl.Trainer(logger=False, default_root_dir=given)
    assert trainer.default_root_dir == "s3://bucket/models"
    assert trainer.checkpoint_callback.dirpath == "s3://bucket/models/checkpoints"
    assert trainer._prediction_folder(given, None) == "s3://bucket/models"
    assert entry._absolute(given) == "s3://bucket/models"
    with pytest.raises(MisconfigurationException, match="remote log directories are not supported"):
        CSVLogger(given)
    monkeypatch.delenv(RUN_ID_VARIABLE)
    assert pl.Trainer(logger=False, default_root_dir=given).default_root_dir == "s3://bucket/models"


def test_a_bad_run_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_ID_VARIABLE, "../x")
    with pytest.raises(MisconfigurationException, match="The run id '../x' must be"):
        run_id()


def test_a_handler_of_the_users_is_left_alone() -> None:
    asked: list[str] = []
    former = signal.signal(signal.SIGTERM, lambda *_: asked.append("user"))
    try:
        with graceful_interrupt(lambda: asked.append("interrupt"), lambda: asked.append("terminate")):
            os.kill(os.getpid(), signal.SIGTERM)
        assert asked == ["user"]
    finally:
        signal.signal(signal.SIGTERM, former)


def test_lines_of_a_bar(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = pl.Trainer(
        launcher="local", accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
        max_epochs=2,
    )  # fmt: skip
    trainer.fit(Model(), DataLoader(torch.randn(4, 1), batch_size=1))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("\x1b[K")]
    assert [line.split(" it/s")[0].rsplit(" ", 1)[0] for line in lines[-2:]] == [
        "\x1b[KEpoch 0/1  4/4",
        "\x1b[KEpoch 1/1  4/4",
    ]


def test_an_older_state_than_the_end_is_trained_on(fit: Fit, storage: Path) -> None:
    _, whole = fit()
    newest = max((storage / "x").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    content = bytearray(newest.read_bytes())
    content[content.index(b"/data/0") + 200] ^= 1
    newest.write_bytes(content)
    with pytest.warns(UserWarning, match="An older checkpoint is tried"):
        _, again = fit()
    assert again.seen == list(range(8, 12))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_search_is_no_part_of_the_run(storage: Path) -> None:
    trainer = pl.Trainer(launcher="local", accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=1)
    with trainer.only_with(Terminated(-1)):
        trainer.fit(Model(), DataLoader(torch.randn(4, 1), batch_size=1))
    assert not storage.exists()
