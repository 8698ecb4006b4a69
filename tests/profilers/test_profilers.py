"""Profilers by themselves; Lightning's are the reference for what they say."""

from __future__ import annotations

import copy
import logging
import pickle
import pstats
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning.profilers as theirs
import torch
from torch import nn

import raylight.profilers as ours
from raylight.profilers.pytorch import RegisterRecordFunction
from raylight.utilities.exceptions import MisconfigurationException

KINDS = [ours.SimpleProfiler, ours.AdvancedProfiler, ours.PyTorchProfiler]
RECORDS = {"a longer action": [1.0, 2.25], "short": [9.125], "middle": [0.5, 0.5, 0.5]}


@pytest.mark.parametrize(("extended", "records"), [(True, RECORDS), (False, RECORDS), (True, {})])
def test_simple_report_is_lightnings(extended: bool, records: dict[str, list[float]]) -> None:
    reports = []
    for module in (theirs, ours):
        profiler = module.SimpleProfiler(extended=extended)
        profiler.setup("fit", 1, None)
        profiler.recorded_durations.update(records)
        profiler.start_time -= 1e6  # so that both see the same number of digits
        reports.append(profiler.summary())
    assert reports[0] == reports[1]
    assert reports[1].startswith("FIT Profiler Report")


def test_nothing_recorded_is_no_error() -> None:
    assert ours.SimpleProfiler(extended=False).summary() == "Profiler Report\n\n"


def test_simple_measures() -> None:
    profiler = ours.SimpleProfiler()
    for _ in range(3):
        with profiler.profile("action") as name:
            assert profiler.current_actions.keys() == {name}
    assert len(profiler.recorded_durations["action"]) == 3
    assert all(0 < seconds < 1 for seconds in profiler.recorded_durations["action"])


def test_simple_refuses() -> None:
    profiler = ours.SimpleProfiler()
    profiler.start("action")
    with pytest.raises(ValueError, match="Attempted to start action which has already started"):
        profiler.start("action")
    profiler.stop("action")
    with pytest.raises(ValueError, match=r"action \(action\) which was never started"):
        profiler.stop("action")


def test_an_action_ends_with_its_exception() -> None:
    profiler = ours.SimpleProfiler()
    with pytest.raises(ZeroDivisionError), profiler.profile("action"):
        raise ZeroDivisionError
    assert profiler.current_actions == {}


@pytest.mark.parametrize("kind", [ours.SimpleProfiler, ours.AdvancedProfiler])
@pytest.mark.parametrize(
    ("stage", "rank", "name"),
    [(None, None, "report.txt"), ("test", None, "test-report.txt"), ("fit", 1, "fit-report-1.txt")],
)
def test_file(kind: Any, tmp_path: Path, stage: str | None, rank: int | None, name: str) -> None:
    profiler = kind(dirpath=tmp_path / "new", filename="report")
    profiler.setup(stage, rank, log_dir="elsewhere")
    with profiler.profile("action"):
        sorted([3, 1])
    profiler.describe()
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]
    assert "action" in (tmp_path / "new" / name).read_text()


def test_reports_are_added_to_the_file(tmp_path: Path) -> None:
    profiler = ours.SimpleProfiler(filename="report")
    profiler.setup("fit", log_dir=str(tmp_path))
    profiler.describe()
    profiler.describe()
    assert (tmp_path / "fit-report.txt").read_text().count("FIT Profiler Report") == 2


def test_unsafe_characters_of_a_file_name(tmp_path: Path) -> None:
    profiler = ours.AdvancedProfiler(dirpath=tmp_path, filename="a/b::c", dump_stats=True)
    with profiler.profile("[Callback]X{'k': 1}.hook"):
        sorted([3, 1])
    profiler.describe()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_b_c-[Callback]X{'k'_ 1}.hook.prof", "a_b_c.txt"]


def test_without_a_file_it_is_logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.INFO, logger="raylight.profilers"):
        ours.SimpleProfiler().describe()
    assert "Profiler Report" in caplog.text
    assert capsys.readouterr().out == ""


def test_where_nobody_reads_the_log_it_is_printed(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="raylight")  # as in a worker process
    profiler = ours.SimpleProfiler()
    profiler.describe()
    assert capsys.readouterr().out.count("Profiler Report") == 1
    profiler.setup("fit", local_rank=1)
    profiler.describe()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", KINDS)
def test_copies_and_pickles_even_in_use(kind: Any, tmp_path: Path) -> None:
    profiler = kind(dirpath=tmp_path, filename="report")
    with profiler.profile("action"):
        torch.ones(1).sum()
        twins = [copy.deepcopy(profiler), pickle.loads(pickle.dumps(profiler))]
    profiler.describe()
    for twin in (*twins, copy.deepcopy(profiler), pickle.loads(pickle.dumps(profiler))):
        assert (twin.dirpath, twin.filename) == (tmp_path, "report")
        with twin.profile("another action"):
            torch.ones(1).sum()
        twin.describe()


# ------------------------------------------------------------------------------------------------ advanced


def outer_function() -> None:
    sum(range(10))


def inner_function() -> None:
    sum(range(10))


def test_advanced_refuses() -> None:
    with pytest.raises(ValueError, match=r"action \(action\) which was never started"):
        ours.AdvancedProfiler().stop("action")


def test_advanced_goes_on_after_a_nested_action() -> None:
    profiler = ours.AdvancedProfiler()
    with profiler.profile("outer"):
        with profiler.profile("inner"):
            inner_function()
        outer_function()
    outer, inner = profiler.summary().split("Profile stats for: ")[1:]
    assert "outer_function" in outer
    assert "inner_function" in inner
    assert "inner_function" not in outer
    assert "outer_function" not in inner


@pytest.mark.parametrize("limit", [1, 0.0])
def test_advanced_limits_its_lines(limit: float) -> None:
    profiler = ours.AdvancedProfiler(line_count_restriction=limit)
    with profiler.profile("action"):
        outer_function()
        inner_function()
    assert ("inner_function" in profiler.summary()) + ("outer_function" in profiler.summary()) <= limit


def test_advanced_dumps_what_pstats_reads(tmp_path: Path) -> None:
    profiler = ours.AdvancedProfiler(dirpath=tmp_path, filename="report", dump_stats=True)
    with profiler.profile("action"):
        outer_function()
    profiler.describe()
    stats: Any = pstats.Stats(str(tmp_path / "report-action.prof"))
    assert any(name == "outer_function" for _, _, name in stats.stats)


def test_advanced_dump_needs_a_folder() -> None:
    profiler = ours.AdvancedProfiler(dump_stats=True)
    with profiler.profile("action"):
        outer_function()
    with pytest.raises(MisconfigurationException, match="give it a dirpath"):
        profiler.summary()


# ------------------------------------------------------------------------------------------------ pytorch


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"sort_by_key": "foo"}, MisconfigurationException, "Found sort_by_key: foo. Should be within"),
        ({"schedule": "a"}, MisconfigurationException, "Schedule should be a callable"),
        ({"schedule": lambda step: 1}, MisconfigurationException, "Schedule should return a `torch.profiler"),
        ({"profiled_functions": ["a"]}, MisconfigurationException, "no arguments"),
        ({"table_kwargs": {"row_limit": 1}}, KeyError, "already a positional argument"),
        ({"table_kwargs": {"foo": 1}}, KeyError, "Should be within"),
    ],
)
def test_pytorch_refuses(kwargs: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ours.PyTorchProfiler(**kwargs)


def test_pytorch_records_labelled_blocks() -> None:
    profiler = ours.PyTorchProfiler(schedule=None, record_shapes=True, group_by_input_shapes=True)
    with profiler.profile("outer"), profiler.profile("inner"):
        torch.ones(3).sum()
    profiler.describe()
    assert profiler.function_events is not None
    names = {event.name for event in profiler.function_events}
    assert {"[pl][profile]outer", "[pl][profile]inner", "aten::sum"} <= names
    assert profiler.profiler is None


def test_pytorch_table(tmp_path: Path) -> None:
    profiler = ours.PyTorchProfiler(tmp_path, "report", schedule=None, table_kwargs={"header": "Its header"})
    with profiler.profile("action"):
        torch.ones(3).sum()
    profiler.describe()
    text = (tmp_path / "report.txt").read_text()
    assert "Its header" in text
    assert "aten::sum" in text


def test_pytorch_writes_traces_and_stacks(tmp_path: Path) -> None:
    profiler = ours.PyTorchProfiler(dirpath=tmp_path, filename="report", schedule=None, export_to_flame_graph=True)
    for _ in range(2):
        with profiler.profile("X.test_step"):
            torch.ones(3).sum()
    profiler.describe()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [name.rpartition(".")[2] for name in names] == ["json", "stack", "txt"]
    assert "aten::sum" in (tmp_path / names[0]).read_text()


def test_pytorch_without_a_folder_says_so() -> None:
    profiler = ours.PyTorchProfiler(schedule=None)
    with profiler.profile("X.test_step"):
        torch.ones(3).sum()
    with pytest.warns(UserWarning, match="failed to export trace as `dirpath` is None"):
        profiler.describe()


def test_submodules_are_labelled() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with torch.profiler.profile() as recorded, RegisterRecordFunction(model):
        model(torch.ones(1, 2))
    names = {event.name for event in recorded.events()}
    assert {"[pl][module]torch.nn.modules.linear.Linear: 0", "[pl][module]torch.nn.modules.activation.ReLU: 1"} <= names
    assert not model[0]._forward_hooks


# ------------------------------------------------------------------------------------------------ others


def test_xla_says_what_to_use() -> None:
    with pytest.raises(MisconfigurationException, match="use PyTorchProfiler"):
        ours.XLAProfiler()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (None, ours.PassThroughProfiler),
        ("simple", ours.SimpleProfiler),
        ("Advanced", ours.AdvancedProfiler),
        ("pytorch", ours.PyTorchProfiler),
    ],
)
def test_names(name: str | None, kind: type) -> None:
    assert type(ours.make_profiler(name)) is kind


@pytest.mark.parametrize("bad", ["nothing", 3, object()])
def test_unknown(bad: Any) -> None:
    with pytest.raises(MisconfigurationException, match="profiler"):
        ours.make_profiler(bad)
