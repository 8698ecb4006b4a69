"""What the cluster knows a run by."""

from __future__ import annotations

import sys

import pytest

from raylight.engine.names import new_run_name, script_name


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("examples/digits.py", "digits"),
        ("/a b/my script (2).py", "my_script_2"),
        ("", "python"),
        ("-c", "python"),
        ("-", "python"),
        ("/x/ipykernel_launcher.py", "notebook"),
        ("/x/mypackage/__main__.py", "mypackage"),
        ("тест.py", "тест"),
        ("x" * 100 + ".py", "x" * 40),
        ("???.py", "python"),
    ],
)
def test_name_of_the_script(argument: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [argument, "--secret", "of no concern"])
    assert script_name() == name


def test_without_arguments_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    assert script_name() == "python"


def test_two_runs_of_one_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    names = {new_run_name() for _ in range(20)}
    assert len(names) > 1
    assert all(name.startswith("train-") for name in names)
