from __future__ import annotations

import threading

import pytest

from raylight.config.messages import Report
from raylight.tuner.gate import Gate


def test_turns_are_taken() -> None:
    gate, order = Gate(), []

    def call() -> None:
        for step in range(3):
            order.append(f"call {step}")
            assert gate.judge(Report({"step": step}))
        order.append("call ends")

    for step in range(3):
        report = gate.next(call)
        assert report is not None
        assert report.values == {"step": step}
        order.append(f"report {step}")
    assert gate.next(call) is None
    assert order == ["call 0", "report 0", "call 1", "report 1", "call 2", "report 2", "call ends"]


def test_an_end_at_a_report_and_a_new_call() -> None:
    gate, ended = Gate(), []

    def call() -> None:
        while gate.judge(Report({})):
            pass
        ended.append(threading.current_thread().name)

    assert gate.next(call) is not None
    assert gate.next(call) is not None
    gate.end()
    assert len(ended) == 1
    assert gate.next(call) is not None
    gate.end()
    assert len(ended) == 2
    gate.end()  # nothing is left


def test_the_calls_exception_is_raised() -> None:
    def call() -> None:
        raise KeyboardInterrupt("the user's")

    gate = Gate()
    with pytest.raises(KeyboardInterrupt, match="the user's"):
        gate.next(call)
    gate.end()
