"""What a trial does, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import raylight as pl
from raylight.callbacks import ModelCheckpoint
from raylight.config.messages import Report
from raylight.sweeps.recipe import Recipe
from raylight.sweeps.work import SweepWork
from raylight.tuner.gate import Gate
from raylight.tuner.study import TrialResources
from raylight.tuner.trial import TrialCall

ALONE = TrialResources(num_workers=1, per_worker={"CPU": 1.0})


def trial(params: dict[str, Any], folder: Path, epochs: int, source: str | None = None, **flags: Any) -> list[Report]:
    """Run a trial to its end; its reports, and its checkpoints as ``epoch-N.ckpt`` in ``folder``."""
    recipe = Recipe(tiny.Line, tiny.Points, trainer={"max_epochs": epochs, **tiny.FLAGS, **flags})
    work = SweepWork(recipe, recipe.targets(params), "val_loss", "min", ALONE)
    gate, staging = Gate(), folder / "staged.ckpt"
    call = TrialCall("trial", params, gate, str(folder), str(staging), source)
    reports = []
    while (report := gate.next(lambda: work(call))) is not None:
        staging.rename(folder / f"epoch-{int(report.values['epoch'])}.ckpt")
        reports.append(report)
    gate.end()
    return reports


def group(checkpoint: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(checkpoint, weights_only=True)["optimizer_states"][0]["param_groups"][0]
    return found


@pytest.mark.parametrize("gamma", [None, 0.5])
def test_new_hyperparameters_over_a_loaded_optimizer(tmp_path: Path, gamma: float | None) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    trial({"lr": 0.2, "momentum": 0.9, "gamma": gamma}, first, epochs=2)
    taken_over = {"lr": 0.1, "momentum": 0.5, "gamma": gamma}
    reports = trial(taken_over, second, epochs=4, source=str(first / "epoch-1.ckpt"))
    assert [(report.values["epoch"], report.values["reports"]) for report in reports] == [(2, 3), (3, 4)]
    decay = (1.0, 1.0) if gamma is None else (gamma**3, gamma**4)  # what the schedule has made of it so far stays
    for epoch, share in zip((2, 3), decay, strict=True):
        settings = group(second / f"epoch-{epoch}.ckpt")
        assert settings["momentum"] == 0.5
        assert settings["lr"] == pytest.approx(0.1 * share)


def test_the_same_hyperparameters_leave_everything(tmp_path: Path) -> None:
    params = {"lr": 0.2, "momentum": 0.9, "gamma": 0.5}
    whole, first, second = tmp_path / "whole", tmp_path / "first", tmp_path / "second"
    expected = trial(params, whole, epochs=4)
    trial(params, first, epochs=2)
    continued = trial(params, second, epochs=4, source=str(first / "epoch-1.ckpt"))
    assert [report.values for report in continued] == [report.values for report in expected[2:]]


def test_what_the_user_gave_a_trainer_stays(tmp_path: Path) -> None:
    class Progress(pl.callbacks.RichProgressBar):
        def on_train_start(self, *_: Any) -> None:
            raise AssertionError("bars of many trials at once are of no use")

    own = ModelCheckpoint(dirpath=tmp_path / "own", save_last=True)
    trial({"lr": 0.1}, tmp_path / "folder", epochs=1, callbacks=[own, Progress()])
    assert (tmp_path / "own" / "last.ckpt").exists()


def test_checkpoints_are_lightnings(tmp_path: Path) -> None:
    trial({"lr": 0.1}, tmp_path, epochs=1)
    lightning = pytest.importorskip("pytorch_lightning")

    class Same(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, **_: Any) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1, bias=False)

    loaded = Same.load_from_checkpoint(tmp_path / "epoch-0.ckpt", weights_only=True)
    assert torch.equal(loaded.layer.weight, tiny.Line.load_from_checkpoint(tmp_path / "epoch-0.ckpt").layer.weight)
