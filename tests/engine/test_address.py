"""Which cluster would be joined, and whether it can be, found out without Ray."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylight.engine.address import Address, address_file, examine_address, examine_authentication, find_address

NAMED = Address("10.0.0.1:6379", "RAY_ADDRESS")


@pytest.fixture(autouse=True)
def _nothing_of_rays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


@pytest.fixture
def closed() -> str:
    """An address where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def leave_address(text: str) -> Path:
    file = address_file()
    file.parent.mkdir()
    file.write_text(text + "\n")
    return file


def test_none_is_running() -> None:
    finding = examine_address(find_address())
    assert finding.level == "ok"
    assert "starts one on this machine" in finding.what


def test_order_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    file = leave_address("10.0.0.2:6379")
    assert find_address() == find_address("auto") == Address("10.0.0.2:6379", str(file))
    assert find_address().was_found
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert find_address() == NAMED
    assert not NAMED.was_found
    assert find_address("10.0.0.3:1") == Address("10.0.0.3:1", "--address")
    assert find_address("local").text is None


def test_the_file_of_rays_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is where Ray looks for it."""
    from ray._private.utils import read_ray_address

    leave_address("10.0.0.2:6379")
    assert read_ray_address() == find_address().text
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv("TMPDIR", str(address_file().parents[2] / "elsewhere"))
    assert read_ray_address() is None
    assert find_address().text is None


def test_a_file_of_a_cluster_that_was_killed(closed: str) -> None:
    file = leave_address(closed)
    finding = examine_address(find_address())
    assert finding.level == "problem"
    assert f"{file} names {closed}, where nothing answers" in finding.what
    assert finding.remedy == f"Type `ray stop`, or `rm {file}`."


def test_a_head_that_is_not_there(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", closed)
    finding = examine_address(find_address())
    assert finding.level == "problem"
    assert "(from RAY_ADDRESS)" in finding.what
    assert "ray start --head" in finding.remedy


def test_one_that_answers(listening: str) -> None:
    assert examine_address(find_address(listening)).level == "ok"


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("ray://10.0.0.1:10001", "raylight submit"),
        ("http://10.0.0.1:8265", "such as 10.0.0.1:6379"),
        ("10.0.0.1", "such as 10.0.0.1:6379"),
        ("127.0.0.1:70000", "correct the address"),
    ],
)
def test_addresses_that_cannot_be(text: str, remedy: str) -> None:
    finding = examine_address(find_address(text))
    assert finding.level == "problem"
    assert remedy in finding.remedy


# ------------------------------------------------------------------------------------------------ authentication


@pytest.mark.parametrize(
    ("variables", "level", "told"),
    [
        ({}, "ok", "not set"),
        ({"RAY_AUTH_MODE": "disabled"}, "ok", "disabled"),
        ({"RAY_AUTH_MODE": "tokens"}, "warning", "does not know"),
        ({"RAY_AUTH_MODE": "token"}, "problem", "there is no token"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "12345678ab\n"}, "ok", "from RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "1234 5678"}, "problem", "a blank"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "12345678ä"}, "problem", "a letter that no token has"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": '"12345678"'}, "problem", "quotation mark"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "nowhere"}, "problem", "cannot be read"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "empty"}, "problem", "is empty"),
    ],
)
def test_tokens(
    variables: dict[str, str], level: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").touch()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    finding, sets = examine_authentication(NAMED)
    assert (finding.level, sets) == (level, {})
    assert told in finding.what
    assert "12345678" not in finding.what
    if level == "problem":
        lines = [line.strip() for line in finding.remedy.splitlines()]
        assert "ray get-auth-token" in lines[0]
        assert lines[1] == "export RAY_AUTH_MODE=token"
        assert lines[2].startswith("export RAY_AUTH_TOKEN=...")


def test_the_token_of_a_cluster_that_was_found(tmp_path: Path) -> None:
    """As ``ray.init`` does, it is used without RAY_AUTH_MODE; with an address that was named it is not."""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("12345678ab")
    finding, sets = examine_authentication(Address("10.0.0.1:6379", str(address_file())))
    assert (finding.level, sets) == ("ok", {"RAY_AUTH_MODE": "token"})
    finding, sets = examine_authentication(NAMED)
    assert (finding.what, sets) == ("RAY_AUTH_MODE is not set: no token is sent.", {})


def test_a_cluster_started_here_makes_its_own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    finding, sets = examine_authentication(find_address())
    assert (finding.level, sets) == ("ok", {})
