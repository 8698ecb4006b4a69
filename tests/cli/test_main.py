import subprocess
import sys

import pytest

import raylight
from raylight.cli.main import main


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"raylight {raylight.__version__}"


def test_help_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "usage: raylight" in capsys.readouterr().out


def test_unknown_option_is_refused() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--versoin"])
    assert stop.value.code == 2


def test_python_dash_m() -> None:
    told = subprocess.run([sys.executable, "-m", "raylight", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout == f"raylight {raylight.__version__}\n"
