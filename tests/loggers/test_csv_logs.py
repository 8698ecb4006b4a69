import copy
import pickle
import warnings
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from raylight.loggers import CSVLogger
from raylight.utilities.exceptions import MisconfigurationException

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from pytorch_lightning.loggers import CSVLogger as LightningCSVLogger


def files_of(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in Path(directory).rglob("*") if path.is_file()
    }


def log_columns_that_grow(logger):
    logger.log_metrics({"loss": torch.tensor(0.5), "acc": 1}, step=0)
    logger.log_metrics({"loss": 0.25}, step=1)
    logger.save()
    logger.log_metrics({"a, quoted": "x", "loss": float("nan")}, step=2)
    logger.finalize("success")


def log_without_steps(logger):
    for value in range(3):
        logger.log_metrics({"loss": value})
    logger.save()
    logger.log_metrics({"loss": 3})
    logger.finalize("success")


def log_hyperparams_twice(logger):
    shared = [1, 2]
    logger.log_hyperparams({"z": 1e-5, "a": {"b": [1, "x", None, True], "c": {}}, "text": "é: yes", "one": shared})
    logger.log_hyperparams(Namespace(z=2, other=shared, name="no"))
    logger.finalize("success")


def log_empty_hyperparams(logger):
    logger.log_hyperparams({})


def only_save(logger):
    logger.save()


def only_finalize(logger):
    logger.finalize("success")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"name": None},
        {"name": "exp", "version": 7},
        {"version": "first"},
        {"prefix": "p"},
        {"flush_logs_every_n_steps": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "calls",
    [
        log_columns_that_grow,
        log_without_steps,
        log_hyperparams_twice,
        log_empty_hyperparams,
        only_save,
        only_finalize,
    ],
)
def test_same_calls_leave_lightnings_files(calls, settings, tmp_path):
    calls(LightningCSVLogger(tmp_path / "lightning", **settings))
    calls(CSVLogger(tmp_path / "raylight", **settings))
    assert files_of(tmp_path / "raylight") == files_of(tmp_path / "lightning")


def test_properties_are_lightnings(tmp_path):
    lightning, ours = LightningCSVLogger(tmp_path, name="exp"), CSVLogger(tmp_path, name="exp")
    for name in ("name", "version", "save_dir", "root_dir", "log_dir", "group_separator"):
        assert getattr(ours, name) == getattr(lightning, name)
    assert Path(ours.experiment.metrics_file_path) == tmp_path / "exp" / "version_0" / "metrics.csv"


def test_same_rows_are_appended_not_rewritten(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.save()
    inode = Path(logger.experiment.metrics_file_path).stat().st_ino
    logger.log_metrics({"loss": 2.0}, step=1)
    logger.save()
    assert Path(logger.experiment.metrics_file_path).stat().st_ino == inode
    logger.log_metrics({"acc": 2.0}, step=2)
    logger.save()
    assert Path(logger.experiment.metrics_file_path).read_text().splitlines() == [
        "acc,loss,step",
        ",1.0,0",
        ",2.0,1",
        "2.0,,2",
    ]
    assert [path.name for path in Path(logger.log_dir).iterdir()] == ["metrics.csv"]


def test_unsaved_rows_are_flushed_every_n_steps(tmp_path):
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=2)
    logger.log_metrics({"loss": 1.0}, step=0)
    assert not Path(logger.experiment.metrics_file_path).exists()
    logger.log_metrics({"loss": 2.0}, step=1)
    assert Path(logger.experiment.metrics_file_path).read_text().splitlines() == ["loss,step", "1.0,0", "2.0,1"]
    assert logger.experiment.metrics == []


def test_an_old_metrics_file_is_deleted_with_a_warning(tmp_path):
    first = CSVLogger(tmp_path, version=0)
    first.log_metrics({"old": 1.0}, step=0)
    first.save()
    second = CSVLogger(tmp_path, version=0)
    with pytest.warns(UserWarning, match="Experiment logs directory .* exists and is not empty"):
        second.log_metrics({"new": 2.0}, step=5)
    second.save()
    assert Path(second.experiment.metrics_file_path).read_text().splitlines() == ["new,step", "2.0,5"]


def test_a_directory_with_other_files_gives_a_warning(tmp_path):
    (tmp_path / "version_0").mkdir()
    (tmp_path / "version_0" / "notes").touch()
    with pytest.warns(UserWarning, match="Experiment logs directory .* exists and is not empty"):
        CSVLogger(tmp_path, name=None, version=0).log_metrics({"loss": 1.0}, 0)
    assert (tmp_path / "version_0" / "notes").exists()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda logger: pickle.loads(pickle.dumps(logger))])
def test_a_copy_goes_on_in_the_same_file(again, tmp_path):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.save()
    logger.log_metrics({"loss": 2.0}, step=1)
    duplicate = again(logger)
    logger.save()
    duplicate.log_metrics({"loss": 3.0}, step=2)
    duplicate.save()
    assert duplicate.log_dir == logger.log_dir
    assert Path(logger.experiment.metrics_file_path).read_text().splitlines() == [
        "loss,step",
        "1.0,0",
        "2.0,1",
        "3.0,2",
    ]


def test_a_flush_interval_below_one_is_refused(tmp_path):
    with pytest.raises(MisconfigurationException, match="at least 1"):
        CSVLogger(tmp_path, flush_logs_every_n_steps=0)
