"""All that is found out about this machine and its cluster; what Ray is asked for is done by a process that may fail.

Runs on the driver.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import IO

from raylight.engine.address import examine_address, examine_authentication, find_address
from raylight.engine.conditions import HERE, examine_machines
from raylight.engine.probe import report
from raylight.utilities.findings import PROBLEM, Finding, problem

GRACE_SECONDS = 20.0
"""Beyond what a node has for an answer, for the process between two lines."""


def examine_all(asked: str | None, folder: str, seconds: float) -> Iterator[Finding]:
    """Findings as they come.

    Args:
        asked: The cluster's address; None: the one that a Trainer would join.
        folder: Path or URI, where files of runs go.
        seconds: That Ray and each node have for an answer.
    """
    address = find_address(asked)
    reached = examine_address(address)
    yield reached
    permitted, variables = examine_authentication(address)
    yield permitted
    was_told_of_machines = False
    if address.text is not None and PROBLEM not in (reached.level, permitted.level):
        for finding in examine_cluster(address.text, folder, seconds, variables):
            was_told_of_machines |= finding.subject == "versions"
            yield finding
    if not was_told_of_machines:
        yield from examine_machines({HERE: report()})


def examine_cluster(address: str, folder: str, seconds: float, variables: Mapping[str, str]) -> Iterator[Finding]:
    """The findings of ``raylight.engine.examination``, and one more where that process hangs or is ended."""
    command = [sys.executable, "-m", "raylight.engine.examination", address, folder, str(seconds)]
    environment = {**os.environ, **variables, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    doing, patience = "starting", seconds + GRACE_SECONDS
    with (
        tempfile.TemporaryFile("w+", errors="replace") as complaints,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=complaints, text=True) as process,
    ):
        try:
            for line in _lines(process.stdout, patience):
                entry = json.loads(line)
                if "doing" in entry:
                    doing = entry["doing"]
                else:
                    yield Finding(**entry)
            if process.wait(patience) != 0:
                yield _failure(f"Ray ended the process that asked it, while {doing}.", complaints)
        except (queue.Empty, subprocess.TimeoutExpired):
            yield _failure(f"Ray gave no answer within {patience:g} s, while {doing}.", complaints)
        finally:
            process.kill()  # with the connection all that it has on the cluster ends


def _lines(stream: IO[str] | None, seconds: float) -> Iterator[str]:
    """Lines as they come.

    Raises:
        queue.Empty: None came for so many seconds.
    """
    arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in stream or ():
            arrived.put(line)
        arrived.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := arrived.get(timeout=seconds)) is not None:
        yield line


def _failure(what: str, complaints: IO[str]) -> Finding:
    complaints.seek(0)
    lines = [line.strip() for line in complaints if line.strip() and not line.startswith(("/", " ", "***"))]
    return problem(
        "Ray",
        what + (f" Its last words: {lines[-1]}" if lines else ""),
        "Does `ray status` answer? If not, stop the cluster with `ray stop` on its nodes, and start it again.",
    )
