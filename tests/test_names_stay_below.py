"""Names that come from data, of metrics, runs and experiments, make no file outside of the run's folder."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import raylight as pl
from raylight.callbacks import DeviceStatsMonitor, LearningRateMonitor, ModelCheckpoint
from raylight.checkpoint.names import below
from raylight.loggers import CSVLogger, Logger, TensorBoardLogger
from raylight.utilities.exceptions import MisconfigurationException

EVIL = [
    "../../evil",
    "../evil",
    "..",
    "/tmp/evil-of-raylight",
    "a/../../evil",
    "a\\..\\..\\evil",
    "\\evil",
    "C:\\evil",
    "nul\0evil",
]


@pytest.mark.parametrize("name", EVIL)
def test_separators_go_where_a_name_would_leave(name: str, tmp_path: Path) -> None:
    assert "/" not in below(name)
    assert (tmp_path / "run" / below(name)).resolve().parent == tmp_path / "run"


@pytest.mark.parametrize("name", ["", "val/loss", "epoch=3", "a.b..c", "...", ".hidden", "loss (%)", "名前"])
def test_other_names_are_as_they_were(name: str) -> None:
    assert below(name) == name


class Model(pl.LightningModule):
    """Logs a metric, and a dict with such a key, under each of ``names``; the scheduler is called by the last."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.layer(batch).sum()
        for number, name in enumerate(self.names):
            self.log(name, loss)
            with self.trainer.profiler.profile(name):
                for logger in self.loggers:
                    logger.log_metrics({name: 1.0}, step=number)
                    if isinstance(logger, TensorBoardLogger):
                        logger.log_metrics({f"chart {number}": {name: 1.0}}, step=number)
                        logger.experiment.add_scalars(name.replace("\0", ""), {name: 1.0}, number)
                        logger.experiment.add_hparams({name: 1.0}, {name: 1.0}, run_name=name)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
        return [optimizer], [{"scheduler": scheduler, "name": self.names[-1]}]

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.ones(2, 1))


def fit(folder: Path, model: Model, *callbacks: Any, **flags: Any) -> None:
    pl.Trainer(
        default_root_dir=folder, max_epochs=1, accelerator="cpu", devices=1, launcher="local", log_every_n_steps=1,
        callbacks=[*callbacks], enable_model_summary=False, enable_progress_bar=False, **flags,
    ).fit(model)  # fmt: skip


def outside(folder: Path, run: Path) -> list[Path]:
    """Files and folders below ``folder`` that are not in ``run``."""
    return [path for path in folder.rglob("*") if path != run and run not in path.parents and path not in run.parents]


@pytest.mark.parametrize("insert", [True, False])
def test_names_of_metrics(insert: bool, tmp_path: Path) -> None:
    run = tmp_path / "a" / "b" / "run"
    run.mkdir(parents=True)
    template = "-".join(f"{{{name}:.0f}}" for name in EVIL if ":" not in name)
    saving = ModelCheckpoint(run / "ckpt", filename=template, auto_insert_metric_name=insert, monitor="../../evil")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(
            run, Model(EVIL), saving, DeviceStatsMonitor(), LearningRateMonitor(), profiler="advanced",
            logger=[TensorBoardLogger(run), CSVLogger(run, name="csv")],
        )  # fmt: skip
    assert outside(tmp_path, run) == []
    assert not Path("/tmp/evil-of-raylight").exists()
    (saved,) = (run / "ckpt").iterdir()
    assert str(saved) == saving.best_model_path
    assert saved.name.startswith(".._.._evil=" if insert else "")
    assert "../../evil" in (run / "csv" / "version_0" / "metrics.csv").read_text()  # in a file it is but a text


def test_scripts_go_on_as_they_did(tmp_path: Path) -> None:
    run = tmp_path / "run"
    saving = ModelCheckpoint(run / ".." / "elsewhere", filename="sub/{epoch}-{val/loss:.0f}")
    fit(run, Model(["val/loss"]), saving, logger=CSVLogger(run, name=Path("group/name"), version="v/1"))  # type: ignore[arg-type]
    (saved,) = (tmp_path / "elsewhere" / "sub").rglob("*.ckpt")
    assert str(saved.relative_to(tmp_path)).startswith("elsewhere/sub/epoch=0-val/loss=")
    assert (run / "group" / "name" / "v" / "1" / "metrics.csv").is_file()


@pytest.mark.parametrize("name", [*EVIL, "s3://bucket/evil"])
@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_names_of_runs(kind: Any, name: str, tmp_path: Path) -> None:
    for arguments in ({"name": name}, {"version": name}, {"sub_dir": name}):
        if "sub_dir" in arguments and kind is CSVLogger:
            continue
        with pytest.raises(MisconfigurationException, match="would leave its folder"):
            kind(tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


class Named(Logger):
    """A logger of the user's, named by what a service answered."""

    def __init__(self, name: str, version: str) -> None:
        self._name, self._version = name, version

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._version

    def log_metrics(self, *args: Any, **kwargs: Any) -> None: ...

    log_hyperparams = log_metrics


@pytest.mark.parametrize(
    ("name", "version"), [("../../evil", "1"), ("fine", "/tmp/evil-of-raylight"), ("a\\..\\..\\b", "")]
)
def test_names_of_other_loggers(name: str, version: str, tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="Named's name and version"):
        fit(tmp_path / "run", Model(["loss"]), logger=Named(name, version))
    assert outside(tmp_path, tmp_path / "run") == []


def test_other_loggers_go_on_as_they_did(tmp_path: Path) -> None:
    fit(tmp_path, Model(["loss"]), logger=Named("team/project", "run-1"))
    assert list((tmp_path / "team" / "project" / "run-1" / "checkpoints").glob("*.ckpt"))


def test_a_resumed_ranking_deletes_nothing_elsewhere(tmp_path: Path) -> None:
    """A checkpoint says which of the best files is the worst, and is to go."""
    run, other = tmp_path / "run", tmp_path / "other.ckpt"
    other.write_bytes(b"mine")
    saving = ModelCheckpoint(run, monitor="loss", save_last=True)
    model = Model(["loss"])
    fit(run, model, saving, logger=False)
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    (state,) = (each for key, each in checkpoint["callbacks"].items() if "ModelCheckpoint" in key)
    score = torch.tensor(float("inf"))
    hostile = str(run / ".." / "other.ckpt")
    state.update(
        best_k_models={hostile: score}, kth_best_model_path=hostile, kth_value=score, best_model_path=str(other),
        last_model_path=str(other), best_model_score=score,
    )  # fmt: skip
    torch.save(checkpoint, run / "hostile.ckpt")
    again = ModelCheckpoint(run, monitor="loss", save_last=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl.Trainer(
            max_epochs=2, accelerator="cpu", devices=1, launcher="local", callbacks=[again], logger=False,
            enable_model_summary=False, enable_progress_bar=False,
        ).fit(model, ckpt_path=run / "hostile.ckpt")  # fmt: skip
    assert again.best_model_path.startswith(str(run))
    assert other.read_bytes() == b"mine"
