"""``raylight ckpt``: what is printed, written and refused."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from raylight.checkpoint import format as checkpoint_format
from raylight.checkpoint.progress import Position, to_loops
from raylight.cli.main import main


def content(**more: Any) -> dict[str, Any]:
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(3, 2), "head": torch.nn.Linear(2, 1)})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    sum(parameter.sum() for parameter in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    return {
        "epoch": 1,
        "global_step": 4,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": model.state_dict(),
        "loops": to_loops(Position(epoch=1, global_step=4), automatic=True),
        "callbacks": {"Timer": {"time_elapsed": {"train": 2.5}}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"last_epoch": 1}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.5, "layers": [3, 2]},
        "mine": torch.ones(2, 2),
        **more,
    }


def old_content() -> dict[str, Any]:
    old = content(hyper_parameters=argparse.Namespace(lr=0.5))
    old["pytorch-lightning_version"] = "1.4.9"
    del old["loops"]
    return old


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    torch.save(old_content(), tmp_path / "old.ckpt")
    return tmp_path / "old.ckpt"


def run(*arguments: Any) -> int:
    return main(["ckpt", *map(str, arguments)])


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("raylight ckpt: ")
    return lines[0]


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint_format.save(content(), tmp_path / "a.ckpt")

    assert run("inspect", tmp_path / "a.ckpt") == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("a.ckpt': Lightning 2.6.6")
    assert lines[1] == "epoch 1, global step 4"
    assert "  body: 2 tensors, 8 elements, 32 bytes" in lines
    assert "  in all: 4 tensors, 11 elements, 44 bytes" in lines
    assert "  lr: 0.5" in lines
    assert '  Timer: {"time_elapsed": {"train": 2.5}}' in lines
    assert "added by the user: mine" in lines
    assert "lr_schedulers[0]:" in lines


def test_inspect_as_json(old_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "--json", old_file) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["lightning_version"] == "1.4.9"
    assert found["hyper_parameters"] == {"lr": 0.5}
    assert found["modules"]["head"] == {"tensors": 2, "elements": 3, "bytes": 12}
    assert found["optimizers"][0]["param_groups"][0]["params"] == 4
    assert found["optimizers"][0]["parameters_with_state"] == 4
    assert found["optimizers"][0]["state"] == ["exp_avg", "exp_avg_sq", "step"]
    assert found["added"] == ["mine"]


def test_inspect_of_a_strange_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strange = {
        "state_dict": [1], "callbacks": 3, "optimizer_states": [None, {"param_groups": [1], "state": 2}],
        "hyper_parameters": {f"name{number}": "x" * 1000 for number in range(100)}, "loops": None,
        "\x1b[31mred": 1, "epoch": {"a": {"b": {"c": {"d": 1}}}}, 5: float("nan"),
    }  # fmt: skip
    torch.save(strange, tmp_path / "a.ckpt")

    assert run("inspect", tmp_path / "a.ckpt") == 0

    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "80 more" in printed
    assert len(printed) < 10_000
    assert run("inspect", "--json", tmp_path / "a.ckpt") == 0
    assert json.loads(capsys.readouterr().out)["epoch"] == {"a": {"b": {"c": "1 entries"}}}


def test_upgrade_in_place(old_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = old_file.read_bytes()

    assert run("upgrade", old_file) == 0

    assert "1.4.9 -> 2.6.6 (changes of 1.5.0, 1.6.0, 1.6.5, 1.9.0, 2.0.0, 2.1.0)" in capsys.readouterr().out
    assert Path(f"{old_file}.bak").read_bytes() == before
    upgraded = torch.load(old_file, weights_only=True)
    assert upgraded["hyper_parameters"] == {"lr": 0.5}
    assert upgraded["legacy_pytorch-lightning_version"] == "1.4.9"
    assert upgraded["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"] == 1
    assert sorted(os.listdir(old_file.parent)) == ["old.ckpt", "old.ckpt.bak"]

    assert run("upgrade", old_file) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert Path(f"{old_file}.bak").read_bytes() == before


def test_upgrade_of_a_file_that_only_needs_plain_types(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(content(hyper_parameters={"root": Path("a")}), tmp_path / "a.ckpt")

    assert run("upgrade", tmp_path / "a.ckpt") == 0

    assert "2.6.6 -> 2.6.6 (plain types)" in capsys.readouterr().out
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"] == {"root": "a"}


def test_upgrade_to_another_file(old_file: Path) -> None:
    before = old_file.read_bytes()

    assert run("upgrade", old_file, "--output", old_file.with_name("new.ckpt")) == 0

    assert torch.load(old_file.with_name("new.ckpt"), weights_only=True)["pytorch-lightning_version"] == "2.6.6"
    assert old_file.read_bytes() == before
    assert not Path(f"{old_file}.bak").exists()


def test_upgrade_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("runs/a.ckpt", "runs/below/b.ckpt", "runs/notes.txt"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        torch.save(old_content(), tmp_path / place)
    (tmp_path / "runs/broken.ckpt").write_bytes(b"x")

    assert run("upgrade", tmp_path / "runs", "--output", tmp_path / "new") == 2

    assert "broken.ckpt" in complaint(capsys)
    written = sorted(str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*.*"))
    assert written == ["a.ckpt", "below/b.ckpt"]


@pytest.mark.parametrize("command", ["inspect", "upgrade"])
@pytest.mark.parametrize(
    ("name", "bytes_of_file", "expected"),
    [
        ("missing.ckpt", None, "Checkpoint file not found"),
        ("text.ckpt", b"hello", "not written by `torch.save`"),
        ("empty.ckpt", b"", "truncated"),
    ],
)
def test_what_is_no_checkpoint(
    command: str, name: str, bytes_of_file: bytes | None, expected: str, tmp_path: Path, capsys: Any
) -> None:
    if bytes_of_file is not None:
        (tmp_path / name).write_bytes(bytes_of_file)

    assert run(command, tmp_path / name) == 2

    assert expected in complaint(capsys)
    assert os.listdir(tmp_path) == ([name] if bytes_of_file is not None else [])


def test_weights_alone_and_truncated_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"w": torch.ones(1000)}, tmp_path / "weights.ckpt")
    (tmp_path / "half.ckpt").write_bytes((tmp_path / "weights.ckpt").read_bytes()[:2000])

    assert run("inspect", tmp_path / "weights.ckpt") == 2
    assert "is not a checkpoint: a dict with the key 'state_dict' was expected" in complaint(capsys)
    assert run("upgrade", tmp_path / "half.ckpt") == 2
    assert "truncated" in complaint(capsys)


def test_nothing_is_overwritten(old_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = old_file.read_bytes()
    taken = Path(f"{old_file}.bak")
    taken.write_text("mine")

    assert run("upgrade", old_file) == 2
    assert "old.ckpt.bak exists, so the original would be lost" in complaint(capsys)
    assert run("upgrade", old_file, "--output", taken) == 2
    assert "exists and was not overwritten" in complaint(capsys)
    assert run("upgrade", old_file, old_file, "--output", taken) == 2
    assert "is a file: several checkpoints need a folder" in complaint(capsys)

    assert (old_file.read_bytes(), taken.read_text()) == (before, "mine")


def test_newer_file_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer = content()
    newer["pytorch-lightning_version"] = "3.0.0"
    torch.save(newer, tmp_path / "a.ckpt")

    assert run("upgrade", tmp_path / "a.ckpt") == 2
    assert "was left as it is: Lightning 3.0.0, which wrote it, is newer" in complaint(capsys)
    assert run("upgrade", tmp_path / "nothing-here-either") == 2
    assert "Checkpoint file not found" in complaint(capsys)
    (tmp_path / "empty").mkdir()
    assert run("upgrade", tmp_path / "empty") == 2
    assert "No checkpoint files" in complaint(capsys)


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("--help")
    assert stop.value.code == 0
    assert {"inspect", "upgrade"} <= set(capsys.readouterr().out.split())
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 2
