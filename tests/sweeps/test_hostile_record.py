"""The folder of a sweep that somebody else has written: resuming it runs nothing, and touches nothing elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import tune  # noqa: F401  before anything is watched

import raylight
from raylight.sweeps.encoding import decode, encode, foreign_maker
from raylight.sweeps.record import SweepRecord
from raylight.utilities.exceptions import MisconfigurationException

_watching: list[list[str]] = []
ACTS = (
    "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.mkdir", "os.rename", "os.remove",
    "shutil.rmtree", "pickle.find_class", "socket.connect", "webbrowser.open",
)  # fmt: skip


def _note(event: str, details: Any) -> None:
    if _watching and event in ACTS:
        _watching[-1].append(f"{event} {details!r:.100}")


sys.addaudithook(_note)


class Model(raylight.LightningModule):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()

    @staticmethod
    def make() -> Model:
        return Model()


def make_model() -> Model:
    return Model()


ASKED = {
    "model": Model, "space": {"lr": 0.1}, "datamodule": None, "train_dataloaders": None, "val_dataloaders": None,
    "trainer": {}, "metric": "loss", "mode": "min", "num_samples": 1, "scheduler": None, "search": "random",
    "workers_per_trial": 1, "resources_per_worker": None, "max_concurrent": None, "grace_period": 1,
    "reduction_factor": 3, "max_reports": None, "seed": None, "resource_timeout": 0.0, "verbose": False,
}  # fmt: skip
Change = Callable[[dict[str, Any], dict[str, Any]], None]


@pytest.fixture
def resume(tmp_path: Path) -> Iterator[Callable[[Change], str]]:
    """``resume(change)``: how a sweep is refused whose two files ``change`` has changed; nothing else may happen."""
    folder = tmp_path / "sweeps" / "sweep"
    record = SweepRecord(str(folder), "loss", "min", {name: encode(value) for name, value in ASKED.items()})
    trial = record.add({"lr": 0.1})
    trial.reports.append({"loss": 1.0, "step": 1})
    trial.tell_of_checkpoint("trial_0000/checkpoint_0/trial.ckpt", "loss", "min")
    record.save()
    record.save_trial(trial)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "trial.ckpt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    modules = set(sys.modules)

    def resume(change: Change) -> str:
        files = folder / "sweep.json", folder / "trial_0000" / "trial.json"
        sweep, one = (json.loads(file.read_text()) for file in files)
        change(sweep, one)
        for file, content in zip(files, (sweep, one), strict=True):
            file.write_text(json.dumps(content))
        _watching.append([])
        try:
            with pytest.raises(MisconfigurationException) as raised:
                raylight.sweep.resume(folder)
        finally:
            events = _watching.pop()
        assert events == []
        return str(raised.value)

    yield resume
    assert sorted(tmp_path.rglob("*")) == before
    assert not {"antigravity", "this"} & (set(sys.modules) - modules)


@pytest.mark.parametrize(
    "reference",
    [
        "os:system", "subprocess:run", "builtins:exec", "antigravity:fly", "this:s", "torch.hub:os.system",
        "torch.serialization:os.system", "ray.cloudpickle:loads", "pickle:loads",
        "raylight.sweeps.record:shutil.rmtree",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["model", "datamodule", "space", "trainer"])
def test_names(reference: str, place: str, resume: Any) -> None:
    for value in ({"$name": reference}, {"$partial": [{"$name": reference}, ["touch evil"], {}]}):

        def change(sweep: dict[str, Any], trial: dict[str, Any], value: Any = value) -> None:
            sweep["asked"][place] = {"lr": value} if place in ("space", "trainer") else value

        assert f"give {place}= again" in resume(change)


@pytest.mark.parametrize("reference", ["torch.hub:load", "torch.serialization:load", "raylight.cli.run:main"])
@pytest.mark.parametrize("place", ["model", "datamodule"])
def test_functions_that_make_something_else(reference: str, place: str, resume: Any) -> None:
    """They are installed, and may well be an argument; but the maker would be called."""
    import raylight.cli.run  # noqa: F401

    for value in ({"$name": reference}, {"$partial": [{"$name": reference}, ["somebody/evil", "evil"], {}]}):
        said = resume(lambda sweep, trial, value=value: sweep["asked"].update({place: value}))
        assert f"give {place}= again" in said
        assert "a function of your own" in said


def test_makers_of_the_user() -> None:
    from raylight.demos.boring_classes import BoringModel

    for maker in (Model, BoringModel, make_model, Model.make):
        decoded = decode(json.loads(json.dumps(encode(maker))))
        assert decoded is maker
        assert foreign_maker(decoded, raylight.LightningModule) is None


@pytest.mark.parametrize(
    "name", ["../../../mine", "/tmp/mine", "..", "a/../../mine", "a\\..\\..\\mine", ".", "a/b", ""]
)
def test_names_of_trials(name: str, resume: Any) -> None:
    assert "record of the sweep was changed" in resume(
        lambda sweep, trial: sweep["planned"].update({name: {"lr": 0.1}})
    )


def test_a_trial_of_another_name(resume: Any) -> None:
    assert "is of a trial '../../mine'" in resume(lambda sweep, trial: trial.update(name="../../mine"))


@pytest.mark.parametrize(
    "path",
    [
        "../../mine/trial.ckpt", "/mine/x/trial.ckpt", "trial_0000/../../../mine/trial.ckpt", "trial.ckpt", "..",
        "trial_0000/../trial.ckpt", "./a/trial.ckpt",
    ],
)  # fmt: skip
@pytest.mark.parametrize("point", ["best", "last"])
def test_paths_of_checkpoints(point: str, path: str, resume: Any) -> None:
    """They are copied, and their folders deleted."""
    assert "record of the sweep was changed" in resume(lambda sweep, trial: trial[point].update(checkpoint=path))
