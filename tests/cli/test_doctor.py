"""``raylight doctor``: its arguments and what it prints; what it finds is tested where it is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import raylight
from raylight.cli.doctor import print_text
from raylight.cli.main import main
from raylight.utilities.findings import Finding, ok, problem, warning


@pytest.fixture(autouse=True)
def _without_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


def test_a_machine_without_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["raylight", "problems", "warnings", "findings"]
    assert found["raylight"] == raylight.__version__
    subjects = [finding["subject"] for finding in found["findings"]]
    assert subjects[:4] == ["Ray address", "authentication", "versions", "CUDA"]
    for finding in found["findings"]:
        assert list(finding) == ["level", "subject", "what", "remedy"]
        assert all(isinstance(text, str) for text in finding.values())
        assert bool(finding["remedy"]) == (finding["level"] != "ok")
    levels = [finding["level"] for finding in found["findings"]]
    assert (found["problems"], found["warnings"]) == (levels.count("problem"), levels.count("warning"))
    assert status == (1 if found["problems"] else 0)


def test_a_problem_is_an_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--address", "ray://10.0.0.1:10001"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("problem  Ray address: ray://10.0.0.1:10001 (from --address) is an address of Ray Client")
    assert told[1].strip() == (
        "Run the script on the cluster: `raylight submit script.py --address http://10.0.0.1:8265`."
    )
    assert told[-1].startswith("1 problems, ")


def test_texts_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    long = "[red]no markup[/red] " + "word " * 60
    findings = [ok("one", long), warning("two", "w", "first line\nsecond line"), problem("three", "p", "r")]
    assert print_text(findings) == findings
    assert capsys.readouterr().out.splitlines() == [
        f"ok       one: {long}", "warning  two: w", "         first line", "         second line", "problem  three: p",
        "         r", "1 problems, 1 warnings",
    ]  # fmt: skip


def test_secrets_of_the_environment_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "very-secret-123")
    told = Finding("problem", "Ray", "sent very-secret-123", "export X=very-secret-123")
    assert (told.what, told.remedy) == ("sent <redacted>", "export X=<redacted>")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--timeout", "0"], "--timeout must be a number of seconds > 0"),
        (["--timeout", "nan"], "--timeout must be a number of seconds > 0"),
        (["nowhere.py"], "there is no script 'nowhere.py'"),
        (["--address", "a:1", "nowhere.py"], "which is not asked where a script is examined"),
    ],
)
def test_bad_arguments(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", *arguments])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err
