"""The network device that the workers use."""

from __future__ import annotations

import os

import pytest
import ray  # noqa: F401  brings psutil, in the workers too

from raylight.engine import network


def test_device_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(network.VARIABLE, "")
    del os.environ[network.VARIABLE]  # and so it is again after the test
    network.choose_device("192.0.2.1")  # nobody's
    assert network.VARIABLE not in os.environ
    network.choose_device("127.0.0.1")
    assert os.environ[network.VARIABLE] == "lo"


def test_what_was_chosen_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(network.VARIABLE, "eth7")
    network.choose_device("127.0.0.1")
    assert os.environ[network.VARIABLE] == "eth7"
