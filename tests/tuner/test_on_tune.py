"""Searches as trials of Ray Tune, which outlive what kills a process."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import raylight as pl
from raylight.callbacks import BatchSizeFinder
from raylight.tuner import Tuner
from raylight.utilities.exceptions import MisconfigurationException

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]
SAMPLES = 128
MIB = 2**20
PER_SAMPLE = 64 * MIB
MEMORY = 1000 * MIB
FITTING = MEMORY // PER_SAMPLE


@pytest.fixture(autouse=True)
def _by_value(request: pytest.FixtureRequest, send_by_value: Callable[..., None]) -> None:
    send_by_value(request.module)


@pytest.fixture(autouse=True)
def _files_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Model(pl.LightningModule):
    def __init__(self, batch_size: int = 8, lr: float = 0.5) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(1, 1)

    def use_memory(self, size: int) -> None:
        """What a batch of this size costs."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.use_memory(len(batch[0]))
        return (self.layer(batch[0]) - 1).pow(2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.linspace(-1, 1, SAMPLES).reshape(-1, 1)), self.hparams["batch_size"])


class Greedy(Model):
    """Allocates memory for real, from a process that may have so much more of it than it has now."""

    def use_memory(self, size: int) -> None:
        before = resource.getrlimit(resource.RLIMIT_AS)
        held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, before[1]))
        try:
            torch.empty(size * PER_SAMPLE, dtype=torch.uint8)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)


class Killed(Model):
    """Is ended by the system where the batch is too large; with several workers, one of them."""

    def use_memory(self, size: int) -> None:
        if size > FITTING and self.global_rank == self.trainer.world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def trainer(num_workers: int, **flags: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    return pl.Trainer(**{**quiet, "launcher": "ray", "num_workers": num_workers, **flags})


@pytest.mark.parametrize(
    ("model_class", "num_workers"),
    [
        (Greedy, 1),
        pytest.param(Killed, 2, marks=pytest.mark.slow),
        pytest.param(Greedy, 2, marks=pytest.mark.slow),
        pytest.param(Killed, 1, marks=pytest.mark.slow),
    ],
)
def test_the_true_largest_size(
    num_workers: int, model_class: type[Model], nothing_held: Callable[[], None], tmp_path: Path
) -> None:
    model = model_class()
    weights = model.layer.weight.clone()
    random = torch.get_rng_state()
    found = Tuner(trainer(num_workers)).scale_batch_size(model, mode="binsearch", margin=0.0, init_val=8)
    assert found == model.hparams["batch_size"] == FITTING
    assert torch.equal(model.layer.weight, weights)
    assert torch.equal(torch.get_rng_state(), random)
    assert list(tmp_path.iterdir()) == []
    nothing_held()


@pytest.mark.slow
def test_a_callback_searches_before_the_workers_start() -> None:
    model, finder = Killed(batch_size=2), BatchSizeFinder(init_val=4, keep_effective_batch=True)
    used = trainer(2, callbacks=[finder], accumulate_grad_batches=16)
    used.fit(model)  # the effective batch is 32
    assert (finder.optimal_batch_size, used.accumulate_grad_batches) == (8, 4)
    assert used.global_step == SAMPLES / 2 / 32


@pytest.mark.slow
def test_fastest_size_and_data_of_its_own() -> None:
    class Slow(Model):
        def use_memory(self, size: int) -> None:
            import time

            time.sleep(0.002 * abs(size - 16))

    model = Slow()
    loader = DataLoader(TensorDataset(torch.ones(SAMPLES, 1)), batch_size=2)
    found = Tuner(trainer(1)).scale_batch_size(model, loader, mode="throughput", max_val=64, steps_per_trial=4)
    assert found == 16
    assert loader.batch_size == 2


@pytest.mark.slow
def test_the_users_exception_ends_the_search() -> None:
    class Broken(Model):
        def use_memory(self, size: int) -> None:
            raise ZeroDivisionError("not for want of memory")

    with pytest.raises(ZeroDivisionError, match="not for want of memory"):
        Tuner(trainer(1)).scale_batch_size(Broken())


def test_a_trial_of_the_users_own_without_room_for_workers(tmp_path: Path) -> None:
    from ray import tune

    def train(config: Any) -> None:
        trainer(2).fit(Model())

    space = tune.RunConfig(storage_path=str(tmp_path), verbose=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AIR_NEW_OUTPUT", "0")
        patch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
        (result,) = tune.Tuner(train, run_config=space).fit()
    assert "2 workers with {'CPU': 1.0} each are asked for in a trial whose placement group has 0" in str(result.error)
    assert "PlacementGroupFactory([{}] + [{'CPU': 1.0}] * 2)" in str(result.error)


@pytest.mark.slow
def test_rates_side_by_side(nothing_held: Callable[[], None], tmp_path: Path) -> None:
    model = Model(lr=0.5)
    weights = model.layer.weight.clone()
    tuner = Tuner(trainer(1))
    found = tuner.lr_search(model, min_lr=1e-6, max_lr=100.0, num_rates=9, num_training=16)
    results = found.results
    assert results["lr"] == pytest.approx([10.0**power for power in range(-6, 3)])
    assert results["loss"][-1] > 1.0  # diverged
    assert found.suggestion() == model.hparams["lr"] == pytest.approx(0.1, rel=11)
    assert results["steps"][results["lr"].index(found.suggestion())] == 16
    assert min(results["steps"]) < 16  # the poor ones were given up
    assert torch.equal(model.layer.weight, weights)
    assert list(tmp_path.iterdir()) == []
    axes = found.plot(suggest=True).axes[0]
    assert [line.get_xdata()[0] for line in axes.lines] == [*results["lr"], found.suggestion()]
    nothing_held()


def test_rates_that_cannot_be_searched() -> None:
    with pytest.raises(MisconfigurationException, match="lr_search runs on Ray"):
        Tuner(pl.Trainer(launcher="local", logger=False)).lr_search(Model())
    with pytest.raises(MisconfigurationException, match="0 < min_lr < max_lr"):
        Tuner(trainer(1)).lr_search(Model(), min_lr=1.0, max_lr=0.1)
    with pytest.raises(AttributeError, match="should have one of these fields"):
        Tuner(trainer(1)).lr_search(Model(), attr_name="rate")
