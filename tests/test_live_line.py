"""The line below the bars, as text."""

from __future__ import annotations

import pytest

from raylight.config.messages import Pace
from raylight.live_line import describe


@pytest.mark.parametrize(
    ("pace", "incidents", "text"),
    [
        (
            Pace(2, 5123.4, 0.040, 1, 0.0123, 0.011),
            1,
            "2 workers | 5.12k samples/s | 40 ms per batch, rank 1 is slowest by 12.3 ms and waits 11 ms for data | "
            "1 incident",
        ),
        (
            Pace(64, 12_345_678.0, 1.25, None, 0.0, 0.0),
            0,
            "64 workers | 12.3M samples/s | 1.25 s per batch, no rank lags | 0 incidents",
        ),
        (
            Pace(1, 3.0, 0.0005, None, 0.0, 0.0),
            2,
            "1 worker | 3 samples/s | 0.5 ms per batch, no rank lags | 2 incidents",
        ),
        (
            Pace(2, 999.6, 120.0, None, 0.0, 0.0),
            0,
            "2 workers | 1k samples/s | 120 s per batch, no rank lags | 0 incidents",
        ),
    ],
)
def test_text(pace: Pace, incidents: int, text: str) -> None:
    assert describe(pace, incidents) == text
