"""What an examination has found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from raylight.utilities.secrets import redact_text

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: str
    """"ok"; "warning": works, but slower or otherwise than meant; "problem": a run fails, waits or is wrong."""
    subject: str
    """In one or two words."""
    what: str
    """What was seen."""
    remedy: str = ""
    """What to do; empty where there is nothing to do."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "what", redact_text(self.what))
        object.__setattr__(self, "remedy", redact_text(self.remedy))


def ok(subject: str, what: str) -> Finding:
    return Finding(OK, subject, what)


def warning(subject: str, what: str, remedy: str) -> Finding:
    return Finding(WARNING, subject, what, remedy)


def problem(subject: str, what: str, remedy: str) -> Finding:
    return Finding(PROBLEM, subject, what, remedy)
