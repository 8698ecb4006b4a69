"""Searches in one process: what they find, and that they leave everything as it was."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import raylight as pl
from raylight.callbacks import BatchSizeFinder, LearningRateFinder
from raylight.tuner import Tuner
from raylight.utilities.exceptions import MisconfigurationException

SAMPLES = 64
pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


@pytest.fixture(autouse=True)
def _files_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Ones(Dataset[Any]):
    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        return torch.full((4,), float(index) / SAMPLES)


class Model(pl.LightningModule):
    """Refuses batches of more than ``memory`` samples, as a device that is full does."""

    def __init__(self, batch_size: int = 2, lr: float = 0.1, memory: int = 10**6) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
        self.tried: list[int] = []

    def loss(self, batch: Any) -> Any:
        self.tried.append(len(batch))
        if len(batch) > self.hparams["memory"]:
            raise RuntimeError("CUDA error: out of memory")
        return (self.layer(batch) - 1).pow(2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self.loss(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=0.9)

    def train_dataloader(self) -> Any:
        return DataLoader(Ones(), batch_size=self.hparams["batch_size"], shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(Ones(), batch_size=self.hparams["batch_size"])

    predict_dataloader = val_dataloader


def trainer(**flags: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {
        "launcher": "local", "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return pl.Trainer(**{**quiet, **flags})


@pytest.fixture
def untouched() -> Iterator[Any]:
    """``untouched(model, trainer)``: they must be the same at the end, and so must torch's random numbers."""
    torch.manual_seed(5)
    watched: list[Any] = []

    def everything(model: Model, trainer: pl.Trainer) -> Any:
        flags = trainer.callbacks, trainer.loggers, trainer.global_step, trainer.current_epoch, trainer.max_steps
        weights = {name: value.tolist() for name, value in model.state_dict().items()}
        return flags, weights, torch.get_rng_state().tolist(), model.training

    def watch(model: Model, trainer: pl.Trainer) -> None:
        watched.extend([model, trainer, everything(model, trainer)])

    yield watch
    assert watched, "nothing was watched"
    model, used, before = watched
    assert everything(model, used) == before
    assert list(Path.cwd().iterdir()) == []


# ------------------------------------------------------------------------------------------------ batch size


@pytest.mark.parametrize(
    ("mode", "memory", "expected"),
    [("power", 20, 16), ("binsearch", 20, 19), ("power", 10**6, SAMPLES), ("binsearch", 10**6, int(SAMPLES * 0.95))],
)
def test_largest_size_that_fits(untouched: Any, mode: str, memory: int, expected: int) -> None:
    model, used = Model(memory=memory), trainer()
    untouched(model, used)
    assert Tuner(used).scale_batch_size(model, mode=mode) == expected
    assert model.hparams["batch_size"] == expected
    if mode == "power":
        assert expected in model.tried  # it was really run


def test_margin_is_kept_below_the_limit() -> None:
    found = Tuner(trainer()).scale_batch_size(Model(memory=40), mode="binsearch", margin=0.1)
    assert found == 36


def test_first_size_may_be_too_large() -> None:
    assert Tuner(trainer()).scale_batch_size(Model(memory=5), init_val=32) == 4


def test_nothing_fits() -> None:
    with pytest.raises(MisconfigurationException, match="No batch size fits into memory, down to 1"):
        Tuner(trainer()).scale_batch_size(Model(memory=0))


def test_only_sizes_that_were_run_are_returned() -> None:
    model = Model()
    assert Tuner(trainer()).scale_batch_size(model, max_val=20) == 20
    assert 20 in model.tried
    model = Model()
    assert Tuner(trainer()).scale_batch_size(model, init_val=4, max_trials=2) == 8
    assert max(model.tried) == 8


@pytest.mark.slow
def test_the_effective_batch_is_kept() -> None:
    model, used = Model(batch_size=4, memory=20), trainer(accumulate_grad_batches=12)
    found = Tuner(used).scale_batch_size(model, mode="binsearch", margin=0.0, keep_effective_batch=True)
    assert (found, model.hparams["batch_size"], used.accumulate_grad_batches) == (16, 16, 3)
    used.fit(model)
    assert used.global_step == 2  # 64 samples, 48 of them and the rest

    finder = BatchSizeFinder(keep_effective_batch=True)
    used = trainer(callbacks=[finder], accumulate_grad_batches=8)
    used.fit(Model(batch_size=4, memory=20))
    assert (finder.optimal_batch_size, used.global_step) == (16, 2)
    with pytest.raises(MisconfigurationException, match="needs one batch size and one accumulate_grad_batches"):
        Tuner(trainer(accumulate_grad_batches={0: 1, 2: 2})).scale_batch_size(Model(), keep_effective_batch=True)


@pytest.mark.slow
def test_the_fastest_size() -> None:
    class Slow(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            time.sleep(0.002 * abs(len(batch) - 8))
            return super().training_step(batch, batch_idx)

    model = Slow()
    assert Tuner(trainer()).scale_batch_size(model, mode="throughput", steps_per_trial=4, max_val=32) == 8
    assert max(model.tried) == 32


def test_other_errors_are_not_swallowed() -> None:
    class Broken(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        Tuner(trainer()).scale_batch_size(Broken())


@pytest.mark.parametrize("method", ["validate", "predict"])
def test_methods_that_evaluate(untouched: Any, method: str) -> None:
    model, used = Model(memory=20), trainer()
    untouched(model, used)
    assert Tuner(used).scale_batch_size(model, method=method) == 16


def test_loaders_that_were_handed_in() -> None:
    model, loader = Model(memory=20), DataLoader(Ones(), batch_size=2)
    assert Tuner(trainer()).scale_batch_size(model, loader, loader) == 16
    assert loader.batch_size == 2
    assert 16 in model.tried


def test_callback_goes_on_with_what_it_found() -> None:
    model = Model(memory=20)
    finder = BatchSizeFinder()
    used = trainer(callbacks=[finder])
    used.fit(model)
    assert finder.optimal_batch_size == 16
    assert used.num_training_batches == used.global_step == SAMPLES / 16
    assert used.train_dataloader.batch_size == 16


def test_callback_in_an_evaluation() -> None:
    model = Model(memory=20)
    trainer(callbacks=[BatchSizeFinder()]).validate(model)
    assert model.tried[-SAMPLES // 16 :] == [16] * (SAMPLES // 16)


def test_datamodule_holds_the_size() -> None:
    class Data(pl.LightningDataModule):
        batch_size = 2

        def train_dataloader(self) -> Any:
            return DataLoader(Ones(), batch_size=self.batch_size)

    class Plain(Model):
        def __init__(self) -> None:
            super().__init__()
            del self.hparams["batch_size"]

    data = Data()
    assert Tuner(trainer()).scale_batch_size(Plain(), datamodule=data, max_val=8) == 8
    assert data.batch_size == 8


def test_bad_arguments() -> None:
    tuner = Tuner(trainer())
    with pytest.raises(ValueError, match=r"`mode` should be either of"):
        tuner.scale_batch_size(Model(), mode="fast")
    with pytest.raises(ValueError, match="method 'train' is invalid"):
        tuner.scale_batch_size(Model(), method="train")
    with pytest.raises(MisconfigurationException, match="`dataloaders` argument should be None"):
        tuner.scale_batch_size(Model(), dataloaders=[])
    with pytest.raises(MisconfigurationException, match="Field size not found in `model`"):
        tuner.scale_batch_size(Model(), batch_arg_name="size")
    with pytest.raises(ValueError, match="already configured with a `BatchSizeFinder`"):
        Tuner(trainer(callbacks=[BatchSizeFinder()])).scale_batch_size(Model())
    with pytest.warns(UserWarning, match="Skipping batch size scaler"):
        assert Tuner(trainer(fast_dev_run=True)).scale_batch_size(Model()) is None


# ------------------------------------------------------------------------------------------------ learning rate


def test_range_test_leaves_everything(untouched: Any) -> None:
    model, used = Model(batch_size=8), trainer(gradient_clip_val=1.0)
    untouched(model, used)
    found = Tuner(used).lr_find(model, update_attr=False, early_stop_threshold=None, max_lr=10)
    assert found is not None
    assert len(found.results["lr"]) == len(found.results["loss"]) == 100
    assert found.results["lr"][0] == 1e-8
    assert found.results["lr"][-1] == pytest.approx(10)
    assert model.hparams["lr"] == 0.1


@pytest.mark.slow
def test_suggestion_is_set() -> None:
    model, used = Model(batch_size=8), trainer()
    found = Tuner(used).lr_find(model)
    assert found is not None
    assert model.hparams["lr"] == found.suggestion() != 0.1
    used.fit(model)
    assert used.optimizers[0].param_groups[0]["lr"] == found.suggestion()


def test_accumulation_counts_steps() -> None:
    found = Tuner(trainer(accumulate_grad_batches=2)).lr_find(Model(), early_stop_threshold=None, num_training=30)
    assert found is not None
    assert len(found.results["loss"]) == 30
    assert found._total_batch_idx == 59


def test_divergence_stops_early() -> None:
    found = Tuner(trainer()).lr_find(Model(batch_size=8), max_lr=1e6, early_stop_threshold=1.5, update_attr=False)
    assert found is not None
    assert len(found.results["loss"]) < 100


def test_callback_at_milestones() -> None:
    class AtMilestones(LearningRateFinder):
        def on_fit_start(self, *args: Any) -> None: ...

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch in (0, 2):
                self.lr_find(trainer, pl_module)
                rates.append((trainer.current_epoch, trainer.optimizers[0].param_groups[0]["lr"]))

    rates: list[Any] = []
    used = trainer(callbacks=[AtMilestones(num_training_steps=20)], max_epochs=3)
    used.fit(Model(batch_size=8))
    assert [epoch for epoch, _ in rates] == [0, 2]
    assert used.global_step == 3 * SAMPLES / 8


def test_lr_find_refuses() -> None:
    class Two(Model):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [super().configure_optimizers(), super().configure_optimizers()]

    class NoRate(Model):
        def __init__(self) -> None:
            super().__init__()
            self.rate = self.hparams.pop("lr")

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.rate)

    tuner = Tuner(trainer())
    with pytest.raises(MisconfigurationException, match="only works with single optimizer"):
        tuner.lr_find(Two())
    with pytest.raises(AttributeError, match=r"should have one of these fields: \('lr', 'learning_rate'\)"):
        tuner.lr_find(NoRate())
    with pytest.raises(MisconfigurationException, match="method='fit' is the only valid"):
        tuner.lr_find(Model(), method="test")
    with pytest.raises(ValueError, match="already configured with a `LearningRateFinder`"):
        Tuner(trainer(callbacks=[LearningRateFinder()])).lr_find(Model())
    model = NoRate()
    assert tuner.lr_find(model, attr_name="rate") is not None


def test_too_few_points() -> None:
    found = Tuner(trainer()).lr_find(Model(), num_training=5)
    assert found is not None
    assert found.suggestion() is None


# ------------------------------------------------------------------------------------------------ Trainer.tune


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("order", ["1.7", "1.9", "names"])
def test_tune_in_both_orders(order: str) -> None:
    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return DataLoader(Ones(), batch_size=8)

    used, model, data = trainer(auto_lr_find=True, auto_scale_batch_size="binsearch"), Model(memory=20), Data()
    sizes, rates = {"max_val": 16, "max_trials": 2}, {"num_training": 30}
    if order == "1.7":
        found = used.tune(model, None, None, data, sizes, rates)
    elif order == "1.9":
        found = used.tune(model, None, None, None, data, sizes, rates)
    else:
        found = used.tune(model, datamodule=data, scale_batch_size_kwargs=sizes, lr_find_kwargs=rates)
    assert found["scale_batch_size"] == model.hparams["batch_size"] == 4
    assert len(found["lr_find"].results["lr"]) <= 30
    assert model.hparams["lr"] == found["lr_find"].suggestion()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tune_refuses() -> None:
    with pytest.warns(UserWarning, match="tune.. has nothing to do"):
        assert trainer().tune(Model()) == {}
    with pytest.raises(TypeError, match="unknown"):
        trainer(auto_lr_find=True).tune(Model(), unknown=1)
