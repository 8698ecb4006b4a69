"""The command ``raylight``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from raylight import __version__
from raylight.cli import ckpt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="raylight", description="Your PyTorch Lightning script, on a Ray cluster.")
    parser.add_argument("--version", action="version", version=f"raylight {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    ckpt.add_command(commands)
    chosen = parser.parse_args(arguments)
    if chosen.run is None:
        parser.print_help()
        return 0
    status: int = chosen.run(chosen)
    return status
