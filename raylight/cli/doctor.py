"""``raylight doctor``: whether a run will work here, on this machine and on the Ray cluster that a Trainer would use.

With a script it is the script that is examined, without a cluster and without training: it runs up to its first
``Trainer.fit``, and what that would train is looked at.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence

from raylight.utilities.findings import OK, PROBLEM, WARNING, Finding

USAGE = "raylight doctor [--json] [--address ADDRESS] [--storage PATH] [--timeout SECONDS] [script.py [argument ...]]"
HEALTHY, ILL, INTERRUPTED = 0, 1, 130
"""Exit status."""
SECONDS = 60.0
STYLES = {OK: "green", WARNING: "yellow", PROBLEM: "bold red"}


def main(arguments: Sequence[str]) -> int:
    """Runs on the driver: the command line behind ``raylight doctor``; returns the exit status.

    An exception of the script's passes through.
    """
    parser = argparse.ArgumentParser(
        usage=USAGE, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--address", help="of the cluster; RAY_ADDRESS, or the one that runs here")
    parser.add_argument("--storage", metavar="PATH", help="a folder, or URI, of runs' files; the working directory")
    parser.add_argument(
        "--timeout", type=float, default=SECONDS, metavar="SECONDS", help=f"that a node has for an answer; {SECONDS:g}"
    )
    parser.add_argument("script", nargs="?", help="its path; what follows is for the script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    if not math.isfinite(options.timeout) or options.timeout <= 0:
        parser.error("--timeout must be a number of seconds > 0")
    if options.script is None:
        from raylight.engine.examiner import examine_all

        folder = options.storage if options.storage is not None else os.getcwd()
        findings: Iterable[Finding] = examine_all(options.address, folder, options.timeout)
    else:
        if options.address is not None or options.storage is not None:
            parser.error("--address and --storage are of a cluster, which is not asked where a script is examined")
        if not os.path.isfile(options.script):
            parser.error(f"there is no script {options.script!r}")
        from raylight.cli.script_examination import examine_script

        findings = examine_script(options.script, options.arguments)
    try:
        told = print_json(findings) if options.json else print_text(findings)
    except KeyboardInterrupt:
        if options.script is not None:  # the script's own
            raise
        return INTERRUPTED
    return ILL if any(finding.level == PROBLEM for finding in told) else HEALTHY


def print_json(findings: Iterable[Finding]) -> list[Finding]:
    """One document, when all findings are there; returns them."""
    from raylight import __version__

    with contextlib.redirect_stdout(sys.stderr):  # what a script prints is no part of it
        told = list(findings)
    count = {f"{level}s": sum(finding.level == level for finding in told) for level in (PROBLEM, WARNING)}
    document = {"raylight": __version__, **count, "findings": [dataclasses.asdict(finding) for finding in told]}
    print(json.dumps(document, indent=2))
    return told


def print_text(findings: Iterable[Finding]) -> list[Finding]:
    """Each as it comes, with its remedy below; returns them."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout)
    told = []
    for finding in findings:
        told.append(finding)
        line = Text.assemble((f"{finding.level:8}", STYLES[finding.level]), f" {finding.subject}: {finding.what}")
        console.print(line, soft_wrap=True)
        for line_of_remedy in finding.remedy.splitlines():
            console.print(Text(f"{'':9}{line_of_remedy}"), soft_wrap=True)
    count = {level: sum(finding.level == level for finding in told) for level in (PROBLEM, WARNING)}
    console.print(f"{count[PROBLEM]} problems, {count[WARNING]} warnings", highlight=False)
    return told
