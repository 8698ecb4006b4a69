"""self.log: names, values and steps, in callback_metrics, logged_metrics, progress_bar_metrics and logger rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader


def validated(side: Any) -> Any:
    """A model class with validation and test on 3 batches."""

    class Model(side.Model):  # type: ignore[misc, name-defined]
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch))

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("test_loss", self.loss(batch))

        def val_dataloader(self) -> Any:
            return side.loader(3)

        def test_dataloader(self) -> Any:
            return side.loader(3, offset=0.3)

    return Model


FORKS = [(True, False), (False, True), (True, True), (None, None)]


@pytest.mark.parametrize(("on_step", "on_epoch"), FORKS)
@pytest.mark.parametrize("prog_bar", [True, False])
def test_step_and_epoch(same_in_both: Any, on_step: bool, on_epoch: bool, prog_bar: bool) -> None:
    def run(side: Any) -> Any:
        flags = {"on_step": on_step, "on_epoch": on_epoch, "prog_bar": prog_bar}

        class Model(validated(side)):  # type: ignore[misc]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                loss = self.loss(batch)
                self.log("loss", loss, **flags)
                return loss

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.log("val", self.loss(batch), **flags)

            def test_step(self, batch: Any, batch_idx: int) -> None:
                self.log("test", self.loss(batch), **flags)

        model = Model()
        trainer = side.fit(model, max_epochs=2, num_sanity_val_steps=1)
        fitted = side.outcome(trainer, model)
        validated_alone = trainer.validate(model, verbose=False)
        tested = trainer.test(model, verbose=False)
        return fitted, validated_alone, tested, side.metrics(trainer)

    same_in_both(run)


@pytest.mark.parametrize("reduce_fx", ["mean", "sum", "min", "max", torch.mean, torch.sum, torch.max, torch.min])
def test_reductions(same_in_both: Any, reduce_fx: Any) -> None:
    def run(side: Any) -> Any:
        class Model(validated(side)):  # type: ignore[misc]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                loss = self.loss(batch)
                self.log("loss", loss, on_epoch=True, reduce_fx=reduce_fx)
                return loss

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.log("val", self.loss(batch), on_step=True, reduce_fx=reduce_fx)

        model = Model()
        return side.outcome(side.fit(model, max_epochs=2), model)

    same_in_both(run)


def test_epoch_means_are_weighted(same_in_both: Any) -> None:
    """By the batch's samples, or by what the user says."""

    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                loss = self.loss(batch)
                self.log("inferred", loss, on_step=False, on_epoch=True)
                self.log("given", loss, on_step=False, on_epoch=True, batch_size=batch_idx + 1)
                self.log_dict({"once": loss, "twice": 2 * loss}, on_step=False, on_epoch=True, prog_bar=True)
                return loss

        model = Model()
        return side.outcome(side.fit(model), model)

    values = same_in_both(run)["callback_metrics"]
    assert values["inferred"] != values["given"]


@pytest.mark.parametrize("structure", ["dict", "nested", "strings", "scalar first"])
def test_inferred_batch_size(same_in_both: Any, structure: str) -> None:
    batches: dict[str, Any] = {
        "dict": lambda x: {"x": x, "y": x},
        "nested": lambda x: [{"x": (x, x)}, 7],
        "strings": lambda x: {"name": "abc", "x": x[:3]},
        "scalar first": lambda x: {"n": 3, "x": x},
    }

    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.log("index", float(batch_idx), on_epoch=True)
                return self.layer(torch.ones(1, 3)).sum()

            def train_dataloader(self) -> Any:
                data = [torch.ones(size, 3) for size in (4, 3, 5)]
                return DataLoader([batches[structure](x) for x in data], batch_size=None)  # type: ignore[arg-type]

        model = Model()
        return side.outcome(side.fit(model), model)

    same_in_both(run)


def test_hooks_that_log(same_in_both: Any) -> None:
    """From the model and from a callback, before and after others have read."""

    def run(side: Any) -> Any:
        seen: list[Any] = []

        def log(name: str) -> Any:
            return lambda trainer, module, *_: module.log(name, float(trainer.global_step + 1))

        def look(trainer: Any, module: Any, *_: Any) -> None:
            seen.append((dict(trainer.callback_metrics), dict(trainer.logged_metrics)))

        class Model(validated(side)):  # type: ignore[misc]
            def on_train_start(self) -> None:
                self.log("of the start", 1.0)

            def on_train_epoch_start(self) -> None:
                self.log("of the epoch's start", 2.0 + self.current_epoch)

            def on_train_batch_end(self, *_: Any) -> None:
                self.log("after the batch", float(self.global_step))

            def on_before_optimizer_step(self, optimizer: Any) -> None:
                self.log("norm", self.layer[0].weight.grad.norm())

            def on_train_epoch_end(self) -> None:
                self.log("of the epoch", self.trainer.callback_metrics["train_loss"])

            def on_validation_epoch_end(self) -> None:
                self.log("of the validation", float(self.current_epoch), prog_bar=True)

        first = side.callback(
            on_train_epoch_end=log("first's epoch"), on_validation_epoch_end=log("first's validation"),
            on_after_backward=log("backward"), on_validation_batch_end=log("val batch"),
        )  # fmt: skip
        second = side.callback(
            on_train_batch_end=look, on_validation_end=look, on_train_epoch_end=look, on_validation_start=look,
            on_train_end=look, on_fit_end=look, on_validation_batch_end=look,
        )  # fmt: skip
        model = Model()
        trainer = side.fit(model, first, second, max_epochs=2, num_sanity_val_steps=1)
        return side.outcome(trainer, model), seen

    same_in_both(run)


def test_epoch_value_is_seen_before_the_first_batch(same_in_both: Any) -> None:
    """What on_train_start logs, in on_train_epoch_start."""

    def run(side: Any) -> Any:
        seen: list[Any] = []

        class Model(side.Model):  # type: ignore[misc, name-defined]
            def on_train_start(self) -> None:
                self.log("of the start", 1.0)

        look = side.callback(on_train_epoch_start=lambda trainer, module: seen.append(dict(trainer.callback_metrics)))
        side.fit(Model(), look, max_epochs=2)
        return seen

    same_in_both(run)


@pytest.mark.parametrize("every", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval:UserWarning")
def test_log_every_n_steps(same_in_both: Any, every: int, accumulate: int) -> None:
    def run(side: Any) -> Any:
        model = validated(side)()
        flags = {"log_every_n_steps": every, "accumulate_grad_batches": accumulate}
        return side.outcome(side.fit(model, max_epochs=3, **flags), model)

    same_in_both(run)


def test_step_of_the_users(same_in_both: Any) -> None:
    """A metric called "step" is the row's step."""

    def run(side: Any) -> Any:
        class Model(validated(side)):  # type: ignore[misc]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.log("step", float(10 * batch_idx))
                return super().training_step(batch, batch_idx)

            def on_validation_epoch_end(self) -> None:
                self.log("step", float(self.current_epoch))

        model = Model()
        return side.outcome(side.fit(model, max_epochs=2), model)

    same_in_both(run)


def test_hidden_from_loggers(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Model(validated(side)):  # type: ignore[misc]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.log("hidden", 1.0, logger=False, prog_bar=True)
                return super().training_step(batch, batch_idx)

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.log("hidden val", 2.0, logger=False)

        model = Model()
        trainer = side.fit(model, max_epochs=2)
        return side.outcome(trainer, model), trainer.validate(model, verbose=False)

    same_in_both(run)


@pytest.mark.parametrize("kind", [int, bool, torch.tensor, lambda x: torch.tensor([[float(x)]])])
@pytest.mark.filterwarnings("ignore:You called `self.log:UserWarning")
def test_kinds_of_numbers(same_in_both: Any, kind: Any) -> None:
    def run(side: Any) -> Any:
        class Model(validated(side)):  # type: ignore[misc]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.log("count", kind(batch_idx), on_epoch=True)
                return super().training_step(batch, batch_idx)

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.log("val", kind(batch_idx))

        model = Model()
        trainer = side.fit(model)
        values = {**trainer.callback_metrics, **trainer.logged_metrics}
        return {name: (str(value.dtype), value.shape) for name, value in values.items()}, side.outcome(trainer, model)

    same_in_both(run)


def metric_model(side: Any) -> Any:
    """A model class that logs torchmetrics: the object, on both levels, in all stages."""
    import torchmetrics

    class Model(validated(side)):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.train_error = torchmetrics.MeanSquaredError()
            self.errors = nn.ModuleDict({"val": torchmetrics.MeanSquaredError(), "test": torchmetrics.MeanMetric()})
            self.collection = torchmetrics.MetricCollection(
                {"mse": torchmetrics.MeanSquaredError(), "mae": torchmetrics.MeanAbsoluteError()}, prefix="of_"
            )

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.train_error(self(batch[0]), batch[1])
            self.log("error", self.train_error, on_step=True, on_epoch=True)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.errors["val"].update(self(batch[0]), batch[1])
            self.log("val_error", self.errors["val"], prog_bar=True)
            self.collection.update(self(batch[0]), batch[1])
            self.log_dict(self.collection)

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.errors["test"](self.loss(batch))
            self.log("test_error", self.errors["test"], metric_attribute="errors.test", on_step=True)

    return Model


def test_torchmetrics(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        model = metric_model(side)()
        trainer = side.fit(model, max_epochs=2, num_sanity_val_steps=1)
        fitted = side.outcome(trainer, model)
        return fitted, trainer.validate(model, verbose=False), trainer.test(model, verbose=False), side.metrics(trainer)

    same_in_both(run)


def test_several_loaders(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Model(validated(side)):  # type: ignore[misc]
            def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
                loss = self.loss(batch)
                self.log("val", loss)
                self.log("both", loss, on_step=True, prog_bar=True)
                if dataloader_idx == 1:
                    self.log("own", loss, add_dataloader_idx=False)

            def on_validation_epoch_end(self) -> None:
                self.log("all", 1.0)

            def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
                return self(batch[0]) + dataloader_idx

            def val_dataloader(self) -> Any:
                return [side.loader(2), side.loader(3, offset=0.5)]

            def predict_dataloader(self) -> Any:
                return {"a": side.loader(2), "b": side.loader(1)}

        model = Model()
        trainer = side.fit(model, max_epochs=2, num_sanity_val_steps=1)
        fitted = side.outcome(trainer, model)
        return fitted, trainer.validate(model, verbose=False), trainer.predict(model), side.metrics(trainer)

    same_in_both(run)


def test_results_of_each_call(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Model(validated(side)):  # type: ignore[misc]
            def predict_dataloader(self) -> Any:
                return side.loader(2)

            def predict_step(self, batch: Any, batch_idx: int) -> Any:
                return {"y": self(batch[0]), "index": batch_idx}

        model = Model()
        trainer = side.trainer()
        before = trainer.validate(model, verbose=False), trainer.test(model, verbose=False)
        side.seed()
        trainer.fit(model)
        after = trainer.test(model, verbose=False), side.metrics(trainer)
        given = trainer.validate(model, side.loader(1), verbose=False), trainer.predict(model, side.loader(1))
        return before, after, given, trainer.predict(model), trainer.predict(model, return_predictions=False)

    same_in_both(run)


def test_hparams_reach_the_logger(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def __init__(self, width: int, rate: float = 0.5) -> None:
                super().__init__()
                self.save_hyperparameters()

        class Data(side.pl.LightningDataModule):  # type: ignore[misc]
            def __init__(self, folder: str) -> None:
                super().__init__()
                self.save_hyperparameters()

            def train_dataloader(self) -> Any:
                return side.loader()

        side.trainer().fit(Model(3), Data("x"))
        return side.logger.hparams

    assert same_in_both(run) == [{"width": 3, "rate": 0.5, "folder": "x"}]


def test_module_logs_to_its_logger(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.logger.log_metrics({"own": 1.0}, step=self.global_step)
                return super().training_step(batch, batch_idx)

        model = Model()
        trainer = side.fit(model)
        return side.outcome(trainer, model), trainer.logger is side.logger, len(trainer.loggers)

    same_in_both(run)


@pytest.mark.filterwarnings("ignore:.*the `self.trainer` reference is not registered:UserWarning")
def test_log_without_a_trainer(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        model = side.Model()
        model.log("anything", 1.0)
        return model.current_epoch, model.global_step, model.training_step(next(iter(side.loader())), 0)

    same_in_both(run)
