"""LightningCLI on two workers: its callback travels, and its config is written once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_models import QUIET, Linear

from raylight.cli import LightningCLI, SaveConfigCallback

pytestmark = pytest.mark.ray


class Noting(SaveConfigCallback):
    def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
        text = self.parser.dump(self.config, skip_none=False)
        with open(Path(trainer.log_dir, "calls"), "a") as file:
            file.write(f"{trainer.global_rank} {stage} {text == Path(trainer.log_dir, 'config.yaml').read_text()}\n")


class WithData(Linear):
    def __init__(self, part: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.part = part

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(8, 4), torch.ones(8, 1)))


class Part(torch.nn.Identity):
    """Known to the test alone."""


def test_config_is_written_by_rank_zero(ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["any.py"])
    args = ["fit", f"--model.part={__name__}.Part", "--optimizer=Adam", "--optimizer.lr=0.25", "--seed_everything=3"]
    with pytest.warns(UserWarning, match="will be overridden"):
        cli = LightningCLI(
            WithData,
            args=args,
            save_config_callback=Noting,
            trainer_defaults={**QUIET, "num_workers": 2, "max_epochs": 1, "default_root_dir": str(tmp_path)},
        )

    assert (tmp_path / "calls").read_text() == "0 fit True\n"
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["optimizer"]["init_args"]["lr"] == 0.25
    assert cli.trainer.global_step == 4
