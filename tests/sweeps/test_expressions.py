from __future__ import annotations

from typing import Any

import pytest
from ray import tune

from raylight.sweeps.expressions import expression_of, is_searched, parse
from raylight.utilities.exceptions import MisconfigurationException

TEXTS = [
    "uniform(0.0, 1.0)",
    "quniform(0.0, 1.0, 0.25)",
    "loguniform(1e-05, 0.1)",
    "qloguniform(0.0001, 0.1, 0.0001)",
    "randn(0.0, 2.0)",
    "qrandn(0.0, 2.0, 0.5)",
    "randint(1, 10)",
    "qrandint(2, 10, 2)",
    "lograndint(1, 1000)",
    "choice(32, 64, 'relu', None, (1, 2))",
    "grid_search(1, 2.5, True)",
]


@pytest.mark.parametrize("text", TEXTS)
def test_there_and_back(text: str) -> None:
    made = parse(text)
    assert is_searched(made)
    assert expression_of(made) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3),
        ("1e-3", 0.001),
        ("relu", "relu"),
        ("'a b'", "a b"),
        ("[1, 2]", [1, 2]),
        ("None", None),
        ("a/b.txt", "a/b.txt"),
    ],
)
def test_constants(text: str, expected: Any) -> None:
    assert parse(text) == expected
    assert not is_searched(expected)


def test_words_within_a_choice() -> None:
    assert parse("choice(relu, gelu)").categories == ["relu", "gelu"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("logunifrom(1, 2)", r"did you mean loguniform\?"),
        ("__import__('os').system('touch hacked')", "is not one of"),
        ("choice(__import__('os').system('touch hacked'))", "is no literal"),
        ("uniform(open('hacked', 'w'), 1)", "is no literal"),
        ("(lambda: open('hacked', 'w'))()", "is not one of"),
        ("[open('hacked', 'w')]", "is neither a distribution nor a constant"),
        ("uniform(1)", "uniform"),
        ("loguniform(-1, 1)", "loguniform"),
    ],
)
def test_nothing_is_run(text: str, match: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MisconfigurationException, match=match):
        parse(text)
    assert list(tmp_path.iterdir()) == []


def test_what_has_no_text() -> None:
    assert expression_of(tune.sample_from(lambda spec: 1)) is None
    assert expression_of(tune.choice([object()])) is None
    assert expression_of({"lr": 1}) is None
