"""How long, how much and how often: epochs, steps, batches, validations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

COUNTERS = (
    "global_step", "current_epoch", "num_training_batches", "num_val_batches", "num_sanity_val_batches",
    "num_test_batches", "num_predict_batches", "max_epochs", "max_steps", "min_steps",
    "limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches",
    "val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps", "fast_dev_run",
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "enable_validation", "should_stop",
    "world_size", "global_rank", "local_rank", "node_rank", "num_nodes", "num_devices", "device_ids",
    "is_global_zero", "interrupted", "training", "validating", "testing", "predicting", "evaluating",
    "sanity_checking", "precision", "estimated_stepping_batches", "reload_dataloaders_every_n_epochs",
)  # fmt: skip


def traced(side: Any, **attributes: Any) -> Any:
    """A model that notes in ``trace`` every batch, epoch and validation, with the trainer's counters."""

    class Model(side.Model):  # type: ignore[misc, name-defined]
        def note(self, event: str, *details: Any) -> None:
            trainer = self.trainer
            counters = trainer.current_epoch, trainer.global_step, trainer.training and trainer.is_last_batch
            self.trace.append([event, *details, *counters])

        def on_train_epoch_start(self) -> None:
            self.note("epoch")

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.note("train", batch_idx)
            return super().training_step(batch, batch_idx)

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.note("trained", batch_idx)

        def on_train_epoch_end(self) -> None:
            self.note("epoch ends")

        def on_validation_start(self) -> None:
            self.note("validation", self.trainer.sanity_checking)

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.note("validate", batch_idx, dataloader_idx)
            self.log("val_loss", self.loss(batch))

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.note("test", batch_idx)

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            self.note("predict", batch_idx)

        def val_dataloader(self) -> Any:
            return side.loader(4)

        def test_dataloader(self) -> Any:
            return side.loader(4)

        def predict_dataloader(self) -> Any:
            return side.loader(4)

    model = type("Traced", (Model,), attributes)()
    model.trace = []
    return model


def counters(trainer: Any) -> dict[str, Any]:
    found = {name: getattr(trainer, name) for name in COUNTERS}
    if not trainer.limit_train_batches:
        del found["num_training_batches"], found["estimated_stepping_batches"]  # inf and -1 in Lightning
    return found


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "sanity check": {"num_sanity_val_steps": 2},
    "whole sanity check": {"num_sanity_val_steps": -1},
    "sanity check longer than the data": {"num_sanity_val_steps": 9},
    "int limits": {f"limit_{stage}_batches": n for stage, n in (("train", 3), ("val", 2), ("test", 1), ("predict", 9))},
    "float limits": {f"limit_{stage}_batches": 0.5 for stage in ("train", "val", "test", "predict")},
    "all of it": {f"limit_{stage}_batches": 1.0 for stage in ("train", "val", "test", "predict")},
    "one batch": {f"limit_{stage}_batches": 1 for stage in ("train", "val", "test", "predict")},
    "no training": {"limit_train_batches": 0},
    "no validation": {"limit_val_batches": 0, "num_sanity_val_steps": 2},
    "no test, no predict": {"limit_test_batches": 0, "limit_predict_batches": 0.0},
    "fast_dev_run": {"fast_dev_run": True},
    "fast_dev_run of 3": {"fast_dev_run": 3, "max_epochs": 7, "val_check_interval": 2},
    "max_steps": {"max_steps": 7, "max_epochs": 5},
    "max_steps at an epoch's end": {"max_steps": 5, "max_epochs": 5},
    "max_steps and accumulation": {"max_steps": 4, "max_epochs": -1, "accumulate_grad_batches": 2},
    "max_steps 0": {"max_steps": 0},
    "only max_steps": {"max_steps": 6, "max_epochs": None},
    "max_epochs 0": {"max_epochs": 0},
    "overfit 2": {"overfit_batches": 2},
    "overfit 0.5": {"overfit_batches": 0.5},
    "quarters": {"val_check_interval": 0.25},
    "halves": {"val_check_interval": 0.5, "max_epochs": 2},
    "every 2 batches": {"val_check_interval": 2, "max_epochs": 2},
    "every 5 batches": {"val_check_interval": 5, "max_epochs": 2},
    "every 3 batches across epochs": {"val_check_interval": 3, "check_val_every_n_epoch": None, "max_epochs": 3},
    "every 7 batches across epochs": {"val_check_interval": 7, "check_val_every_n_epoch": None, "max_epochs": 3},
    "every second epoch": {"check_val_every_n_epoch": 2, "max_epochs": 4},
    "every second epoch, twice": {"check_val_every_n_epoch": 2, "val_check_interval": 0.5, "max_epochs": 3},
    "accumulation and interval": {"accumulate_grad_batches": 2, "val_check_interval": 2, "max_epochs": 2},
    "accumulation longer than the epoch": {"accumulate_grad_batches": 9, "max_epochs": 2},
    "max_steps and interval": {"max_steps": 4, "val_check_interval": 2, "max_epochs": 3},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:You requested to overfit:UserWarning")
def test_what_is_run(case: str, same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        model = traced(side)
        trainer = side.fit(model, **CASES[case])
        fitted = counters(trainer), side.outcome(trainer, model)
        sizes = []
        trainer.validate(model, verbose=False)
        sizes.append(trainer.num_val_batches)
        trainer.test(model, verbose=False)
        sizes.append(trainer.num_test_batches)
        trainer.predict(model)
        sizes.append(trainer.num_predict_batches)
        return model.trace, fitted, sizes

    same_in_both(run)


@pytest.mark.parametrize("flags", [{}, {"min_epochs": 2}, {"min_steps": 7}, {"min_epochs": 3, "min_steps": 2}])
@pytest.mark.parametrize(
    "hook", ["on_train_batch_end", "on_train_epoch_end", "on_validation_end", "on_train_epoch_start"]
)
@pytest.mark.parametrize("interval", [1.0, 2])
def test_should_stop(same_in_both: Any, flags: dict[str, int], hook: str, interval: Any) -> None:
    def run(side: Any) -> Any:
        def stop(self: Any, *_: Any) -> None:
            if self.global_step >= 3:
                self.trainer.should_stop = True

        model = traced(side)
        base = type(model)
        inherited = getattr(base, hook)
        model.__class__ = type("Stopping", (base,), {hook: lambda self, *a: (inherited(self, *a), stop(self))[0]})
        trainer = side.fit(model, max_epochs=5, val_check_interval=interval, **flags)
        return model.trace, counters(trainer), side.outcome(trainer, model)

    same_in_both(run)


@pytest.mark.parametrize("flags", [{}, {"max_epochs": 2, "val_check_interval": 2}, {"limit_train_batches": 3}])
def test_loader_without_a_length(same_in_both: Any, flags: dict[str, Any]) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            for i in range(10):
                yield torch.full((3,), i / 10), torch.ones(1)

    def run(side: Any) -> Any:
        loader = DataLoader(Stream(), batch_size=4)
        model = traced(side, train_dataloader=lambda self: loader, val_dataloader=lambda self: loader)
        trainer = side.fit(model, **{"max_steps": 20, **flags})
        return model.trace, counters(trainer), side.outcome(trainer, model)

    same_in_both(run)


def test_several_train_loaders(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        sizes: list[Any] = []

        class Model(side.Model):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                sizes.append([len(batch["long"][0]), len(batch["short"][0])])
                return self.loss(batch["long"]) + self.loss(batch["short"])

            def train_dataloader(self) -> Any:
                return {"long": side.loader(5, shuffle=True), "short": side.loader(2, shuffle=True, offset=0.4)}

        model = Model()
        trainer = side.fit(model, max_epochs=2)
        return sizes, side.outcome(trainer, model), trainer.num_training_batches

    same_in_both(run)


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
def test_combined_train_loader(same_in_both: Any, mode: str) -> None:
    def run(side: Any) -> Any:
        from importlib import import_module

        name = "raylight.utilities.combined_loader" if side.ours else "pytorch_lightning.utilities.combined_loader"
        combined = import_module(name).CombinedLoader
        sizes: list[Any] = []

        class Model(side.Model):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                sizes.append([None if part is None else len(part[0]) for part in batch])
                return self.loss(batch[1])

            def train_dataloader(self) -> Any:
                return combined([side.loader(2, shuffle=True), side.loader(5, shuffle=True)], mode)

        model = Model()
        trainer = side.fit(model, max_epochs=2)
        return sizes, side.outcome(trainer, model), trainer.num_training_batches

    same_in_both(run)


@pytest.mark.parametrize("every", [0, 1, 2])
def test_reloaded_loaders(same_in_both: Any, every: int) -> None:
    def run(side: Any) -> Any:
        asked: list[str] = []

        class Model(side.Model):  # type: ignore[misc, name-defined]
            def train_dataloader(self) -> Any:
                asked.append(f"train {self.current_epoch}")
                return side.loader(2 + self.current_epoch, shuffle=True)

            def val_dataloader(self) -> Any:
                asked.append(f"val {self.current_epoch}")
                return side.loader(1 + self.current_epoch)

            def validation_step(self, batch: Any, batch_idx: int) -> None: ...

        model = Model()
        trainer = side.fit(model, max_epochs=4, reload_dataloaders_every_n_epochs=every, num_sanity_val_steps=1)
        return asked, side.outcome(trainer, model)

    same_in_both(run)


def test_loaders_given_to_the_call(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        model = traced(side)
        side.seed()
        trainer = side.trainer()
        trainer.fit(model, side.loader(2, shuffle=True), [side.loader(1)])
        shapes = [len(trainer.train_dataloader), len(trainer.val_dataloaders)]
        return model.trace, shapes, side.outcome(trainer, model)

    same_in_both(run)


def test_estimated_steps(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        seen: list[float] = []

        class Model(side.Model):  # type: ignore[misc, name-defined]
            def configure_optimizers(self) -> Any:
                seen.append(self.trainer.estimated_stepping_batches)
                return super().configure_optimizers()

        for flags in (
            {},
            {"max_epochs": 3, "accumulate_grad_batches": 2},
            {"max_steps": 4},
            {"max_epochs": -1, "max_steps": 3},
        ):
            side.fit(Model(), **flags)
        return seen

    assert same_in_both(run) == [5, 9, 4, 3]


def test_modes_of_submodules_come_back(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        seen: list[Any] = []

        class Model(side.Model):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.frozen = torch.nn.Dropout()
                self.frozen.eval()

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                seen.append(
                    ["train", self.training, self.layer.training, self.frozen.training, torch.is_grad_enabled()]
                )
                return super().training_step(batch, batch_idx)

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                grad = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
                seen.append(["validate", self.training, self.layer.training, self.frozen.training, *grad])

            def val_dataloader(self) -> Any:
                return side.loader(1)

        model = Model()
        with pytest.warns(UserWarning, match=r"Found 1 module\(s\) in eval mode at the start of training"):
            trainer = side.fit(model, max_epochs=2, num_sanity_val_steps=1, limit_train_batches=2)
        trainer.validate(model, verbose=False)
        seen.append([model.training, model.layer.training, model.frozen.training])
        return seen

    same_in_both(run)
