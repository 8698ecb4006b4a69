"""Files made to run code: every reader refuses them, and nothing in them happens."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import functools
import http.server
import importlib
import io
import operator
import os
import pickle
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import raylight
from raylight.checkpoint import migrate
from raylight.cli import LightningCLI
from raylight.cli.main import main
from raylight.core.saving import load_hparams_from_tags_csv, load_hparams_from_yaml
from raylight.utilities.exceptions import CheckpointError, MisconfigurationException

ACTS = (
    "compile", "exec", "import", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.mkdir", "os.remove",
    "os.rename", "subprocess.Popen", "socket.connect", "pickle.find_class", "shutil.rmtree", "ctypes.dlopen",
)  # fmt: skip
seen: list[str] | None = None


def _watch(event: str, details: tuple[Any, ...]) -> None:
    if seen is not None and event in ACTS:
        seen.append(f"{event} {details[:2]!r:.200}")


sys.addaudithook(_watch)  # there is no way to remove one


@contextmanager
def watched() -> Iterator[list[str]]:
    """What is executed, imported, started or changed on disk within the block."""
    global seen
    seen = events = []
    try:
        yield events
    finally:
        seen = None


class Call:
    """Calls ``function`` when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class Attributes:
    """A Namespace whose attributes are set by ``state``, whatever that is."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __reduce__(self) -> Any:
        return argparse.Namespace, (), self.state


def saved(value: Any, path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(1)}, "callbacks": {}, "extra": value}, path)


def with_command(path: Path, canary: Path) -> None:
    saved(Call(os.system, f"touch {canary}"), path)


def with_eval(path: Path, canary: Path) -> None:
    saved(Call(eval, f"open({str(canary)!r}, 'w')"), path)


def with_getattr(path: Path, canary: Path) -> None:
    saved(Call(getattr, "text", "upper"), path)


def with_attrgetter(path: Path, canary: Path) -> None:
    saved(Call(operator.attrgetter, "system"), path)


def with_partial(path: Path, canary: Path) -> None:
    saved(functools.partial(os.mkdir, str(canary)), path)


def with_import(path: Path, canary: Path) -> None:
    saved(Call(importlib.import_module, "antigravity"), path)


def with_object_array(path: Path, canary: Path) -> None:
    saved(np.array([Call(os.mkdir, str(canary))], dtype=object), path)


def with_slots_of_a_namespace(path: Path, canary: Path) -> None:
    saved(Attributes((None, {"__class__": dict, "values": 1})), path)


def with_called_callback(path: Path, canary: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_lightning.callbacks import ModelCheckpoint
    saved(Call(ModelCheckpoint, str(canary)), path)


def with_a_key_that_calls(path: Path, canary: Path) -> None:
    torch.save({"state_dict": {}, "callbacks": {Call(os.mkdir, str(canary)): 1}}, path)


def nested_in_a_zip(path: Path, canary: Path) -> None:
    inner = io.BytesIO()
    torch.save({"state_dict": Call(os.mkdir, str(canary))}, inner)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", inner.getvalue())


def as_torchscript(path: Path, canary: Path) -> None:
    with_command(path, canary)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/constants.pkl", pickle.dumps(()))


def as_bare_pickle(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Call(os.mkdir, str(canary))}, protocol=2))


CORPUS = [
    with_command, with_eval, with_getattr, with_attrgetter, with_partial, with_import, with_object_array,
    with_slots_of_a_namespace, with_called_callback, with_a_key_that_calls, nested_in_a_zip, as_torchscript,
    as_bare_pickle,
]  # fmt: skip


class Model(raylight.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.w * batch.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return batch

    def loader(self) -> Any:
        return [torch.ones(1)]

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = loader


def quiet_trainer() -> raylight.Trainer:
    return raylight.Trainer(
        accelerator="cpu", devices=1, launcher="local", logger=False, enable_checkpointing=False, max_epochs=1,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def through_trainer(method: str) -> Callable[[Path], Any]:
    return lambda path: getattr(quiet_trainer(), method)(Model(), ckpt_path=path)


@pytest.fixture
def make_file(tmp_path: Path) -> Iterator[Callable[[Any], Path]]:
    """Writes one of the corpus; at the end, what it would have made must not be there."""
    canary = tmp_path / "canary"

    def make(write: Callable[[Path, Path], None]) -> Path:
        write(tmp_path / "hostile.ckpt", canary)
        return tmp_path / "hostile.ckpt"

    yield make
    assert not canary.exists()
    assert "antigravity" not in sys.modules


@pytest.fixture(autouse=True, scope="module")
def _all_is_imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Reading imports parts of torch once; what is imported afterwards would be the file's doing."""
    codecs.lookup("cp437")  # of names in archives
    path = tmp_path_factory.mktemp("good") / "good.ckpt"
    saved(argparse.Namespace(a=np.ones(1), b=Path("a")), path)
    migrate.load(path)
    with pytest.raises(CheckpointError):
        migrate.load(io.BytesIO(b""))


@pytest.mark.parametrize("write", CORPUS, ids=lambda write: write.__name__)
def test_nothing_happens(write: Any, make_file: Any) -> None:
    path = make_file(write)
    stream = io.BytesIO(path.read_bytes())

    with watched() as events, pytest.raises(CheckpointError):
        migrate.load(path)
    with watched() as of_stream, pytest.raises(CheckpointError):
        migrate.load(stream)

    assert events + of_stream == []


def test_the_watch_sees_what_is_done(tmp_path: Path) -> None:
    with watched() as events:
        pickle.loads(pickle.dumps(Call(os.mkdir, str(tmp_path / "canary"))))
    assert any("os.mkdir" in event for event in events)


NAMING = [each for each in CORPUS if each not in (nested_in_a_zip, as_torchscript)]


@pytest.mark.parametrize("write", NAMING, ids=lambda write: write.__name__)
def test_name_and_remedy_are_told(write: Any, make_file: Any) -> None:
    with pytest.raises(CheckpointError, match=r"restoring .* would run code .*add_safe_globals"):
        migrate.load(make_file(write))


@pytest.mark.parametrize(
    "read",
    [
        through_trainer("fit"),
        through_trainer("validate"),
        through_trainer("test"),
        through_trainer("predict"),
        Model.load_from_checkpoint,
        raylight.LightningDataModule.load_from_checkpoint,
    ],
    ids=["fit", "validate", "test", "predict", "model", "datamodule"],
)
def test_every_reader_refuses(read: Any, make_file: Any) -> None:
    for write in (with_command, with_getattr, as_bare_pickle):
        with pytest.raises(CheckpointError, match="would run code"):
            read(make_file(write))


@pytest.mark.parametrize("command", [["inspect"], ["inspect", "--json"], ["upgrade"]])
def test_command_line_refuses(command: list[str], make_file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_file(with_command)
    content = path.read_bytes()

    assert main(["ckpt", *command, str(path)]) == 2

    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    assert "would run code" in printed.err
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == [path.name]


def test_file_behind_a_url(make_file: Any) -> None:
    """Lightning trusts what a URL gives; here it is read as any other file."""
    path = make_file(with_command)
    handler = functools.partial(_Quiet, directory=str(path.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with watched() as events, pytest.raises(CheckpointError, match="would run code"):
            Model.load_from_checkpoint(f"http://127.0.0.1:{server.server_port}/{path.name}")
        assert {event.partition(" ")[0] for event in of_actions(events)} == {"socket.connect"}
        torch.save({"state_dict": {"w": torch.zeros(1)}}, path)
        assert Model.load_from_checkpoint(f"http://127.0.0.1:{server.server_port}/{path.name}").w.item() == 0
        with pytest.raises(FileNotFoundError, match="Checkpoint file not found: http"):
            Model.load_from_checkpoint(f"http://127.0.0.1:{server.server_port}/missing.ckpt")
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.mark.parametrize("key", ["_instantiator", "_class_path"])
def test_names_in_hyperparameters_are_not_called(key: str, tmp_path: Path) -> None:
    hparams = {"_instantiator": "raylight.cli.instantiate_module", key: "antigravity.fly"}
    torch.save({"state_dict": {"w": torch.ones(1)}, "hyper_parameters": hparams}, tmp_path / "a.ckpt")

    with pytest.raises(ValueError, match="'antigravity.fly' .* was blocked to prevent arbitrary code execution"):
        Model.load_from_checkpoint(tmp_path / "a.ckpt")

    assert "antigravity" not in sys.modules


# ------------------------------------------------------------------------------------------------ beside the pickle


def pickled(canary: Path) -> bytes:
    return pickle.dumps(Call(os.mkdir, str(canary)))


def of_actions(events: list[str]) -> list[str]:
    """Without imports of installed packages, and what they compile: readers may do so on first use."""
    return [event for event in events if event.partition(" ")[0] not in ("import", "compile", "exec", "ctypes.dlopen")]


READERS = [migrate.load, Model.load_from_checkpoint, through_trainer("fit"), through_trainer("validate")]


@pytest.mark.parametrize("read", READERS)
def test_a_distributed_checkpoint_is_refused(read: Any, tmp_path: Path) -> None:
    """torch.distributed.checkpoint unpickles the file ``.metadata``."""
    folder, canary = tmp_path / "sharded.ckpt", tmp_path / "canary"
    folder.mkdir()
    (folder / ".metadata").write_bytes(pickled(canary))
    torch.save({"w": torch.ones(1)}, folder / "__0_0.distcp")
    with watched() as events, pytest.raises(CheckpointError, match="cannot be opened as a file"):
        read(folder)
    assert of_actions(events) == []
    assert not canary.exists()


@pytest.mark.parametrize("command", [["inspect"], ["upgrade"]])
def test_the_command_line_refuses_one_too(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "sharded").mkdir()
    (tmp_path / "sharded" / ".metadata").write_bytes(pickled(tmp_path / "canary"))
    with watched() as events:
        assert main(["ckpt", *command, str(tmp_path / "sharded")]) == 2
    assert of_actions(events) == []
    assert os.listdir(tmp_path) == ["sharded"]


class Shuffling(Model):
    """Stops within its second epoch, where a loader has a place."""

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.ones(4, 1), shuffle=True)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.max_steps == 6 and self.trainer.global_step == 6:
            self.trainer.save_checkpoint("within.ckpt")


def stopping(max_steps: int) -> raylight.Trainer:
    return raylight.Trainer(
        accelerator="cpu", devices=1, launcher="local", logger=False, enable_checkpointing=False, max_steps=max_steps,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


@pytest.mark.parametrize("entry", ["rng", "loaders", "position", "numpy", "python", "torch"])
def test_states_of_random_numbers_are_numbers(entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stopping(6).fit(Shuffling())
    checkpoint = torch.load("within.ckpt", weights_only=True)
    (state,) = checkpoint["raylight"]["ranks"]
    good = state["rng"]["cpu"]
    hostile = {
        "rng": pickled(tmp_path / "canary"),
        "position": good[:13] + (10**9).to_bytes(4, "little") + good[17:],  # of numpy's words
        "python": good[:29] + b"\xff" * 4 * 625 + good[29 + 4 * 625 :],
        "torch": good[:-5056] + b"\xff" * 5056,
        "numpy": None,
    }
    if entry == "loaders":
        state["loaders"] = {**state["loaders"], "started": hostile["rng"], "fetched": hostile["rng"]}
    else:
        state["rng"]["cpu"] = hostile[entry]
    torch.save(checkpoint, "hostile.ckpt")

    with watched() as events, pytest.raises(CheckpointError, match="random numbers in the checkpoint are damaged"):
        stopping(8).fit(Shuffling(), ckpt_path="hostile.ckpt")

    assert of_actions(events) == []
    assert not (tmp_path / "canary").exists()
    stopping(8).fit(Shuffling(), ckpt_path="within.ckpt")


def test_states_of_metrics_reach_nothing_else() -> None:
    from torchmetrics import SumMetric

    from raylight.worker.model_state import metric_state, set_metric_state

    metric = SumMetric()
    metric.update(2.0)
    state = {**metric_state(metric), "_update_count": 5}
    set_metric_state(metric, {**state, "compute": "text", "__class__": dict, "new": 1})
    assert metric.compute() == 2.0
    assert metric._update_count == 5
    assert not hasattr(metric, "new")


SLIPS = ["../../evil", "/tmp/evil-of-raylight", "..\\evil", "slip/../../evil", "slip//tmp/evil-of-raylight"]


@pytest.mark.parametrize("name", SLIPS)
def test_members_of_an_archive_stay_in_it(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a" / "b" / "slip.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": {"w": torch.ones(1)}, "epoch": 0, "global_step": 0}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"evil")
    before = sorted(tmp_path.rglob("*"))
    is_below = name.startswith("slip/")  # where torch writes the others; it takes no file that is elsewhere
    with watched() as events:
        for read in (migrate.load, Model.load_from_checkpoint, through_trainer("validate")):
            with contextlib.nullcontext() if is_below else pytest.raises(CheckpointError, match="cannot be read"):
                read(path)
        assert main(["ckpt", "inspect", str(path)]) == (0 if is_below else 2)
    assert of_actions(events) == []
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/evil-of-raylight").exists()


@pytest.mark.parametrize("key", ["__instantiator__", "__class__", "__reduce__", "_target_", "class_path"])
def test_keys_of_other_libraries_are_but_names(key: str, tmp_path: Path) -> None:
    hparams = {
        key: "os.system",
        "command": f"touch {tmp_path / 'canary'}",
        "init_args": {},
        "nested": {key: "os.system"},
    }
    torch.save({"state_dict": {"w": torch.ones(1)}, "hyper_parameters": hparams}, tmp_path / "a.ckpt")
    with watched() as events:
        Model.load_from_checkpoint(tmp_path / "a.ckpt")
        raylight.LightningDataModule.load_from_checkpoint(tmp_path / "a.ckpt")
    assert of_actions(events) == []
    assert os.listdir(tmp_path) == ["a.ckpt"]


TAGS = ["!!python/object/apply:os.mkdir ['{}']", "!!python/object/new:os.mkdir ['{}']", "!!python/name:os.mkdir",
        "!!python/module:antigravity", "!!python/object/apply:eval [\"open('{}', 'w')\"]"]  # fmt: skip


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("name", ["hparams.yaml", "hparams.csv"])
def test_files_of_hyperparameters(name: str, tag: str, tmp_path: Path) -> None:
    path = tmp_path / name
    text = tag.replace("{}", str(tmp_path / "canary"))
    rows = 'key,value\nw,"__import__(""os"").mkdir(""x"")"\nv,"{}"\n'
    path.write_text(f"w: {text}\n" if name.endswith("yaml") else rows)
    torch.save({"state_dict": {"w": torch.ones(1)}}, tmp_path / "a.ckpt")
    with watched() as events:
        if name.endswith("yaml"):
            with pytest.raises(MisconfigurationException, match="without running code"):
                load_hparams_from_yaml(path)
            with pytest.raises(MisconfigurationException, match="without running code"):
                Model.load_from_checkpoint(tmp_path / "a.ckpt", hparams_file=path)
        else:
            assert load_hparams_from_tags_csv(path) == {"w": '__import__("os").mkdir("x")', "v": {}}
    assert of_actions(events) == []
    assert sorted(os.listdir(tmp_path)) == sorted(["a.ckpt", name])
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("tag", TAGS)
def test_configurations_in_yaml(tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py"])
    (tmp_path / "config.yaml").write_text(f"model: {tag.replace('{}', str(tmp_path / 'canary'))}\n")
    make = functools.partial(LightningCLI, Model, run=False, seed_everything_default=False)
    make(args=[])  # imports what it needs
    with watched() as events, pytest.raises(SystemExit):
        make(args=[f"--config={tmp_path / 'config.yaml'}"])
    assert of_actions(events) == []
    assert os.listdir(tmp_path) == ["config.yaml"]
    assert "antigravity" not in sys.modules
