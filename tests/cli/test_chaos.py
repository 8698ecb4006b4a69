"""``raylight chaos``: a script with its workers killed ends as it would have."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from raylight.cli import chaos
from raylight.engine import pool

SCRIPT = """
import sys, time, torch, raylight as pl
from torch.utils.data import DataLoader
class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5))
    def training_step(self, batch, batch_idx):
        time.sleep(0.01)
        self.log("loss", loss := self.layer(batch).square().mean())
        return loss
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.1)
pl.seed_everything(1 if sys.argv[1] == "seeded" else None, verbose=False)
if sys.argv[1] != "seeded":
    torch.seed()
trainer = pl.Trainer(accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False,
                     enable_checkpointing=False, enable_model_summary=False)
trainer.fit(Model(), DataLoader(torch.randn(200, 1), batch_size=1, shuffle=True))
sys.exit(0)
"""


@pytest.mark.parametrize("text", ["20s", "every=20", "every=0s", "every=-1s", "each=2s"])
def test_bad_intervals(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        chaos.main(["--kill", text, "script.py"])
    assert ended.value.code == 2
    assert "is not of the form every=TIME" in capsys.readouterr().err


def test_bad_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        chaos.main(["--nodes", "2", "--cpus-per-node", "0", "script.py"])
    assert "--cpus-per-node >= 1" in capsys.readouterr().err


def test_no_script(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        chaos.main(["nowhere.py"])
    assert "there is no script 'nowhere.py'" in capsys.readouterr().err


def test_intervals() -> None:
    assert [chaos.interval(f"every={text}") for text in ("500ms", "20s", "1.5m")] == [0.5, 20.0, 90.0]


def test_differences_are_named() -> None:
    def fit(weight: float, steps: int = 3, **metrics: float) -> dict[str, Any]:
        values = {name: torch.tensor(value) for name, value in metrics.items()}
        return {"weights": {"w": torch.tensor(weight)}, "metrics": values, "steps": steps}

    assert chaos.differences([fit(1.0, loss=2.0)], [fit(1.0, loss=2.0)]) == []
    assert chaos.differences([fit(1.0, loss=math.nan)], [fit(1.0, loss=math.nan)]) == []
    assert chaos.differences([fit(1.0, loss=math.nan)], [fit(1.0, loss=2.0)]) == ["fit 0: metrics 'loss' differ"]
    assert chaos.differences([fit(1.0, loss=2.0)], [fit(1.1, 4)]) == [
        "fit 0: weights 'w' differ",
        "fit 0: metrics 'loss' differ",
        "fit 0: 3 steps, and 4 in the disturbed run",
    ]
    assert chaos.differences([], [fit(1.0)]) == ["fit was called 0 times, and 1 times in the disturbed run"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(("seeding", "status", "verdict"), [("seeded", 0, "are equal"), ("unseeded", 1, "differ")])
def test_a_script(ray_cluster: str, nothing_held: Any, tmp_path: Path, seeding: str, status: int, verdict: str) -> None:
    pool.shutdown()
    (tmp_path / "script.py").write_text(SCRIPT)
    options = ["--kill", "every=1500ms", "--most", "2"]  # the script works for 4 s
    command = [sys.executable, "-m", "raylight", "chaos", *options, "script.py", seeding]
    environment = {**os.environ, "RAY_ADDRESS": ray_cluster}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == status, done.stdout + done.stderr
    assert "2 workers were killed; the results " + verdict in done.stdout
    assert "s lost: The worker of rank 0" in done.stdout
    nothing_held()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_nodes(tmp_path: Path) -> None:
    """On a cluster of its own, beside the session's: it loses workers and nodes."""
    (tmp_path / "script.py").write_text(SCRIPT.replace("max_epochs=2", "max_epochs=30, devices=2"))
    options = ["--nodes", "3", "--kill", "every=2s", "--most", "2", "--seed", "2"]
    command = [sys.executable, "-m", "raylight", "chaos", *options, "script.py", "seeded"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) workers and (\d+) nodes were killed; the results are equal", done.stdout)
    assert found is not None, done.stdout
    assert int(found[1]) + int(found[2]) == 2
    assert int(found[2]) > 0


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_thirty_kills(tmp_path: Path) -> None:
    """In one run of two workers; none hangs, and nothing of them is seen in the end."""
    flags = "max_epochs=60, devices=2, snapshot_every_n_steps=20"
    (tmp_path / "script.py").write_text(SCRIPT.replace("max_epochs=2", flags))
    command = [sys.executable, "-m", "raylight", "chaos", "--kill", "every=1s", "--most", "30", "script.py", "seeded"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 workers were killed; the results are equal" in done.stdout, done.stdout
