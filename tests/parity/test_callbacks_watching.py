"""Callbacks that watch a run, prune its model or stop it: numbers, keys and files are Lightning's."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import psutil
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

# ------------------------------------------------------------------------------------------------ DeviceStatsMonitor


@pytest.mark.parametrize("flags", [{}, {"cpu_stats": True}, {"cpu_stats": False}], ids=str)
def test_device_stats(same_in_both: Any, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any]) -> None:
    for name in ("cpu_percent", "virtual_memory", "swap_memory"):
        monkeypatch.setattr(psutil, name, lambda name=name: 12.5 if name == "cpu_percent" else _Memory())

    def run(side: Any) -> Any:
        side.fit(_validated(side), side.pl.callbacks.DeviceStatsMonitor(**flags), log_every_n_steps=2)
        return side.logger.rows

    rows = same_in_both(run)
    assert any("DeviceStatsMonitor.on_train_batch_start/cpu_percent" in row for _, row in rows) == (flags != _OFF)


_OFF = {"cpu_stats": False}


class _Memory:
    percent = 50.0


def test_device_stats_need_a_logger(same_error: Any) -> None:
    error = same_error(lambda side: side.fit(side.Model(), side.pl.callbacks.DeviceStatsMonitor(), logger=False))
    assert "Cannot use `DeviceStatsMonitor` callback with `Trainer(logger=False)`" in str(error)


# ------------------------------------------------------------------------------------------------ ThroughputMonitor


def _validated(side: Any, **attributes: Any) -> Any:
    class Model(side.Model):  # type: ignore[misc, name-defined]
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(batch[0])

        test_step = validation_step

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return self(batch[0])

        def val_dataloader(self) -> Any:
            return side.loader(3)

        test_dataloader = predict_dataloader = val_dataloader

    model = Model()
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def _without_time(rows: list[Any]) -> list[Any]:
    """Without the values that the clock makes."""
    return [
        (step, {name: value for name, value in row.items() if "time" not in name}) for step, row in map(_plain, rows)
    ]


def _plain(row: Any) -> Any:
    return row[0], {name: "per_sec" if "per_sec" in name else value for name, value in row[1].items()}


@pytest.mark.parametrize("flags", [{}, {"accumulate_grad_batches": 2}, {"val_check_interval": 2}], ids=str)
def test_throughput_of_fit(same_in_both: Any, flags: dict[str, Any]) -> None:
    def run(side: Any) -> Any:
        monitor = side.pl.callbacks.ThroughputMonitor(
            batch_size_fn=lambda batch: len(batch[0]), length_fn=lambda batch: batch[0].numel(), window_size=2
        )
        side.fit(_validated(side, flops_per_batch=100), monitor, max_epochs=2, **flags)
        return _without_time(side.logger.rows)

    rows = same_in_both(run)
    names = {name for _, row in rows for name in row}
    assert {"train/device/items_per_sec", "train/device/flops_per_sec", "validate/device/batches_per_sec"} <= names


@pytest.mark.parametrize("method", ["validate", "test", "predict"])
def test_throughput_of_evaluation(same_in_both: Any, method: str) -> None:
    def run(side: Any) -> Any:
        monitor = side.pl.callbacks.ThroughputMonitor(lambda batch: len(batch[0]), window_size=2, separator="|")
        trainer, model = side.trainer(monitor), _validated(side, flops_per_batch=100)
        getattr(trainer, method)(model)
        getattr(trainer, method)(model)
        return _without_time(side.logger.rows)

    rows = same_in_both(run)
    assert f"{method}|device|samples_per_sec" in rows[1][1]


def test_validation_does_not_slow_training_down(ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def pass_second(*_: Any) -> None:
        clock[0] += 1

    def pass_hour(*_: Any) -> None:
        clock[0] += 3600

    passing = ours.callback(on_train_batch_start=pass_second, on_validation_batch_start=pass_hour)
    monitor = ours.pl.callbacks.ThroughputMonitor(lambda batch: len(batch[0]), window_size=2)
    ours.fit(_validated(ours, flops_per_batch=7), passing, monitor, val_check_interval=1)
    rates = [
        row["train/device/batches_per_sec"] for _, row in ours.logger.rows if "train/device/batches_per_sec" in row
    ]
    assert rates == [1.0] * 4


def test_throughput_without_flops_warns(ours: Any) -> None:
    monitor = ours.pl.callbacks.ThroughputMonitor(lambda batch: len(batch[0]))
    with pytest.warns(UserWarning, match="you need to define a `flops_per_batch` attribute"):
        ours.fit(ours.Model(), monitor)


# ------------------------------------------------------------------------------------------------ ModelPruning

GLOBAL = {"pruning_fn": "l1_unstructured", "amount": 0.3}
STRUCTURED = {"use_global_unstructured": False, "parameter_names": ["weight"]}


@pytest.mark.parametrize(
    "settings",
    [
        GLOBAL,
        {**GLOBAL, "use_lottery_ticket_hypothesis": False},
        {**GLOBAL, "amount": 3, "parameter_names": ["weight"]},
        {
            **GLOBAL,
            "amount": lambda epoch: 0.2 if epoch else 0,
            "use_lottery_ticket_hypothesis": lambda epoch: epoch == 1,
        },
        {**GLOBAL, "apply_pruning": False},
        {**GLOBAL, "pruning_fn": prune.L1Unstructured, "make_pruning_permanent": False},
        {**GLOBAL, "prune_on_train_epoch_end": False, "use_lottery_ticket_hypothesis": False},
        {"pruning_fn": "random_unstructured", "use_global_unstructured": False},
        {**STRUCTURED, "pruning_fn": "ln_structured", "pruning_dim": 0, "pruning_norm": 1, "resample_parameters": True},
        {**STRUCTURED, "pruning_fn": "random_structured", "pruning_dim": 1},
    ],
    ids=str,
)
def test_pruned_weights(same_in_both: Any, settings: dict[str, Any]) -> None:
    def run(side: Any) -> Any:
        pruning = side.pl.callbacks.ModelPruning(**settings)
        checkpoint = side.pl.callbacks.ModelCheckpoint(dirpath=side.root, save_top_k=-1)
        model = _validated(side)
        # one epoch only where the first values are used again: in Lightning those follow the training
        epochs = 1 if settings.get("use_lottery_ticket_hypothesis", True) is True else 2
        side.fit(model, pruning, checkpoint, max_epochs=epochs)
        saved = [torch.load(path, weights_only=False)["state_dict"] for path in sorted(side.root.glob("*.ckpt"))]
        return dict(model.state_dict()), saved

    same_in_both(run)


def test_lottery_tickets_are_the_first_values_each_time(ours: Any) -> None:
    model = ours.Model()
    first = {name: value.clone() for name, value in model.state_dict().items()}
    found = []

    class Pruning(ours.pl.callbacks.ModelPruning):  # type: ignore[misc, name-defined]
        def apply_lottery_ticket_hypothesis(self) -> None:
            super().apply_lottery_ticket_hypothesis()
            found.append({name.removesuffix("_orig"): value.clone() for name, value in model.state_dict().items()})

    ours.fit(model, Pruning("l1_unstructured", amount=0.2), max_epochs=3)
    assert len(found) == 3
    for weights in found:
        assert all(torch.equal(weights[name], value) for name, value in first.items())


def test_pruning_tells_of_sparsity(ours: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        ours.fit(ours.Model(), ours.pl.callbacks.ModelPruning("l1_unstructured", amount=0.5, verbose=2))
    told = [message for message in caplog.messages if message.startswith("Applied")]
    assert told[0] == "Applied `L1Unstructured`. Pruned: 0/21 (0.00%) -> 10/21 (47.62%)"
    assert told[1].startswith(
        "Applied `L1Unstructured` to `Linear(in_features=3, out_features=4, bias=True).weight` with"
    )
    assert len(told) == 5


@pytest.mark.parametrize(
    "settings",
    [
        {"pruning_fn": "none_such"},
        {"pruning_fn": 3},
        {"pruning_fn": "l1_unstructured", "parameter_names": ["kernel"]},
        {"pruning_fn": "l1_unstructured", "amount": "much"},
        {"pruning_fn": "l1_unstructured", "verbose": 3},
        {"pruning_fn": "ln_structured"},
        {"pruning_fn": "ln_structured", "pruning_dim": 0},
        {"pruning_fn": "ln_structured", "pruning_dim": 0, "pruning_norm": 1},
        {"pruning_fn": prune.L1Unstructured, "use_global_unstructured": False},
        {"pruning_fn": prune.RandomStructured},
    ],
    ids=str,
)
def test_pruning_that_cannot_work(same_error: Any, settings: dict[str, Any]) -> None:
    same_error(lambda side: side.pl.callbacks.ModelPruning(**settings))


@pytest.mark.parametrize("parameters", [[(nn.Linear(2, 2), "weight")], ["weight"], [("weight", "bias")]], ids=str)
def test_pruning_parameters_that_are_not_the_models(same_error: Any, parameters: list[Any]) -> None:
    same_error(lambda side: side.fit(side.Model(), side.pl.callbacks.ModelPruning("l1_unstructured", parameters)))


# ------------------------------------------------------------------------------------------------ OnExceptionCheckpoint


def test_resume_from_the_exceptions_checkpoint(ours: Any) -> None:
    class Model(ours.Model):  # type: ignore[misc, name-defined]
        troubled = True

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.troubled and batch_idx == 3:
                raise RuntimeError("trouble")
            return super().training_step(batch, batch_idx)

    def trainer() -> Any:
        saver = ours.pl.callbacks.OnExceptionCheckpoint(ours.root, filename="saved")
        return ours.trainer(saver)

    path = ours.root / "saved.ckpt"
    first = trainer()
    assert first.checkpoint_callback.ckpt_path == str(path)
    with pytest.raises(RuntimeError, match="trouble"):
        first.fit(Model())
    assert path.exists()
    model, second = Model(), trainer()
    model.troubled = False
    with pytest.warns(UserWarning, match="ckpt_path=None"):
        second.fit(model)
    assert second.global_step == 5
    assert len(model.losses) == 2
    assert not path.exists()


def test_exceptions_checkpoint_as_in_lightning(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        def fail(*_: Any) -> None:
            raise ZeroDivisionError

        saver = side.pl.callbacks.OnExceptionCheckpoint(side.root)
        with pytest.raises(ZeroDivisionError):
            side.fit(side.Model(), side.callback(on_train_epoch_end=fail), saver)
        saved = torch.load(saver.ckpt_path, weights_only=False)
        return side.files(), saved["global_step"], saved["epoch"], saved["state_dict"]

    assert same_in_both(run)[0] == ["on_exception.ckpt"]


def test_exceptions_checkpoint_needs_a_name(same_error: Any) -> None:
    same_error(lambda side: side.pl.callbacks.OnExceptionCheckpoint(side.root, filename=""))


# ------------------------------------------------------------------------------------------------ SpikeDetection


def _spiking(side: Any, losses: list[float]) -> Any:
    class Model(side.Model):  # type: ignore[misc, name-defined]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return {"loss": loss * 0 + losses[batch_idx]}

    return Model()


NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "settings"),
    [
        ([1, 1.1, 0.9, 10, 1], {}),
        ([1, 1.1, 0.9, 1.5, 1], {}),
        ([1, 1.1, 0.9, 1.5, 1], {"rtol": 0.3}),
        ([1, 1.1, 0.9, 1.5, 1], {"rtol": 0.3, "atol": 1.0}),
        ([10, 1.1, 0.9, 1.5, 9], {"warmup": 3, "window": 2}),
        ([1, 1.1, 0.9, 0.1, 1], {"mode": "max", "rtol": 0.5}),
        ([1, 1.1, NAN, 0.1, 1], {}),
        ([1, 1.1, NAN, 9, 1], {"finite_only": False}),
        ([1, 1.1, 0.9, 10, 1], {"exclude_batches_path": "there/"}),
        ([1, 1.1, 0.9, 10, 1], {"exclude_batches_path": "there/bad.json"}),
    ],
)
def test_spike(same_in_both: Any, losses: list[float], settings: dict[str, Any]) -> None:
    def run(side: Any) -> Any:
        paths = {name: str(side.root / value) for name, value in settings.items() if name == "exclude_batches_path"}
        detection = side.pl.callbacks.spike.SpikeDetection(**{**settings, **paths})
        try:
            side.fit(_spiking(side, losses), detection)
            error = None
        except RuntimeError as raised:
            error = f"{type(raised).__name__}: {raised}"
        files = {name: json.loads((side.root / name).read_text()) for name in side.files()}
        return error, files, detection.bad_batches

    same_in_both(run)


def test_spike_state(ours: Any) -> None:
    detection = ours.pl.callbacks.SpikeDetection(window=2)
    ours.fit(_spiking(ours, [5, 4, 3, 2, 1]), detection)
    other = ours.pl.callbacks.SpikeDetection(window=2, warmup=7)
    other.load_state_dict(detection.state_dict())
    assert other.running_mean == 1.5
    assert other.warmup == 1
    assert other.state_dict() == detection.state_dict()


def test_rates_of_no_optimizer(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Model(side.Model):  # type: ignore[misc, name-defined]
            def configure_optimizers(self) -> None:
                return None

        monitor = side.pl.callbacks.LearningRateMonitor()
        with pytest.warns(UserWarning, match="returned `None`"):
            trainer = side.fit(Model(), monitor)
        return monitor.lrs, str(trainer.optimizers)

    assert same_in_both(run) == [{}, "[No Optimizer]"]
