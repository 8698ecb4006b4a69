"""What is found about a call of ``fit`` that has not been made yet."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler, SequentialSampler, TensorDataset

import raylight as pl
from raylight.cli import script_examination
from raylight.cli.capture import Captured, capturing
from raylight.cli.script_examination import examine_call
from raylight.config.accelerators import place
from raylight.utilities.findings import Finding

from .conftest import RAYLIGHT, Python

QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 1}


class Model(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        raise AssertionError("nothing is trained")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader(samples: int = 8, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.zeros(samples, 1)), **{"batch_size": 2, **options})


@pytest.fixture(autouse=True)
def _as_the_command_line_has_it() -> Iterator[None]:
    """Warnings are shown there, and no errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def examined(model: Any, *data: Any, flags: dict[str, Any] | None = None, **named: Any) -> list[Finding]:
    """Findings about ``Trainer(**flags).fit(model, *data, **named)`` that are not ok."""
    with capturing(), pytest.raises(Captured) as captured:
        pl.Trainer(**{**QUIET, **(flags or {})}).fit(model, *data, **named)
    return [each for each in examine_call(captured.value.call) if each.level != "ok"]


def share(loaders: Any, **flags: Any) -> Finding:
    """What is told of the share of two workers in a loader for training."""
    config = pl.Trainer(**{**QUIET, "num_workers": 2, **flags}).config
    return script_examination.examine_share(config, "train", loaders, place(config))


def test_nothing_to_find() -> None:
    assert examined(Model(), loader(), flags={"num_workers": 2}) == []
    assert examined(Model(), loader()) == []


# ------------------------------------------------------------------------------------------------ model


def test_an_attribute_that_cannot_travel() -> None:
    model = Model()
    model.held = {"lock": threading.Lock()}
    (finding,) = examined(model, loader(), flags={"num_workers": 2})
    assert (finding.level, finding.subject) == ("problem", "pickling")
    assert "Model.held['lock'] (a _thread.lock) cannot be pickled" in finding.what
    assert "setup()" in finding.remedy
    (here,) = examined(model, loader())  # in this process it works
    assert here.level == "warning"


def test_several_objects_that_cannot_travel() -> None:
    model, callback = Model(), pl.Callback()
    model.lock = callback.lock = threading.Lock()
    findings = examined(model, loader(), flags={"num_workers": 2, "callbacks": callback})
    assert [each.what.partition(" cannot")[0] for each in findings] == ["The model", "The callback Callback"]


class Holding(Model):
    def __init__(self, lr: float, api_key: str, hf: dict[str, str]) -> None:
        super().__init__()
        self.save_hyperparameters()


def test_secrets() -> None:
    (finding,) = examined(Holding(0.1, api_key="k-123456", hf={"token": "t-123456"}), loader())
    assert finding.subject == "secrets"
    assert "Holding.hparams has api_key, hf.token:" in finding.what
    assert "123456" not in finding.what
    assert "save_hyperparameters(ignore=[...])" in finding.remedy


def test_a_dataset_in_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script_examination, "LARGEST", 10_000)
    model = Model()
    model.layer = torch.nn.Linear(100, 100)  # weights do not count
    model.layers = [model.layer]
    assert examined(model, loader()) == []
    model.layer.images = torch.zeros(10_000)
    (finding,) = examined(model, loader())
    assert finding.what.startswith("Model.layer.images takes more than")
    (finding,) = examined(Model(), loader(10_000))
    assert finding.what.startswith("What fit was given as train data takes more than")
    assert "setup()" in finding.remedy


class Misspelt(Model):
    def validaton_step(self, batch: Any, batch_idx: int) -> None: ...

    def on_train_epoch_ends(self) -> None: ...

    def training_step_of(self, name: str) -> None: ...  # a helper beside training_step

    def validation_epoch_end(self, outputs: Any) -> None: ...


class Hearing(pl.Callback):
    def on_epoch_begin(self) -> None: ...

    def on_train_batch_ends(self) -> None: ...


def test_hooks_that_nothing_calls() -> None:
    flags = {"callbacks": Hearing()}
    found = {each.what.partition(" ")[0]: each.remedy for each in examined(Misspelt(), loader(), flags=flags)}
    assert found == {
        "Misspelt.validaton_step": "Did you mean validation_step?",
        "Misspelt.on_train_epoch_ends": "Did you mean on_train_epoch_end?",
        "`validation_epoch_end(outputs)`": "Collect what you need in `validation_step` and use it in "
        "`on_validation_epoch_end`.",
        "Hearing.on_epoch_begin": "See dir(raylight.Callback) for those that there are.",
        "Hearing.on_train_batch_ends": "Did you mean on_train_batch_end?",
    }


def test_what_fit_would_refuse() -> None:
    (finding,) = examined(pl.LightningModule(), loader())
    assert (finding.level, finding.subject) == ("problem", "call")
    assert "No `training_step()` method defined" in finding.what
    (finding,) = examined(torch.nn.Linear(1, 1), loader())
    assert finding.what == "fit was given a Linear."


class Configuring(Model):
    def __init__(self, callbacks: Callable[[], list[pl.Callback]]) -> None:
        super().__init__()
        self.callbacks = callbacks

    def configure_callbacks(self) -> list[pl.Callback]:
        return self.callbacks()


def test_callbacks_of_the_model_that_cannot_be() -> None:
    (finding,) = examined(Configuring(lambda: [pl.callbacks.ModelCheckpoint(), pl.callbacks.ModelCheckpoint()]))
    assert (finding.level, finding.subject) == ("problem", "call")
    assert finding.what.startswith("Found more than one stateful callback of type `ModelCheckpoint`")
    empty: dict[str, list[pl.Callback]] = {}
    (finding,) = examined(Configuring(lambda: empty["mine"]))
    assert finding.what.startswith("KeyError: 'mine' (test_script_examination.py:")


# ------------------------------------------------------------------------------------------------ data


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(range(5))


class SizedStream(Stream):
    def __len__(self) -> int:
        return 5


def test_a_sampler_without_an_end() -> None:
    class Endless(Sampler[int]):
        def __iter__(self) -> Iterator[int]:
            return itertools.count()

    finding = share(loader(9, sampler=Endless()))
    assert finding.level == "problem"
    assert "use_distributed_sampler=False" in finding.remedy


def test_even_and_uneven_loaders() -> None:
    assert share(loader(8)).what == "2 batches for each of 2 workers, 4 samples in a step of all, of 8 samples"
    uneven = share(loader(9))
    assert uneven.level == "warning"
    assert "of 9 samples; 1 of these come twice in each epoch, as 2 does not divide them" in uneven.what
    assert "a number of samples that 2 divides" in uneven.remedy
    assert share(loader(1001)).level == "ok"  # too few to matter
    own = DataLoader(TensorDataset(torch.zeros(9, 1)), batch_sampler=Three(SequentialSampler(range(9)), 3, False))
    assert "of 3 batches; 1 of these come twice" in share(own).what
    assert share(loader(9), use_distributed_sampler=False).level == "ok"


class Three(BatchSampler):
    """One of the user's own."""


def test_workers_without_a_batch() -> None:
    finding = share(loader(6, batch_size=4, drop_last=True))
    assert finding.level == "problem"
    assert "leave none a batch of 4" in finding.what
    config = pl.Trainer(**QUIET, num_workers=3).config
    finding = script_examination.examine_share(config, "val", loader(4), place(config))
    assert finding.what == "It has 2 batches for 3 workers: 1 of them have nothing to do."


def test_iterable_datasets() -> None:
    finding = share(DataLoader(Stream(), batch_size=1))
    assert finding.level == "warning"
    assert "Trainer(shard_iterable_datasets=True)" in finding.remedy
    assert share(DataLoader(Stream(), batch_size=1), shard_iterable_datasets=True).level == "ok"
    assert "5 samples of SizedStream" in share(DataLoader(SizedStream()), shard_iterable_datasets=True).what
    assert "A list is not divided" in share([1, 2]).what


def test_loaders_that_no_elastic_run_can_share() -> None:
    finding = share(DataLoader(Stream()), num_workers=(1, 2))
    assert finding.level == "problem"
    assert "num_workers=(min, max) shares an epoch anew" in finding.what
    assert share(loader(), num_workers=(1, 2)).level == "ok"


def test_more_processes_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    (finding,) = examined(Model(), loader(num_workers=3), flags={"num_workers": 2})
    assert "num_workers=3 of 2 workers on a node are 6 processes; this machine has 4 cores" in finding.what
    assert examined(Model(), loader(num_workers=2), flags={"num_workers": 2}) == []


class Broken(pl.LightningDataModule):
    def setup(self, stage: str) -> None:
        self.size = {"fit": 8}[stage]

    def train_dataloader(self) -> Any:
        raise KeyError("samples")


def test_data_that_cannot_be_made() -> None:
    data = Broken()
    (finding,) = examined(Model(), datamodule=data)
    assert data.size == 8
    assert finding.level == "problem"
    assert "KeyError: 'samples' (test_script_examination.py:" in finding.what


# ------------------------------------------------------------------------------------------------ scripts

SCRIPT = """
import sys
import warnings

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class Line(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main():
    print("a word of the script's")
    warnings.warn("one of its own")
    trainer = pl.Trainer(accelerator="cpu", num_processes=2, weights_summary=None, logger=False)
    trainer.fit(Line(), DataLoader(TensorDataset(torch.zeros(9, 1)), batch_size=int(sys.argv[1])))


if __name__ == "__main__":
    main()
"""


def test_a_script_of_lightnings(python: Python, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    done = python("-c", RAYLIGHT, "doctor", "--json", "train.py", "2")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["problems"], found["warnings"]) == (0, 3)
    first, second, call, loaders = [(each["what"], each["remedy"]) for each in found["findings"]]
    assert first[0] == "`Trainer(num_processes=2)` was removed in Lightning 2.0, and still works here."
    assert first[1] == "Write `Trainer(accelerator='cpu', devices=2)`."
    assert "enable_model_summary=False" in second[1]
    assert call[0] == "fit of Line on 2 workers, in Ray"
    assert "of 9 samples; 1 of these come twice" in loaders[0]
    assert "a word of the script's" in done.stderr
    assert "one of its own" in done.stderr


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], list[Finding]]:
    """``in_this_process(source)``: findings about a script that imports nothing of Lightning's."""
    monkeypatch.setattr("raylight.utilities.aliases.install", lambda: None)  # it would stay
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])

    def examine(source: str) -> list[Finding]:
        (tmp_path / "train.py").write_text(source)
        return list(script_examination.examine_script(str(tmp_path / "train.py"), []))

    return examine


@pytest.mark.parametrize("source", ["x = 1", "raise SystemExit", "import sys; sys.exit(0)"])
def test_a_script_that_does_not_train(source: str, in_this_process: Callable[[str], list[Finding]]) -> None:
    (finding,) = in_this_process(source)
    assert (finding.level, finding.subject) == ("problem", "script")
    assert "train.py ended without a call of Trainer.fit" in finding.what


def test_a_script_that_ends_with_an_error(in_this_process: Callable[[str], list[Finding]]) -> None:
    with pytest.raises(SystemExit) as end:
        in_this_process("raise SystemExit(3)")
    assert end.value.code == 3


@pytest.mark.parametrize(
    ("source", "first", "last"),
    [
        ("def f():\n    return 1 / 0\n\nf()", 'train.py", line 4, in <module>', "ZeroDivisionError: division by zero"),
        ("x = = 1", 'train.py", line 1', "SyntaxError: invalid syntax"),
    ],
)
def test_a_script_that_raises(
    source: str,
    first: str,
    last: str,
    in_this_process: Callable[[str], list[Finding]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What Python prints in the end begins in the script."""
    with pytest.raises((ZeroDivisionError, SyntaxError)) as error:
        in_this_process(source)
    sys.excepthook(error.type, error.value, error.tb)
    lines = capsys.readouterr().err.splitlines()
    assert first in lines[lines[0].startswith("Traceback")]
    assert lines[-1] == last
