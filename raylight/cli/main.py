"""The command ``raylight``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from raylight import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="raylight", description="Your PyTorch Lightning script, on a Ray cluster.")
    parser.add_argument("--version", action="version", version=f"raylight {__version__}")
    parser.parse_args(arguments)
    parser.print_help()
    return 0
