"""What workers log, print and show arrives on the driver, all of it, once and in order."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import Linear, batches

from raylight.callbacks.progress import TQDMProgressBar
from raylight.loggers import CSVLogger, TensorBoardLogger
from raylight.loggers.base import Logger

pytestmark = [pytest.mark.ray, pytest.mark.timeout(60)]


def recorded(folder: str) -> Any:
    """The events that TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(folder, size_guidance={"histograms": 0})
    accumulator.Reload()
    return accumulator


def test_tensorboard_files_are_the_drivers(two_workers: Any, tmp_path: Path) -> None:
    class Drawing(Linear):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            board = self.logger.experiment
            board.add_scalar("own", batch_idx * 10, global_step=batch_idx)
            board.add_histogram("weights", self.layer.weight, batch_idx)
            board.add_text("words", "said")
            return super().training_step(batch, batch_idx)

    logger = TensorBoardLogger(tmp_path)
    trainer = two_workers(logger=logger, log_every_n_steps=1)
    trainer.fit(Drawing(), batches())
    written_by = {path.name.split(".")[-2] for path in Path(logger.log_dir).glob("events.out.tfevents.*")}
    assert written_by == {str(os.getpid())}
    board = recorded(logger.log_dir)
    assert [(event.step, event.value) for event in board.Scalars("own")] == [(0, 0), (1, 10), (2, 20), (3, 30)]
    assert [event.step for event in board.Scalars("train_loss")] == [0, 1, 2, 3]
    assert [event.step for event in board.Histograms("weights")] == [0, 1, 2, 3]
    assert "words/text_summary" in board.Tags()["tensors"]
    assert "width: 4" in (Path(logger.log_dir) / "hparams.yaml").read_text()


class Logging(Linear):
    """Logs its step's number in steps and epochs."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log("number", float(self.trainer.global_step), on_step=True, on_epoch=True)
        return self.loss(batch)


def test_csv_rows_are_complete(two_workers: Any, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=3)
    trainer = two_workers(logger=logger, log_every_n_steps=1, max_epochs=2)
    trainer.fit(Logging(), batches(24))
    with open(Path(logger.log_dir) / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    steps = [(int(row["step"]), float(row["number_step"])) for row in rows if row["number_step"]]
    assert steps == [(step, step) for step in range(12)]
    epochs = [(int(row["epoch"]), float(row["number_epoch"])) for row in rows if row["number_epoch"]]
    assert epochs == [(0, 2.5), (1, 8.5)]


def test_several_loggers_are_told_apart(two_workers: Any, tmp_path: Path) -> None:
    class Addressing(Logging):
        def on_train_end(self) -> None:
            first, second = self.trainer.loggers
            first.log_metrics({"to first": 1.0}, step=0)
            second.log_metrics({"to second": 2.0}, step=0)

    loggers = [CSVLogger(tmp_path, name=name) for name in ("first", "second")]
    two_workers(logger=loggers).fit(Addressing(), batches())
    headers = [(Path(logger.log_dir) / "metrics.csv").read_text().splitlines()[0] for logger in loggers]
    assert "to first" in headers[0]
    assert "to second" in headers[1]
    assert "to second" not in headers[0]


def test_names_and_folders_are_known_in_the_workers(two_workers: Any, tmp_path: Path) -> None:
    class Asking(Linear):
        def on_train_start(self) -> None:
            self.answers = (self.logger.name, self.logger.version, self.logger.log_dir, self.trainer.log_dir)

    logger, model = CSVLogger(tmp_path, name="mine"), Asking()
    two_workers(logger=logger).fit(model, batches())
    assert model.answers == ("mine", 0, logger.log_dir, logger.log_dir)


def test_an_error_in_a_logger_reaches_the_user(two_workers: Any, nothing_held: Any, tmp_path: Path) -> None:
    class Misspelled(Linear):
        def on_train_start(self) -> None:
            self.logger.experiment.add_scalarr("x", 1.0)

    with pytest.raises(AttributeError, match="add_scalarr"):
        two_workers(logger=TensorBoardLogger(tmp_path)).fit(Misspelled(), batches())
    nothing_held()


def test_the_progress_bar_is_drawn_here(two_workers: Any, capsys: Any) -> None:
    class Shown(Linear):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            self.log("shown", 7.0, prog_bar=True)
            return self.loss(batch)

    two_workers(callbacks=[TQDMProgressBar()], enable_progress_bar=True).fit(Shown(), batches())
    drawn = capsys.readouterr().out
    assert "Epoch 0:" in drawn
    assert "4/4" in drawn
    assert "shown=7" in drawn


def test_self_print_comes_from_rank_0_only(two_workers: Any, capsys: Any) -> None:
    class Printing(Linear):
        def on_train_epoch_end(self) -> None:
            self.print("rank", self.global_rank, sep=":")

    two_workers(max_epochs=2).fit(Printing(), batches())
    assert capsys.readouterr().out.splitlines() == ["rank:0", "rank:0"]


def test_ctrl_c_while_a_logger_writes_loses_and_repeats_nothing(two_workers: Any) -> None:
    class Interrupted(Logger):
        """The user presses Ctrl-C while the driver logs step 20."""

        name, version = "interrupted", 0

        def __init__(self) -> None:
            super().__init__()
            self.steps: list[int | None] = []

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if step == 20:
                signal.raise_signal(signal.SIGINT)
            self.steps.append(step)

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
            pass

    logger, model = Interrupted(), Linear()
    trainer = two_workers(logger=logger, log_every_n_steps=1, max_epochs=-1)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="Training was stopped by the user"):
        trainer.fit(model, batches(160))
    assert trainer.global_step > 20
    assert logger.steps == list(range(trainer.global_step))
    assert signal.getsignal(signal.SIGINT) is handler
    trainer.max_epochs = 1
    trainer.fit(Linear(), batches())  # the workers are still warm
