"""The files and records that a run's loggers leave: same names, steps, values and hyperparameters as Lightning's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def make_program(side: Any) -> Any:
    """A model with hyperparameters, an example input, and every kind of logged value."""

    class Program(side.Model):  # type: ignore[misc]
        def __init__(self, lr: float = 0.1, layers: int = 2, extra: Any = None) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.example_input_array = torch.ones(1, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.log("loss", loss, on_step=True, on_epoch=True)
            self.log_dict({"group/a": batch_idx, "group/b": 2.0 * batch_idx})
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch))

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("test_loss", self.loss(batch))

        def val_dataloader(self) -> Any:
            return side.loader(3)

        def test_dataloader(self) -> Any:
            return side.loader(2, offset=0.3)

    return Program(extra={"depth": 2, "names": ["a", "b"]})


def run_program(side: Any, logger: Any, **flags: Any) -> Any:
    """Two epochs with checkpoints, and a test."""
    model = make_program(side)
    trainer = side.fit(model, logger=logger, max_epochs=2, **{"enable_checkpointing": True, **flags})
    trainer.test(model, verbose=False)
    return trainer


def tensorboard_records(folder: Path) -> dict[str, Any]:
    """By subfolder: numbers by tag, with their steps, and what else there is."""
    records = {}
    for parent in {path.parent for path in folder.rglob("events.out.*")}:
        accumulator = EventAccumulator(str(parent))
        accumulator.Reload()
        tags = accumulator.Tags()
        numbers = {tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in tags["scalars"]}
        hparams = sorted(tag for tag in accumulator.summary_metadata if "_hparams_" in tag)
        records[str(parent.relative_to(folder))] = {"numbers": numbers, "hparams": hparams, "graph": tags["graph"]}
    return records


def texts(folder: Path, pattern: str) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob(pattern)}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"name": None, "version": "first", "sub_dir": "sub"},
        {"prefix": "p", "default_hp_metric": False},
        {"log_graph": True},
    ],
    ids=str,
)
def test_tensorboard(same_in_both: Any, settings: dict[str, Any]) -> None:
    def run(side: Any) -> Any:
        logger = side.pl.loggers.TensorBoardLogger(side.root, **settings)
        trainer = run_program(side, logger, log_every_n_steps=2)
        assert trainer.log_dir == logger.log_dir
        return tensorboard_records(side.root), texts(side.root, "hparams.yaml"), side.files()

    records, hparams, _ = same_in_both(run)
    assert len(records) == len(hparams) == 1


@pytest.mark.parametrize("settings", [{}, {"name": "exp", "prefix": "p", "flush_logs_every_n_steps": 3}], ids=str)
def test_csv(same_in_both: Any, settings: dict[str, Any]) -> None:
    def run(side: Any) -> Any:
        run_program(side, side.pl.loggers.CSVLogger(side.root, **settings))
        tables = texts(side.root, "metrics.csv")
        return [rows(table) for table in tables.values()], texts(side.root, "hparams.yaml"), side.files()

    assert same_in_both(run)[0]


def rows(table: str) -> list[list[Any]]:
    """Cells, numbers as such: the last digit may differ."""
    header, *lines = table.splitlines()
    return [header.split(","), *([float(cell) if cell else None for cell in line.split(",")] for line in lines)]


def make_minimal_logger(side: Any) -> Any:
    """What a user must write, and nothing else."""

    class Minimal(side.pl.loggers.Logger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[Any] = []

        @property
        def name(self) -> str:
            return "minimal"

        @property
        def version(self) -> int:
            return 3

        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            self.calls.append(("log_metrics", sorted(metrics), step))

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
            self.calls.append(("log_hyperparams", sorted(params), args, kwargs))

    return Minimal


def make_watching_logger(side: Any) -> Any:
    """A logger that hears everything."""

    class Watching(make_minimal_logger(side)):  # type: ignore[misc]
        def log_graph(self, model: Any, input_array: Any = None) -> None:
            self.calls.append(("log_graph", input_array))

        def save(self) -> None:
            self.calls.append("save")

        def finalize(self, status: str) -> None:
            self.calls.append(("finalize", status))

        def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
            self.calls.append(("after_save_checkpoint", Path(checkpoint_callback.best_model_path).name))

    return Watching


@pytest.mark.parametrize("make", [make_minimal_logger, make_watching_logger])
def test_a_logger_of_the_users_is_called_in_order(same_in_both: Any, make: Any) -> None:
    def run(side: Any) -> Any:
        logger = make(side)()
        trainer = run_program(side, logger)
        return logger.calls, str(trainer.log_dir), side.files()

    calls = same_in_both(run)[0]
    assert len(calls) > 10


def test_loggers_in_a_list_all_hear(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        loggers = [make_watching_logger(side)(), side.pl.loggers.CSVLogger(side.root), make_minimal_logger(side)()]
        run_program(side, loggers)
        return loggers[0].calls, loggers[2].calls, side.files()

    same_in_both(run)


def test_an_error_finalizes_as_failed(same_in_both: Any) -> None:
    def run(side: Any) -> Any:
        class Failing(side.Model):  # type: ignore[misc]
            def on_train_batch_end(self, *args: Any) -> None:
                raise RuntimeError("mine")

        logger = make_watching_logger(side)()
        with pytest.raises(RuntimeError, match="mine"):
            side.fit(Failing(), logger=logger)
        return logger.calls

    assert same_in_both(run)[-1] == ["finalize", "failed"]


def test_mlflow(same_in_both: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions ask for it
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow sets it

    def run(side: Any) -> Any:
        logger = side.pl.loggers.MLFlowLogger(
            "exp", run_name="first", save_dir=str(side.root / "runs"), tags={"team": "a"}, prefix="p", log_model=True
        )
        trainer = run_program(side, logger)
        stored = logger.experiment.get_run(logger.run_id)
        kept = side.root / "runs" / logger.experiment_id / logger.run_id
        histories = {
            path.name: logger.experiment.get_metric_history(logger.run_id, path.name)
            for path in (kept / "metrics").iterdir()
        }
        return {
            "params": dict(stored.data.params),
            "tags": {name: value for name, value in stored.data.tags.items() if name != "mlflow.source.name"},
            "status": stored.info.status,
            "metrics": {name: [(each.step, each.value) for each in history] for name, history in histories.items()},
            "artifacts": sorted(str(path.relative_to(kept)) for path in (kept / "artifacts").rglob("*.*")),
            "metadata": texts(kept / "artifacts", "aliases.txt"),
            "checkpoints": [path.name for path in (kept / "checkpoints").iterdir()],
            "names": (logger.name == logger.experiment_id, logger.version == logger.run_id),
            "save_dir": logger.save_dir == str(trainer.log_dir) == str(side.root / "runs"),
        }

    result = same_in_both(run)
    assert result["status"] == "FINISHED"
    assert result["artifacts"]
