import copy
import pickle
import statistics
from argparse import Namespace
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import raylight.loggers
from raylight.loggers.base import (
    DummyExperiment,
    DummyLogger,
    Logger,
    convert_params,
    flatten_params,
    rank_zero_experiment,
    sanitize_params,
    save_hparams_to_yaml,
)
from raylight.loggers.logger import DummyLogger as DummyLoggerAtLightningsPath
from raylight.loggers.logger import merge_dicts
from raylight.utilities.exceptions import MisconfigurationException


class Color(Enum):
    RED = 1


@dataclass
class Layer:
    size: int = 3
    ndim: int = 0


class ListLogger(Logger):
    """What a user writes, with Lightning's decorators."""

    name = "list"
    version = 0

    def __init__(self):
        super().__init__()
        self.rows = []

    @property
    @rank_zero_experiment
    def experiment(self):
        return self.rows

    def log_metrics(self, metrics, step=None):
        self.experiment.append((step, metrics))

    def log_hyperparams(self, params):
        self.experiment.append(params)


def read_back(hparams, tmp_path):
    path = tmp_path / "hparams.yaml"
    save_hparams_to_yaml(str(path), hparams)
    return yaml.safe_load(path.read_text())


def test_a_logger_of_the_users_needs_only_the_abstract_methods():
    logger = ListLogger()
    logger.log_metrics({"loss": 1.0}, step=3)
    logger.log_graph(torch.nn.Linear(1, 1))
    logger.save()
    logger.finalize("success")
    assert logger.rows == [(3, {"loss": 1.0})]
    assert logger.group_separator == "/"
    assert (logger.save_dir, logger.root_dir, logger.log_dir) == (None, None, None)


def test_a_logger_without_log_metrics_cannot_be_made():
    class Incomplete(Logger):
        name = version = ""

        def log_hyperparams(self, params):
            pass

    with pytest.raises(TypeError, match="log_metrics"):
        Incomplete()


def test_finalize_saves():
    class Saving(ListLogger):
        def save(self):
            self.rows.append("saved")

    logger = Saving()
    logger.finalize("failed")
    assert logger.rows == ["saved"]


def test_rank_zero_experiment_gives_other_ranks_a_dummy(monkeypatch):
    logger = ListLogger()
    monkeypatch.setenv("RANK", "1")
    logger.log_metrics({"loss": 1.0})
    assert isinstance(logger.experiment, DummyExperiment)
    monkeypatch.setenv("RANK", "0")
    assert logger.experiment == []


def test_dummy_logger_swallows_everything():
    logger = DummyLoggerAtLightningsPath()
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.log_hyperparams({"lr": 0.1}, {"loss": 1.0})
    logger.watch("any method", of="any logger")
    logger[0].experiment.add_image("name", None)
    logger.experiment["run"] = 1
    logger.experiment["run"].append(2)
    with logger.experiment.start_run() as run:
        run.config.update({})
    assert list(logger.experiment.search_runs()) == []
    assert (logger.name, logger.version) == ("", "")


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda logger: pickle.loads(pickle.dumps(logger))])
def test_dummy_logger_can_be_copied(again):
    duplicate = again(DummyLogger())
    assert isinstance(duplicate, DummyLogger)
    duplicate.experiment.add_image("name", None)


@pytest.mark.parametrize("params", [{"size": 3, "ndim": 0}, Namespace(size=3, ndim=0), Layer()])
def test_convert_params_takes_mappings_namespaces_and_dataclasses(params):
    assert convert_params(params) == {"size": 3, "ndim": 0}


def test_convert_params_of_none_is_empty():
    assert convert_params(None) == {}


def test_convert_params_gives_a_new_dict():
    params = {"a": 1}
    convert_params(params)["b"] = 2
    assert params == {"a": 1}


def test_convert_params_refuses_what_has_no_names():
    with pytest.raises(MisconfigurationException, match="not list"):
        convert_params([1, 2])


def test_flatten_params():
    params = {"a": {"b": {5: 1}}, "n": Namespace(x=2), "d": Layer(), "l": [{"m": 3}, {"m": 4}], "p": [1, 2], "e": []}
    assert flatten_params(params) == {
        "a/b/5": 1,
        "n/x": 2,
        "d/size": 3,
        "d/ndim": 0,
        "l/0/m": 3,
        "l/1/m": 4,
        "p": [1, 2],
        "e": [],
    }


def test_sanitize_params():
    params = {
        "bool": True,
        "numpy": np.float32(0.5),
        "tensor": torch.tensor(2),
        "matrix": torch.zeros(2),
        "none": None,
        "list": [1],
        "class": torch.nn.ReLU,
    }
    assert sanitize_params(params) == {
        "bool": True,
        "numpy": 0.5,
        "tensor": 2,
        "matrix": "tensor([0., 0.])",
        "none": "None",
        "list": "[1]",
        "class": "<class 'torch.nn.modules.activation.ReLU'>",
    }


def test_hparams_are_read_back_as_plain_types(tmp_path):
    class Text(str):
        pass

    hparams = {
        "color": Color.RED,
        "colors": [Color.RED],
        "path": Path("data") / "x",
        "tuple": (1, (2.5, None)),
        "namespace": Namespace(ndim=0),
        "layer": Layer(),
        "numpy": np.float64(0.25),
        "number": torch.tensor(1.5),
        "text": Text("a"),
        "set": {1, 2},
        3: {"range": range(2)},
    }
    assert read_back(hparams, tmp_path) == {
        "color": "RED",
        "colors": ["RED"],
        "path": str(Path("data") / "x"),
        "tuple": [1, [2.5, None]],
        "namespace": {"ndim": 0},
        "layer": {"size": 3, "ndim": 0},
        "numpy": 0.25,
        "number": 1.5,
        "text": "a",
        "set": {1, 2},
        3: {"range": [0, 1]},
    }


def test_what_yaml_cannot_represent_becomes_text_with_one_warning(tmp_path):
    hparams = {"lr": 0.1, "model": {"act": torch.nn.ReLU, "depth": 2}, "dtype": torch.float32, "by_pair": {(0, 1): 5}}
    with pytest.warns(UserWarning, match="no plain type") as warnings:
        plain = read_back(hparams, tmp_path)
    assert plain == {
        "lr": 0.1,
        "model": {"act": "<class 'torch.nn.modules.activation.ReLU'>", "depth": 2},
        "dtype": "torch.float32",
        "by_pair": {"(0, 1)": 5},
    }
    (warning,) = warnings
    assert str(warning.message).endswith(": model/act, dtype, by_pair/(0, 1)")
    assert hparams["dtype"] is torch.float32


def test_hparams_that_contain_themselves(tmp_path):
    hparams = {"name": "a"}
    hparams["self"] = hparams
    plain = read_back(hparams, tmp_path)
    assert plain["name"] == "a"
    assert plain["self"] is plain


def test_merge_dicts_does_as_lightning():
    dicts = [
        {"a": 1.7, "b": 2.0, "c": 1, "d": {"d1": 1, "d3": 3}},
        {"a": 1.1, "b": 2.2, "v": 1, "d": {"d1": 2, "d2": 3}},
        {"a": 1.1, "v": 2.3, "none": None, "d": {"d3": 3, "d4": {"d5": 1}}},
    ]
    merged = merge_dicts(dicts, {"a": statistics.mean, "v": max, "d": {"d1": sum}}, min)
    assert merged == {"a": 1.3, "b": 2.0, "c": 1, "d": {"d1": 3, "d2": 3, "d3": 3, "d4": {"d5": 1}}, "v": 2.3}
    assert merge_dicts([{"a": 1.0}, {"a": 2.0}]) == {"a": 1.5}


@pytest.mark.parametrize("name", ["CometLogger", "LitLogger", "NeptuneLogger"])
def test_what_is_not_there_names_what_is(name):
    with pytest.raises(
        ImportError, match=f"no '{name}'.*: use TensorBoardLogger, CSVLogger, MLFlowLogger, WandbLogger"
    ):
        exec(f"from raylight.loggers import {name}")


def test_a_misspelled_logger_is_an_ordinary_error():
    with pytest.raises(ImportError, match="cannot import name 'CSVLoger'"):
        exec("from raylight.loggers import CSVLoger")
    assert not hasattr(raylight.loggers, "CSVLoger")
