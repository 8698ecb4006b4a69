"""One rank speaks."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings

import pytest

from raylight.utilities import rank_zero
from raylight.utilities.rank_zero import WarningCache, rank_zero_only
from raylight.utilities.warnings import LightningDeprecationWarning, disable_possible_user_warnings


@rank_zero_only
def speak() -> str:
    return "spoken"


def test_rank_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (speak(), rank_zero_only.rank) == ("spoken", 0)
    monkeypatch.setenv("RANK", "1")
    assert (speak(), rank_zero_only.rank) == (None, 1)


def test_rank_that_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 2)
    assert speak() is None
    assert rank_zero.rank() == 2
    assert rank_zero_only(lambda: 1, default=5)() == 5


@pytest.fixture(autouse=True)
def _rank_of_the_environment() -> object:
    yield
    del rank_zero_only.rank


def test_cache_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    cache = WarningCache()

    def speak_twice() -> None:
        for _ in range(2):
            cache.warn("once")
            cache.deprecation("old")
            cache.info("told %s")

    with pytest.warns() as said, caplog.at_level(logging.INFO, logger="raylight"):
        speak_twice()
    assert [str(warning.message) for warning in said] == ["once", "old"]
    assert [record.getMessage() for record in caplog.records] == ["told %s"]
    assert "once" in cache


def test_info_takes_what_logging_takes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="raylight"):
        rank_zero.rank_zero_info("step %d", 3)
        rank_zero.rank_zero_debug("more")
    assert [record.getMessage() for record in caplog.records] == ["step 3", "more"]
    assert {record.filename for record in caplog.records} == {"test_rank_zero.py"}


def test_deprecation_is_of_its_own_kind() -> None:
    with pytest.warns(LightningDeprecationWarning, match="use y"):
        rank_zero.rank_zero_deprecation("x is old: use y")


def test_possible_mistakes_can_be_silenced() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        disable_possible_user_warnings()
        rank_zero.rank_zero_warn("perhaps", category=rank_zero.PossibleUserWarning)
        rank_zero.rank_zero_warn("surely")
    assert [str(warning.message) for warning in said] == ["surely"]


def test_prefix() -> None:
    assert rank_zero.rank_prefixed_message("text", 1) == "[rank: 1] text"
    assert rank_zero.rank_prefixed_message("text", None) == "text"


SCRIPT = """
import logging
from raylight.utilities.rank_zero import rank_zero_info
rank_zero_info("seen")
logging.getLogger("raylight").setLevel(logging.ERROR)
rank_zero_info("silenced")
logging.getLogger("raylight").setLevel(logging.INFO)
logging.basicConfig(format="%(message)s, as the script formats it")
rank_zero_info("once")
"""


def test_info_is_seen_where_logging_is_not_set_up() -> None:
    told = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert told.stderr.splitlines() == ["seen", "once, as the script formats it"]
