from __future__ import annotations

import math
from pathlib import Path

import pytest

from raylight.sweeps.record import FAILED, FINISHED, RUNNING, SweepRecord, is_better
from raylight.sweeps.report import plot, table


def reported(record: SweepRecord, values: list[float], **params: float) -> None:
    trial = record.add(dict(params))
    for step, value in enumerate(values):
        trial.reports.append({"loss": value, "epoch": step, "step": 10 * (step + 1), "reports": step + 1})
        trial.tell_of_checkpoint(f"{trial.name}/checkpoint_{step}/trial.ckpt", "loss", record.mode)
    trial.status = FINISHED


def filled(folder: Path, mode: str = "min") -> SweepRecord:
    record = SweepRecord(str(folder), "loss", mode, {})
    reported(record, [3.0, 1.0, 2.0], lr=0.1, width=8)
    reported(record, [math.nan, 0.5], lr=1e-4, width=16)
    reported(record, [math.nan], lr=9.0, width=8)
    return record


def test_better() -> None:
    assert is_better(1, 2, "min")
    assert is_better(2, 1, "max")
    assert not is_better(1, 1, "min")
    assert is_better(1, math.nan, "max")
    assert not is_better(math.nan, 1, "max")
    assert not is_better(math.nan, math.nan, "min")


def test_the_best_report_of_all(tmp_path: Path) -> None:
    record = filled(tmp_path)
    assert record.best is record.trials["trial_0001"]
    first = record.trials["trial_0000"]
    assert first.best is not None
    assert first.last is not None
    assert (first.best.report, first.last.report, first.value("loss")) == (1, 2, 1.0)
    assert record.path(first.best) == str(tmp_path / "trial_0000" / "checkpoint_1" / "trial.ckpt")
    assert filled(tmp_path, "max").best is not None
    assert filled(tmp_path, "max").best.name == "trial_0000"  # type: ignore[union-attr]


def test_files_hold_everything(tmp_path: Path) -> None:
    record = filled(tmp_path)
    record.add({"lr": 0.7, "width": 4})
    record.trials["trial_0001"].error = "ValueError: no"
    record.save()
    for trial in list(record.trials.values())[:3]:
        record.save_trial(trial)
    loaded = SweepRecord.load(str(tmp_path))
    assert repr(loaded.trials) == repr(record.trials)
    assert (loaded.metric, loaded.mode, loaded.folder) == ("loss", "min", str(tmp_path))


def test_a_trial_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    record = filled(tmp_path)
    first, new = record.trials["trial_0000"], record.add({"lr": 1.0})
    for step in (1, 2):
        (tmp_path / "trial_0000" / f"checkpoint_{step}").mkdir(parents=True)
        (tmp_path / "trial_0000" / f"checkpoint_{step}" / "trial.ckpt").write_text(f"step {step}")
    for trial in (first, new):
        trial.reports.append({"loss": 0.1, "epoch": 3, "step": 40, "reports": 4})  # its checkpoint never came to be
        record.rewind(trial)
    assert [report["loss"] for report in first.reports] == [3.0, 1.0, 2.0]
    assert new.reports == []
    record.rewind(first)  # the continuation was interrupted, too
    assert first.best is not None
    assert first.last is not None
    assert [Path(record.path(point)).read_text() for point in (first.best, first.last)] == ["step 1", "step 2"]
    names = sorted(path.name for path in (tmp_path / "trial_0000").iterdir())
    assert names == ["checkpoint_1.earlier.earlier", "checkpoint_2.earlier.earlier", "trial.json"]


def test_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not the folder of a sweep"):
        SweepRecord.load(str(tmp_path))


def test_table(tmp_path: Path) -> None:
    from rich.console import Console

    record = filled(tmp_path)
    record.trials["trial_0002"].status, record.trials["trial_0002"].error = FAILED, "ValueError: no"
    record.add({"lr": 0.5, "width": 1}).status = RUNNING
    console = Console(width=120, record=True)
    console.print(table(record))
    lines = console.export_text().splitlines()
    assert "3 of 4 trials over, 1 failed" in lines[0]
    rows = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    assert rows == ["trial_0001", "trial_0000", "trial_0002", "trial_0003"]
    assert any("ValueError: no" in line for line in lines)
    assert [len(table(record, rows=2).rows), len(table(record).rows)] == [2, 4]


def test_plot(tmp_path: Path) -> None:
    figure = plot(filled(tmp_path))
    curves, coordinates = figure.axes
    assert [line.get_ydata()[0] for line in curves.lines][0] == 3.0
    assert [label.get_text() for label in coordinates.get_xticklabels()] == ["lr", "width", "loss"]
    heights = [list(line.get_ydata()) for line in coordinates.lines[:2]]
    assert heights[0][1] == 0.0
    assert heights[1][1] == 1.0  # width 8 and 16
    figure.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
