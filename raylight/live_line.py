"""One line of text that tells how a run on several workers is doing."""

from __future__ import annotations

from raylight.config.messages import Pace

PREFIXES = ("", "k", "M", "G")
SEPARATOR = " | "


def describe(pace: Pace, incidents: int) -> str:
    """Workers, samples per second, the rank that the others wait for, incidents survived."""
    parts = [
        _count(pace.world_size, "worker"),
        f"{_short(pace.samples_per_second)} samples/s",
        _slowest(pace),
        _count(incidents, "incident"),
    ]
    return SEPARATOR.join(parts)


def _slowest(pace: Pace) -> str:
    batch = _duration(pace.batch_seconds)
    if pace.slowest is None:
        return f"{batch} per batch, no rank lags"
    return (
        f"{batch} per batch, rank {pace.slowest} is slowest by {_duration(pace.lag_seconds)} and waits "
        f"{_duration(pace.data_seconds)} for data"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _short(number: float) -> str:
    """Three digits and a prefix: 5.12k."""
    for prefix in PREFIXES:
        if number < 999.5 or prefix == PREFIXES[-1]:
            break
        number /= 1000
    digits = 0 if number >= 99.95 else 1 if number >= 9.995 else 2
    text = f"{number:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + prefix


def _duration(seconds: float) -> str:
    return f"{_short(seconds)} s" if seconds >= 1 else f"{_short(seconds * 1000)} ms"
