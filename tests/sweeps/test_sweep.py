"""Whole sweeps on the session's cluster."""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
from ray import tune

import raylight as pl
from raylight.sweeps.search import draw
from raylight.utilities.exceptions import MetricNotLoggedError, MisconfigurationException, ResourceError

pytestmark = pytest.mark.ray
Sweep = Callable[..., pl.SweepResult]


def trained_alone(epochs: int, **arguments: Any) -> Any:
    trainer = pl.Trainer(
        **tiny.FLAGS, launcher="local", max_epochs=epochs, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    model = tiny.Line(**arguments)
    trainer.fit(model, datamodule=tiny.Points())
    return model, trainer


def test_trials_are_what_a_trainer_would_have_done(tiny_sweep: Sweep, nothing_held: Any) -> None:
    result = tiny_sweep({"model.lr": tune.grid_search([0.01, 0.1, 0.3])}, num_samples=1, name="one")
    assert [trial.status for trial in result.trials] == ["finished"] * 3
    for trial in result.trials:
        model, trainer = trained_alone(2, lr=trial.params["model.lr"])
        assert [report["epoch"] for report in trial.reports] == [0, 1]
        assert [report["step"] for report in trial.reports] == [4, 8]
        assert trial.reports[-1]["val_loss"] == trainer.callback_metrics["val_loss"]
        assert trial.reports[-1]["train_loss"] == trainer.callback_metrics["train_loss"]
    assert result.best_params == {"model.lr": 0.3}
    assert torch.equal(result.best_model().layer.weight, trained_alone(2, lr=0.3)[0].layer.weight)
    frame = result.dataframe()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame["model.lr"]) == [0.01, 0.1, 0.3]
    assert frame["val_loss"].idxmin() == 2
    nothing_held()


def test_a_secret_of_the_space_is_in_no_file(tiny_sweep: Sweep, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Secrets are not written"):
        result = tiny_sweep(
            {"lr": tune.grid_search([0.1]), "token": tiny.TOKEN},
            model=tiny.Guarded, num_samples=1, name="guarded", trainer={"max_epochs": 1, **tiny.FLAGS},
        )  # fmt: skip
    assert [trial.status for trial in result.trials] == ["finished"]
    files = [file for file in Path(result.path).rglob("*") if file.is_file()]
    assert any(file.name.startswith("experiment_state") for file in files)
    assert [file for file in files if tiny.TOKEN.encode() in file.read_bytes()] == []


@pytest.mark.slow
def test_winner_goes_on_as_if_it_had_never_stopped(tiny_sweep: Sweep) -> None:
    result = tiny_sweep({"lr": tune.grid_search([0.01, 0.1]), "momentum": 0.9}, num_samples=1)
    trainer = result.best_trainer(max_epochs=4, launcher="local", enable_progress_bar=False, enable_model_summary=False)
    model = result.best_model()
    trainer.fit(model, datamodule=result.best_datamodule())
    alone, other = trained_alone(4, lr=0.1, momentum=0.9)
    assert (trainer.current_epoch, trainer.global_step) == (other.current_epoch, other.global_step) == (4, 16)
    assert torch.equal(model.layer.weight, alone.layer.weight)


@pytest.mark.slow
def test_two_workers_per_trial_and_more_trials_than_room(tiny_sweep: Sweep, nothing_held: Any, tmp_path: Path) -> None:
    rates = [0.01 * step for step in range(1, 21)]
    result = tiny_sweep(
        {"lr": tune.grid_search(rates)}, num_samples=1, workers_per_trial=2, trainer={"max_epochs": 1, **tiny.FLAGS}
    )
    assert [trial.status for trial in result.trials] == ["finished"] * 20
    assert {trial.reports[-1]["step"] for trial in result.trials} == {2}  # each worker has half of the data
    assert result.best_params == {"lr": rates[-1]}
    assert len(list(tmp_path.rglob("*.ckpt"))) == 20
    nothing_held()


@pytest.mark.slow
def test_a_warm_trial_starts_in_half_a_second(tiny_sweep: Sweep) -> None:
    class Stamping(tiny.Line):
        def stamp(self, what: str) -> None:
            with open(f"{os.getpid()}.stamps", "a") as file:
                file.write(f"{what} {time.time()}\n")

        def on_train_start(self) -> None:
            self.stamp("start")

        def on_fit_end(self) -> None:
            self.stamp("end")

    tiny_sweep({"lr": tune.uniform(0, 0.1)}, model=Stamping, num_samples=12)
    processes = list(Path.cwd().glob("*.stamps"))
    assert len(processes) <= 2
    gaps = []
    for stamps in processes:
        lines = [line.split() for line in stamps.read_text().splitlines()]
        assert [what for what, _ in lines] == ["start", "end"] * (len(lines) // 2)
        moments = [float(moment) for _, moment in lines]
        gaps += [start - end for end, start in zip(moments[1::2], moments[2::2], strict=False)]
    assert len(gaps) >= 10
    assert statistics.median(gaps) < 0.5


@pytest.mark.slow
def test_best_and_last_checkpoints_are_kept(tiny_sweep: Sweep, tmp_path: Path) -> None:
    class Worsening(tiny.Line):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", float(abs(self.current_epoch - 1)))

    result = tiny_sweep(
        {"lr": tune.choice([0.1])}, model=Worsening, num_samples=2, trainer={"max_epochs": 4, **tiny.FLAGS}
    )
    for trial in result.trials:
        assert trial.best is not None
        assert trial.last is not None
        assert (trial.best.report, trial.last.report) == (1, 3)
        files = sorted((Path(result.path) / trial.name).rglob("*.ckpt"))
        assert files == sorted(Path(result.path) / point.checkpoint for point in (trial.best, trial.last))
        steps = [torch.load(file, weights_only=True)["global_step"] for file in files]
        assert sorted(steps) == [8, 16]


@pytest.mark.slow
def test_successive_halving_ends_poor_trials(tiny_sweep: Sweep) -> None:
    rates = [0.3, 0.2, 1e-3, 1e-4, 1e-5, 1e-6]
    result = tiny_sweep(
        {"lr": tune.grid_search(rates)}, num_samples=1, scheduler="asha", reduction_factor=2, max_concurrent=1,
        trainer={"max_epochs": 4, **tiny.FLAGS},
    )  # fmt: skip
    counts = [len(trial.reports) for trial in result.trials]
    assert counts[0] == 4
    assert counts[2:] == [1, 1, 1, 1]
    assert [trial.status for trial in result.trials][2:] == ["stopped"] * 4


@pytest.mark.slow
def test_population_takes_over_weights_with_new_parameters(tiny_sweep: Sweep) -> None:
    space, flags = {"lr": tune.loguniform(1e-6, 0.2)}, {"max_epochs": 6, **tiny.FLAGS}
    result = tiny_sweep(space, num_samples=4, scheduler="pbt", max_concurrent=None, trainer=flags)
    drawn = {params["lr"] for params in draw(space, 4, seed=0)}
    # One that begins when others are done takes over from a complete one, and has nothing left to do.
    trained = [trial for trial in result.trials if trial.last is not None]
    assert len(trained) >= 3
    assert [trial.reports[-1]["reports"] for trial in trained] == [6.0] * len(trained)
    assert {trial.params["lr"] for trial in trained} - drawn  # some have changed
    for trial in trained:
        assert trial.last is not None
        checkpoint = torch.load(Path(result.path) / trial.last.checkpoint, weights_only=True)
        assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == trial.last.params["lr"]
        assert len(list((Path(result.path) / trial.name).rglob("*.ckpt"))) <= 2  # the best and the last


@pytest.mark.slow
def test_hyperband_pauses_and_goes_on(tiny_sweep: Sweep) -> None:
    rates = [0.3, 0.1, 1e-2, 1e-6]
    result = tiny_sweep(
        {"lr": tune.grid_search(rates)},
        num_samples=1,
        scheduler="hyperband",
        max_concurrent=None,
        trainer={"max_epochs": 3, **tiny.FLAGS},
    )
    longest = max(result.trials, key=lambda trial: len(trial.reports))
    expected = trained_alone(3, lr=longest.params["lr"])[1].callback_metrics["val_loss"]
    assert len(longest.reports) == 3
    assert longest.reports[-1]["val_loss"] == expected
    assert any(len(trial.reports) < 3 for trial in result.trials)


@pytest.mark.slow
def test_failed_trials_beside_others(tiny_sweep: Sweep) -> None:
    class Fragile(tiny.Line):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.hparams["lr"] > 1:
                raise ZeroDivisionError("much too fast")
            return super().training_step(batch, batch_idx)

    result = tiny_sweep({"lr": tune.grid_search([0.1, 2.0, 0.2])}, model=Fragile, num_samples=1)
    assert [trial.status for trial in result.trials] == ["finished", "failed", "finished"]
    assert result.failed == {"trial_0001": "ZeroDivisionError: much too fast"}
    assert result.best_params == {"lr": 0.2}


@pytest.mark.slow
def test_all_fail_the_first_error_is_raised(tiny_sweep: Sweep) -> None:
    class Broken(tiny.Line):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise ZeroDivisionError("much too fast")

    with pytest.raises(ZeroDivisionError, match="much too fast") as caught:
        tiny_sweep({"lr": tune.uniform(0, 1)}, model=Broken, num_samples=3)
    assert "training_step" in str(caught.value.__cause__)


@pytest.mark.slow
def test_a_process_that_dies_is_a_failed_trial(tiny_sweep: Sweep) -> None:
    class Deadly(tiny.Line):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            import os
            import signal

            if self.hparams["lr"] > 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().training_step(batch, batch_idx)

    result = tiny_sweep({"lr": tune.grid_search([2.0, 0.1])}, model=Deadly, num_samples=1)
    assert [trial.status for trial in result.trials] == ["failed", "finished"]
    assert "The process of trial_0000 is gone" in result.failed["trial_0000"]


@pytest.mark.slow
def test_a_metric_that_nobody_logs(tiny_sweep: Sweep) -> None:
    with pytest.raises(MetricNotLoggedError, match=r"'val_los' was not logged \(did you mean 'val_loss'\?\)"):
        tiny_sweep({"lr": tune.uniform(0, 1)}, metric="val_los", num_samples=50)


@pytest.mark.slow
def test_a_metric_of_training_is_reported_at_the_end_of_its_epoch(tiny_sweep: Sweep) -> None:
    result = tiny_sweep({"lr": 0.1}, metric="train_loss", num_samples=1)
    expected = trained_alone(2, lr=0.1)[1].callback_metrics["train_loss"]
    assert result.trials[0].reports[-1]["train_loss"] == expected


def test_more_workers_than_the_cluster_has(tiny_sweep: Sweep) -> None:
    with pytest.raises(ResourceError, match=r"3 workers with 1 CPU each, but .* with 2 CPU in all, have room for 2"):
        tiny_sweep({"lr": tune.uniform(0, 1)}, workers_per_trial=3)
    with pytest.raises(ResourceError, match=r"1 workers with 3 CPU each, .* have room for 0"):
        tiny_sweep({"lr": tune.uniform(0, 1)}, resources_per_worker={"CPU": 3})
    assert not Path("raylight_sweeps").exists()


def test_bad_input(tiny_sweep: Sweep) -> None:
    def refuses(error: type[Exception], match: str, space: Any = None, **arguments: Any) -> None:
        with pytest.raises(error, match=match):
            tiny_sweep({"lr": tune.uniform(0, 1)} if space is None else space, **arguments)

    refuses(MisconfigurationException, "The space is empty", {})
    refuses(MisconfigurationException, r"'model.rate': the model takes no argument 'rate'", {"model.rate": 1})
    refuses(
        MisconfigurationException, r"'max_epoch' is no argument .* \(did you mean 'max_epochs'\?\)", {"max_epoch": 1}
    )
    refuses(MisconfigurationException, "mode='least' must be 'min' or 'max'", mode="least")
    refuses(MisconfigurationException, "a sweep sets devices itself, by workers_per_trial=", trainer={"devices": 2})
    refuses(MisconfigurationException, "`max_epochs` must be a non-negative integer", trainer={"max_epochs": -3})
    refuses(MisconfigurationException, "scheduler='ashe' must be one of 'asha', 'pbt'", scheduler="ashe")
    refuses(MisconfigurationException, "search='grid' must be \"random\"", search="grid")
    refuses(MisconfigurationException, "pauses trials to compare", scheduler="pbt", max_concurrent=1)
    refuses(MisconfigurationException, "grace_period=2 has no effect with scheduler=None", grace_period=2)
    refuses(MisconfigurationException, "reduction_factor=2 has no effect", scheduler="pbt", reduction_factor=2)
    refuses(TypeError, r"model=3 must be a LightningModule, its class, or a function", model=3)
    refuses(MisconfigurationException, "give its class, not an object", {"model.lr": 1}, model=tiny.Line())
    lock = __import__("threading").Lock()
    refuses(pl.utilities.exceptions.UnpicklableError, "cannot be pickled", model=lambda lr: (lock, lr))
    tiny_sweep({"lr": 0.1}, num_samples=1, name="taken")
    refuses(MisconfigurationException, r"There is a sweep in .*resume", name="taken")


def test_state_is_json_and_over_is_over(tiny_sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    result = tiny_sweep({"lr": tune.loguniform(0.01, 0.1)}, num_samples=2, name="done")
    state = json.loads((Path(result.path) / "sweep.json").read_text())
    assert state["asked"]["space"] == {"lr": {"$distribution": "loguniform(0.01, 0.1)"}}
    assert json.loads((Path(result.path) / "trial_0001" / "trial.json").read_text())["status"] == "finished"
    with pytest.raises(MisconfigurationException, match="mode cannot change"):
        pl.sweep.resume(result.path, mode="max")
    with pytest.raises(TypeError, match="unexpected arguments speed"):
        pl.sweep.resume(result.path, speed=3)
    before = [trial.reports for trial in result.trials]
    more = pl.sweep.resume(result.path, model=tiny.Line, datamodule=tiny.Points, num_samples=3)
    assert [trial.status for trial in more.trials] == ["finished"] * 3
    assert [trial.reports for trial in more.trials][:2] == before
    result = more
    monkeypatch.setattr("raylight.sweeps.entry.Study", None)  # nothing may be run
    again = pl.sweep.resume(result.path, model=tiny.Line, datamodule=tiny.Points)
    assert again.best_params == result.best_params
    assert torch.equal(again.best_model().layer.weight, result.best_model().layer.weight)


@pytest.mark.slow
def test_a_search_for_a_batch_size_within_a_trial(tiny_sweep: Sweep, tmp_path: Path) -> None:
    result = tiny_sweep(
        {"lr": 0.1},
        num_samples=1,
        workers_per_trial=2,
        storage=f"file://{tmp_path}/elsewhere",
        trainer={**tiny.FLAGS, "max_epochs": 1, "callbacks": [pl.callbacks.BatchSizeFinder(max_val=4)]},
    )
    assert result.path.startswith(str(tmp_path / "elsewhere"))
    assert result.trials[0].reports[-1]["step"] == 32 / 2 / 4  # no trials within the trial: its workers have tried


@pytest.mark.slow
def test_tensorboard_has_a_page_of_hyperparameters(tiny_sweep: Sweep) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = {name: value for name, value in tiny.FLAGS.items() if name != "logger"}
    result = tiny_sweep({"lr": 0.1}, num_samples=1, trainer={"max_epochs": 2, **flags})
    events = EventAccumulator(f"{result.path}/trial_0000")
    events.Reload()
    assert math.isclose(events.Scalars("val_loss")[-1].value, result.best_value, rel_tol=1e-6)
    plugin = events.summary_metadata["_hparams_/session_start_info"].plugin_data
    assert plugin.plugin_name == "hparams"
    assert b"lr" in plugin.content
