"""The command ``raylight``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from raylight import __version__
from raylight.cli import chaos, ckpt, doctor, jobs, run, submit, sweep

COMMANDS = {
    "chaos": chaos.main,
    "doctor": doctor.main,
    "run": run.main,
    "submit": submit.main,
    "sweep": sweep.main,
}
"""Those that read their own arguments, as these are a script's."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in COMMANDS:
        return COMMANDS[arguments[0]](arguments[1:])
    parser = argparse.ArgumentParser(prog="raylight", description="Your PyTorch Lightning script, on a Ray cluster.")
    parser.add_argument("--version", action="version", version=f"raylight {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    commands.add_parser("run", help="run a script that imports Lightning, without an edit")
    commands.add_parser("submit", help="run such a script on a cluster, as a job")
    jobs.add_commands(commands)
    commands.add_parser("sweep", help="search for hyperparameters of such a script")
    commands.add_parser("chaos", help="run a script twice, once killing workers, and compare the results")
    commands.add_parser("doctor", help="examine this machine, its Ray cluster or such a script")
    ckpt.add_command(commands)
    chosen = parser.parse_args(arguments)
    if chosen.run is None:
        parser.print_help()
        return 0
    status: int = chosen.run(chosen)
    return status
