import copy
import pickle
import shutil
import warnings
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from raylight import LightningModule
from raylight.loggers import CSVLogger, TensorBoardLogger
from raylight.utilities.exceptions import MisconfigurationException

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from pytorch_lightning.loggers import TensorBoardLogger as LightningTensorBoardLogger


class Model(torch.nn.Linear):
    """Has what ``log_graph`` uses of a LightningModule."""

    def __init__(self, example_input_array=None):
        super().__init__(2, 1)
        self.example_input_array = example_input_array
        self.device = torch.device("cpu")
        self.transfers = []

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.transfers.append("before")
        return batch

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.transfers.append(device)
        return batch.to(device)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.transfers.append("after")
        return batch


def layout(directory):
    """Paths of all files below ``directory``; those of event files without time, host and process."""
    paths = [path.relative_to(directory) for path in Path(directory).rglob("*") if path.is_file()]
    return sorted(str(path.with_name(path.name.split(".tfevents")[0])) for path in paths)


def events(directory):
    """Everything recorded in ``directory``, sorted, times aside: several files are read in the order of their names."""
    accumulator = EventAccumulator(str(directory))
    accumulator.Reload()
    scalars = {
        tag: sorted((event.step, event.value) for event in accumulator.Scalars(tag))
        for tag in accumulator.Tags()["scalars"]
    }
    return scalars, {tag: hparams_summary(accumulator, tag) for tag in accumulator.summary_metadata if "hparams" in tag}


def hparams_summary(accumulator, tag):
    data = HParamsPluginData.FromString(accumulator.summary_metadata[tag].plugin_data.content)
    part = getattr(data, data.WhichOneof("data"))
    for time in {"time_created_secs", "start_time_secs", "end_time_secs"} & set(part.DESCRIPTOR.fields_by_name):
        part.ClearField(time)
    return str(data)


def all_events(directory):
    parents = {path.parent for path in Path(directory).rglob("events.out.*")}
    return {str(parent.relative_to(directory)): events(parent) for parent in parents}


def log_metrics(logger):
    for step in range(3):
        logger.log_metrics({"loss": 1.0 / (step + 1), "acc": torch.tensor(step), "count": 5}, step)
    logger.log_metrics({"unstepped": 2})
    logger.finalize("success")


def log_dict_values(logger):
    logger.log_metrics({"loss": {"train": 1.0, "val": torch.tensor(2.0)}}, 4)
    logger.finalize("success")


def log_hyperparams(logger):
    shared = [1, 2]
    logger.log_hyperparams(
        {"lr": 1e-5, "model": {"depth": 2, "act": None}, "layers": [{"n": 1}], "a": shared, "b": shared, "text": "é"}
    )
    logger.log_hyperparams(Namespace(lr=0.5, flag=True))
    logger.save()
    logger.log_hyperparams({"after": "the file is written"})
    logger.finalize("success")


def log_hyperparams_with_metrics(logger):
    logger.log_hyperparams({"lr": 0.5}, {"val_loss": 0.25}, step=3)
    logger.finalize("success")


def log_hyperparams_with_a_number(logger):
    logger.log_hyperparams({"lr": 0.5}, 0.25)
    logger.finalize("failed")


def log_before_and_after_finalize(logger):
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("success")
    logger.log_metrics({"loss": 2.0}, 1)
    logger.finalize("success")


def only_finalize_as_failed(logger):
    logger.finalize("failed")


CALLS = [
    log_metrics,
    log_dict_values,
    log_hyperparams,
    log_hyperparams_with_metrics,
    log_hyperparams_with_a_number,
    log_before_and_after_finalize,
    only_finalize_as_failed,
]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"name": ""},
        {"name": None, "version": "first"},
        {"version": 7, "sub_dir": "sub"},
        {"prefix": "p"},
        {"default_hp_metric": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("calls", CALLS)
def test_same_calls_leave_lightnings_files(calls, settings, tmp_path):
    lightning_dir, our_dir = tmp_path / "lightning", tmp_path / "raylight"
    calls(LightningTensorBoardLogger(lightning_dir, **settings))
    calls(TensorBoardLogger(our_dir, **settings))
    assert layout(our_dir) == layout(lightning_dir)
    assert all_events(our_dir) == all_events(lightning_dir)
    for path in lightning_dir.rglob("hparams.yaml"):
        assert (our_dir / path.relative_to(lightning_dir)).read_bytes() == path.read_bytes()


def test_hyperparams_are_shown_flat_beside_hp_metric(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.log_hyperparams({"model": {"depth": 2, "act": torch.nn.ReLU}})
    with pytest.warns(UserWarning, match="model/act"):
        logger.finalize("success")
    scalars, hparams = events(logger.log_dir)
    assert scalars == {"hp_metric": [(0, -1.0)]}
    assert 'key: "model/depth"' in hparams["_hparams_/session_start_info"]
    assert "activation.ReLU" in hparams["_hparams_/session_start_info"]
    assert 'tag: "hp_metric"' in hparams["_hparams_/experiment"]


def test_properties_are_lightnings(tmp_path):
    settings = {"name": "exp", "sub_dir": "sub"}
    lightning, ours = LightningTensorBoardLogger(tmp_path, **settings), TensorBoardLogger(tmp_path, **settings)
    for name in ("name", "version", "save_dir", "root_dir", "log_dir", "sub_dir", "group_separator"):
        assert getattr(ours, name) == getattr(lightning, name)


def test_home_and_variables_are_expanded_in_log_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EXPERIMENT", "exp")
    for number in range(2):
        logger = TensorBoardLogger("~/logs", name="$EXPERIMENT")
        logger.finalize("success")
        assert (logger.save_dir, logger.version) == ("~/logs", number)
        assert Path(logger.log_dir) == tmp_path / "logs" / "exp" / f"version_{number}"
        assert Path(logger.log_dir).is_dir()


def test_version_follows_the_highest_one_there_is(tmp_path):
    root = tmp_path / "lightning_logs"
    for name in ("version_2", "version_10", "version_11_old", "version_x", "other_40"):
        (root / name).mkdir(parents=True)
    (root / "version_50").touch()
    logger = TensorBoardLogger(tmp_path)
    assert logger.version == LightningTensorBoardLogger(tmp_path).version == 12
    (root / "version_12").mkdir()
    assert logger.version == 12
    assert TensorBoardLogger(tmp_path).version == 13


def test_a_subclass_may_say_where(tmp_path):
    class Fixed(TensorBoardLogger):
        name = "mine"
        version = "now"

    logger = Fixed(tmp_path, sub_dir="sub")
    assert logger.root_dir == str(tmp_path / "mine")
    assert logger.log_dir == str(tmp_path / "mine" / "now" / "sub")


def test_save_leaves_a_removed_directory_alone(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.log_hyperparams({"lr": 0.5})
    logger.experiment.flush()
    shutil.rmtree(logger.log_dir)
    logger.save()
    assert not Path(logger.log_dir).exists()
    logger.finalize("failed")


def test_making_a_logger_touches_nothing(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    assert Path(logger.log_dir) == tmp_path / "lightning_logs" / "version_0"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("again", [copy.deepcopy, lambda logger: pickle.loads(pickle.dumps(logger))])
def test_a_copy_goes_on_in_the_same_directory(again, tmp_path):
    logger = TensorBoardLogger(tmp_path)
    logger.log_hyperparams({"lr": 0.5})
    logger.log_metrics({"loss": 1.0}, 0)
    duplicate = again(logger)
    duplicate.log_metrics({"loss": 2.0}, 1)
    assert duplicate.experiment is not logger.experiment
    assert duplicate.log_dir == logger.log_dir
    for each in (logger, duplicate):
        each.finalize("success")
    files = sorted(Path(logger.log_dir).glob("events.out.*"))
    values = [events(file)[0].get("loss") for file in files]
    assert sorted(values) == [[(0, 1.0)], [(1, 2.0)]]
    assert duplicate.hparams == {"lr": 0.5}


@pytest.mark.parametrize("value", ["text", torch.zeros(2), None, object()], ids=str)
def test_what_is_no_number_is_refused_by_name(value, tmp_path):
    logger = TensorBoardLogger(tmp_path)
    with pytest.raises(ValueError, match="cannot record 'loss'"):
        logger.log_metrics({"loss": value}, 0)
    logger.finalize("failed")


def test_log_graph_goes_through_the_batch_transfer_hooks(tmp_path):
    model = Model(torch.zeros(1, 2))
    logger = TensorBoardLogger(tmp_path, log_graph=True)
    logger.log_graph(model)
    logger.finalize("success")
    accumulator = EventAccumulator(logger.log_dir)
    accumulator.Reload()
    assert any("Linear" in node.name or "Model" in node.name for node in accumulator.Graph().node)
    assert model.transfers == ["before", torch.device("cpu"), "after"]


def test_log_graph_takes_a_module_without_hooks(tmp_path):
    logger = TensorBoardLogger(tmp_path, log_graph=True)
    logger.log_graph(torch.nn.Linear(2, 1), torch.zeros(1, 2))
    logger.finalize("success")
    accumulator = EventAccumulator(logger.log_dir)
    accumulator.Reload()
    assert accumulator.Tags()["graph"]


def test_log_graph_takes_a_model_without_a_trainer(tmp_path):
    class Lit(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def forward(self, x):
            return self.layer(x)

    model, logger = Lit(), TensorBoardLogger(tmp_path, log_graph=True)
    logger.log_graph(model, torch.zeros(1, 2))
    logger.finalize("success")
    accumulator = EventAccumulator(logger.log_dir)
    accumulator.Reload()
    assert accumulator.Tags()["graph"]
    with pytest.raises(RuntimeError, match="not attached"):
        model.trainer  # noqa: B018


def test_log_graph_does_nothing_unless_asked_for(tmp_path):
    TensorBoardLogger(tmp_path).log_graph(Model(torch.zeros(1, 2)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("example", "message"), [(None, "example_input_array"), ({"x": 1}, "can't be traced by TensorBoard")]
)
def test_log_graph_warns_without_a_usable_input(example, message, tmp_path):
    with pytest.warns(UserWarning, match=message):
        TensorBoardLogger(tmp_path, log_graph=True).log_graph(Model(example))
    assert list(tmp_path.iterdir()) == []


def test_writer_arguments_reach_the_summary_writer(tmp_path):
    logger = TensorBoardLogger(tmp_path, filename_suffix=".mine", max_queue=3)
    assert logger.experiment.max_queue == 3
    logger.finalize("success")
    assert len(list(Path(logger.log_dir).glob("events.out.*.mine"))) == 1


def test_unknown_arguments_are_refused_at_once(tmp_path):
    with pytest.raises(MisconfigurationException, match="no argument flush_seconds, log_dirs"):
        TensorBoardLogger(tmp_path, flush_seconds=1, log_dirs="x")


@pytest.mark.parametrize("logger_class", [TensorBoardLogger, CSVLogger])
@pytest.mark.parametrize("save_dir", ["s3://bucket/logs", "gs://x"])
def test_remote_directories_are_refused(logger_class, save_dir):
    with pytest.raises(MisconfigurationException, match="not supported yet.*local"):
        logger_class(save_dir)


def test_loggers_that_share_a_directory_take_turns(tmp_path):
    tensorboard, csv = TensorBoardLogger(tmp_path), CSVLogger(tmp_path)
    tensorboard.save()
    csv.save()
    tensorboard.finalize("success")
    assert (tensorboard.version, csv.version) == (0, 1)
