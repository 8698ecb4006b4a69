"""LearningRateMonitor logs the values that Lightning's logs, at the same steps."""

from __future__ import annotations

import csv
from typing import Any

import pytest
import torch


def logged_rows(program: Any, model: Any, trainer_flags: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    monitor = program.pl.callbacks.LearningRateMonitor(**arguments)
    logger = program.pl.loggers.CSVLogger(program.root, name="run", version=0)
    trainer = program.trainer(monitor, logger=logger, max_epochs=2, **trainer_flags)
    trainer.fit(model)
    with open(program.root / "run" / "version_0" / "metrics.csv", newline="") as file:
        rows = [
            {key: value for key, value in row.items() if value and key != "train_loss"} for row in csv.DictReader(file)
        ]
    return {
        "rows": [row for row in rows if any(name.startswith("lr-") for name in row)],
        "lrs": monitor.lrs,
        "last": (monitor.last_momentum_values, monitor.last_weight_decay_values),
        "callback_metrics": sorted(name for name in trainer.callback_metrics if name.startswith("lr-")),
    }


@pytest.mark.parametrize("logging_interval", [None, "step", "epoch"])
@pytest.mark.parametrize("schedule", [None, "step", "epoch"])
def test_intervals(same_in_both: Any, logging_interval: str | None, schedule: str | None) -> None:
    outcome = same_in_both(
        lambda program: logged_rows(
            program, program.model(schedule=schedule), {"log_every_n_steps": 2}, logging_interval=logging_interval
        )
    )
    assert outcome["lrs"]["lr-SGD"][0] == pytest.approx(
        0.1 if schedule != "step" or logging_interval == "epoch" else 0.05
    )


def test_momentum_and_weight_decay(same_in_both: Any) -> None:
    outcome = same_in_both(
        lambda program: logged_rows(program, program.model(), {}, log_momentum=True, log_weight_decay=True)
    )
    assert outcome["last"] == ({"lr-SGD-momentum": 0.5}, {"lr-SGD-weight_decay": 0.01})


def test_parameter_groups_that_come_later(same_in_both: Any) -> None:
    def run(program: Any) -> dict[str, Any]:
        class AddGroup(program.pl.Callback):  # type: ignore[misc, name-defined]
            def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
                if trainer.current_epoch == 1:
                    extra = torch.nn.Parameter(torch.zeros(1))
                    trainer.optimizers[0].add_param_group({"params": [extra], "lr": 0.7})

        monitor = program.pl.callbacks.LearningRateMonitor("epoch")
        logger = program.pl.loggers.CSVLogger(program.root)
        program.trainer(AddGroup(), monitor, logger=logger, max_epochs=2).fit(program.model())
        return dict(monitor.lrs)

    assert same_in_both(run) == {"lr-SGD/pg1": [0.1, 0.1], "lr-SGD/pg2": [0.7]}


def test_no_logger(same_in_both: Any) -> None:
    def run(program: Any) -> None:
        monitor = program.pl.callbacks.LearningRateMonitor()
        with pytest.raises(
            Exception, match="Cannot use `LearningRateMonitor` callback with `Trainer` that has no logger"
        ):
            program.trainer(monitor, max_epochs=1).fit(program.model())

    same_in_both(run)
