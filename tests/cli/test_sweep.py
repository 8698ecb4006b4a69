"""``raylight sweep``: the search for a script's hyperparameters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from raylight.cli.main import main
from raylight.engine import pool

from .conftest import PROGRAMS, RAYLIGHT, Python

SCRIPT = str(PROGRAMS / "lightning_script.py")
Sweep = Callable[..., "tuple[int, str, str]"]


@pytest.fixture
def raylight_sweep(python: Python) -> Sweep:
    """``raylight_sweep(*arguments)``: exit status, and what the command printed and complained."""

    def run(*arguments: str) -> tuple[int, str, str]:
        ended = python("-c", RAYLIGHT, "sweep", *arguments)
        return ended.returncode, ended.stdout, ended.stderr

    return run


@pytest.mark.slow
@pytest.mark.ray
def test_a_script_for_lightning(
    ray_cluster: str, raylight_sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.shutdown()
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    varied = ["--set", "model.lr=grid_search(0.01, 0.2)", "--set", "data.batch_size=8"]
    options = ["--num-samples", "1", "--scheduler", "none", "--name", "one", "--plot", "plot.png"]
    status, told, complained = raylight_sweep(SCRIPT, *varied, *options, "--", "--epochs", "2")
    assert status == 0, complained
    assert "with model.lr=0.2, data.batch_size=8" in told
    assert (tmp_path / "plot.png").exists()
    trial = json.loads((tmp_path / "raylight_sweeps" / "one" / "trial_0001" / "trial.json").read_text())
    assert trial["params"] == {"model.lr": 0.2, "data.batch_size": 8}
    assert [report["step"] for report in trial["reports"]] == [4, 8]  # --epochs 2
    assert trial["reports"][0]["scale"] == 6.0  # twice the script's own
    assert not (tmp_path / "elsewhere").exists()
    status, again, complained = raylight_sweep(SCRIPT, "--resume", "raylight_sweeps/one", "--", "--epochs", "2")
    assert status == 0, complained
    assert again.splitlines()[-2:] == [line for line in told.splitlines() if line.startswith(("best:", "checkpoint:"))]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "give at least one --set NAME=DISTRIBUTION"),
        (["--set", "model.lr"], "must be NAME=DISTRIBUTION"),
        (["--set", "lr=logunifor(1,2)"], "did you mean loguniform?"),
        (["--set", "lr=choice(open('x'))"], "is no literal"),
        (["--set", "lr=uniform(0,1)", "--mode", "least"], "invalid choice: 'least'"),
        (["--resume", "x", "--set", "lr=1", "--mode", "max"], "--set, --mode: a sweep that is resumed has it from its"),
    ],
)
def test_bad_options(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "script.py", *arguments])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(
            [SCRIPT, "--set", "model.rate=uniform(0,1)"],
            "the model takes no argument 'rate'; it takes lr, scale",
            marks=pytest.mark.slow,
        ),
        pytest.param([SCRIPT, "--resume", "nowhere"], "is not the folder of a sweep", marks=pytest.mark.slow),
        pytest.param(
            ["nowhere.py", "--set", "lr=uniform(0,1)"], "can't open file 'nowhere.py'", marks=pytest.mark.slow
        ),
        ([str(PROGRAMS / "ray_helper.py"), "--set", "lr=uniform(0,1)"], "ended without a call of Trainer.fit"),
    ],
)
def test_bad_scripts(raylight_sweep: Sweep, arguments: list[str], complaint: str) -> None:
    status, _, complained = raylight_sweep(*arguments)
    assert status == 2
    assert complaint in complained
    assert "Traceback" not in complained
