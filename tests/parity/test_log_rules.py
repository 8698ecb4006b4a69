"""Where self.log may be called, with which levels, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from raylight.utilities.exceptions import MisconfigurationException

BOTH = {"step", "epoch", "step+epoch"}
EPOCH = {"epoch"}
NEITHER: set[str] = set()
LEVELS = {(True, False): "step", (False, True): "epoch", (True, True): "step+epoch"}

RULES: dict[str, tuple[str | None, set[str]]] = {
    # hook: (what neither flag given means, what may be asked for); None: self.log is refused
    "on_fit_start": (None, NEITHER),
    "on_fit_end": (None, NEITHER),
    "on_train_start": ("epoch", EPOCH),
    "on_train_end": (None, NEITHER),
    "on_train_epoch_start": ("epoch", EPOCH),
    "on_train_epoch_end": ("epoch", EPOCH),
    "on_train_batch_start": ("step", BOTH),
    "on_train_batch_end": ("step", BOTH),
    "training_step": ("step", BOTH),
    "on_before_zero_grad": ("step", BOTH),
    "optimizer_zero_grad": ("step", BOTH),
    "on_before_backward": ("step", BOTH),
    "backward": ("step", BOTH),
    "on_after_backward": ("step", BOTH),
    "on_before_optimizer_step": ("step", BOTH),
    "optimizer_step": ("step", BOTH),
    "configure_gradient_clipping": ("step", BOTH),
    "lr_scheduler_step": (None, NEITHER),
    "on_validation_start": ("epoch", EPOCH),
    "on_validation_end": (None, NEITHER),
    "on_validation_epoch_start": ("epoch", EPOCH),
    "on_validation_epoch_end": ("epoch", EPOCH),
    "on_validation_batch_start": ("epoch", BOTH),
    "on_validation_batch_end": ("epoch", BOTH),
    "validation_step": ("epoch", BOTH),
    "on_test_start": ("epoch", EPOCH),
    "on_test_end": (None, NEITHER),
    "on_test_epoch_start": ("epoch", EPOCH),
    "on_test_epoch_end": ("epoch", EPOCH),
    "on_test_batch_start": ("epoch", BOTH),
    "on_test_batch_end": ("epoch", BOTH),
    "test_step": ("epoch", BOTH),
    "on_predict_start": (None, NEITHER),
    "on_predict_end": (None, NEITHER),
    "on_predict_epoch_start": (None, NEITHER),
    "on_predict_epoch_end": (None, NEITHER),
    "on_predict_batch_start": (None, NEITHER),
    "on_predict_batch_end": (None, NEITHER),
    "predict_step": (None, NEITHER),
    "setup": (None, NEITHER),
    "teardown": (None, NEITHER),
    "prepare_data": (None, NEITHER),
    "configure_model": (None, NEITHER),
    "configure_optimizers": (None, NEITHER),
    "train_dataloader": (None, NEITHER),
    "val_dataloader": (None, NEITHER),
    "on_before_batch_transfer": (None, NEITHER),
    "transfer_batch_to_device": (None, NEITHER),
    "on_after_batch_transfer": (None, NEITHER),
    "on_validation_model_eval": (None, NEITHER),
    "on_validation_model_train": (None, NEITHER),
    "on_validation_model_zero_grad": (None, NEITHER),
    "on_save_checkpoint": (None, NEITHER),
}


def run_logging_in(side: Any, hook: str, on_step: bool | None, on_epoch: bool | None) -> dict[str, Any]:
    """One batch of everything that reaches ``hook`` of the model, which logs there."""

    class Model(side.Model):  # type: ignore[misc, name-defined]
        def validation_step(self, batch: Any, batch_idx: int) -> None: ...

        def test_step(self, batch: Any, batch_idx: int) -> None: ...

        def predict_step(self, batch: Any, batch_idx: int) -> None: ...

        def val_dataloader(self) -> Any:
            return side.loader(1)

        def test_dataloader(self) -> Any:
            return side.loader(1)

        def predict_dataloader(self) -> Any:
            return side.loader(1)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    def logging_hook(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.log("logged", 7.0, on_step=on_step, on_epoch=on_epoch)
        return getattr(super(Logging, self), hook)(*args, **kwargs)

    Logging = type("Logging", (Model,), {hook: logging_hook})
    model = Logging()
    save = side.callback(on_train_batch_end=lambda trainer, *_: trainer.save_checkpoint(side.root / "saved.ckpt"))
    trainer = side.trainer(save, limit_train_batches=1)
    if "test" in hook:
        trainer.test(model, verbose=False)
    elif "predict" in hook:
        trainer.predict(model)
    else:
        trainer.fit(model)
    return {name: list(metrics) for name, metrics in side.metrics(trainer).items() if name.endswith("metrics")}


def allows(side: Any, hook: str, on_step: bool | None, on_epoch: bool | None) -> bool:
    try:
        run_logging_in(side, hook, on_step, on_epoch)
    except MisconfigurationException:
        return False
    return True


@pytest.mark.filterwarnings("ignore:predict returned None")
@pytest.mark.parametrize("hook", RULES)
def test_levels(hook: str, ours: Any) -> None:
    default, allowed = RULES[hook]
    assert {name for flags, name in LEVELS.items() if allows(ours, hook, *flags)} == allowed
    assert allows(ours, hook, None, None) == (default is not None)


@pytest.mark.parametrize("hook", [hook for hook, (default, _) in RULES.items() if default is not None])
def test_names_by_level(hook: str, same_in_both: Any) -> None:
    default, allowed = RULES[hook]
    chosen = [(None, None), *(flags for flags, name in LEVELS.items() if name in allowed)]
    for flags in chosen:
        same_in_both(lambda side, flags=flags: run_logging_in(side, hook, *flags))


@pytest.mark.parametrize("hook", [hook for hook, (default, _) in RULES.items() if default is None])
def test_refused_by_lightning_too(hook: str, same_error: Any) -> None:
    error = same_error(lambda side: run_logging_in(side, hook, None, None))
    assert isinstance(error, MisconfigurationException)


REFUSED: dict[str, Any] = {
    "no level": lambda m: m.log("a", 1.0, on_step=False, on_epoch=False),
    "several numbers": lambda m: m.log("a", torch.ones(2)),
    "dict in a dict": lambda m: m.log("a", {"b": {"c": 1.0}}),  # a dict is accepted here, as in Lightning 1.x
    "text": lambda m: m.log("a", "b"),
    "list": lambda m: m.log("a", [1.0]),
    "unknown reduction": lambda m: m.log("a", 1.0, on_epoch=True, reduce_fx="median"),
    "other reduction": lambda m: m.log("a", 1.0, on_epoch=True, reduce_fx=lambda x: x),
    "other flags": lambda m: [m.log("a", 1.0), m.log("a", 1.0, prog_bar=True)],
    "loader in the name": lambda m: m.log("a/dataloader_idx_0", 1.0),
    "nested dict": lambda m: m.log_dict({"a": {"b": 1.0}}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_values(case: str, same_error: Any) -> None:
    def run(side: Any) -> None:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                REFUSED[case](self)
                return super().training_step(batch, batch_idx)

        side.fit(Model())

    same_error(run)


def test_metric_that_is_no_attribute(same_error: Any) -> None:
    import torchmetrics

    def run(side: Any) -> None:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                metric = torchmetrics.MeanMetric()
                metric(1.0)
                self.log("metric", metric)
                return super().training_step(batch, batch_idx)

        side.fit(Model())

    same_error(run)


def test_batch_without_a_size(same_error: Any) -> None:
    def run(side: Any) -> None:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.log("mean", 1.0, on_epoch=True)
                return self.layer(torch.ones(1, 3)).sum()

            def train_dataloader(self) -> Any:
                return DataLoader([1, 2, 3], batch_size=None)  # type: ignore[arg-type]

        side.fit(Model())

    same_error(run)


def test_ambiguous_size_is_said(ours: Any) -> None:
    class Model(ours.Model):  # type: ignore[misc, name-defined]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("mean", 1.0, on_epoch=True)
            return self.layer(batch["b"]).sum()

        def train_dataloader(self) -> Any:
            return DataLoader([{"a": torch.ones(2, 3), "b": torch.ones(5, 3)}], batch_size=None)  # type: ignore[arg-type]

    with pytest.warns(UserWarning, match="ambiguous collection. The batch size we found is 2"):
        ours.fit(Model())


def test_logging_without_a_logger_is_said(ours: Any) -> None:
    class Model(ours.Model):  # type: ignore[misc, name-defined]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("loss", 1.0, logger=True)
            return super().training_step(batch, batch_idx)

    with pytest.warns(UserWarning, match="have no logger configured"):
        ours.fit(Model(), logger=False)


def test_value_is_taken_not_shared(ours: Any) -> None:
    """A tensor that the user changes in place later was logged with its value at that time."""

    class Model(ours.Model):  # type: ignore[misc, name-defined]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            counter = torch.tensor(float(batch_idx))
            self.log("counter", counter)
            counter.add_(100)
            return self.loss(batch)

    trainer = ours.fit(Model())
    assert [row["counter"] for _, row in ours.logger.rows if "counter" in row] == [0, 1, 2, 3, 4]
    assert not trainer.callback_metrics["counter"].requires_grad


@pytest.mark.parametrize("reduce_fx", [min, max, sum, torch.max, "avg"])
def test_reductions(reduce_fx: Any, same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.log("x", float(batch_idx), on_step=False, on_epoch=True, reduce_fx=reduce_fx, batch_size=1)
                return self.loss(batch)

        return dict(side.fit(Model()).callback_metrics)

    assert same_in_both(run)["x"] == {min: 0, sum: 10, "avg": 2}.get(reduce_fx, 4)
