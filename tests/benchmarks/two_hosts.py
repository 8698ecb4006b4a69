"""Steps per second of two workers on two hosts, over those of two workers on one. To be run by root.

    python tests/benchmarks/two_hosts.py
    python tests/benchmarks/two_hosts.py --rounds 5

The hosts are network namespaces of this machine, each with a core for its worker; a cable joins them, and they share
no memory. See ``tests/engine/programs/two_hosts.py``. The two placements take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each placement trains (default 3)")
    rounds = str(parser.parse_args().rounds)
    network = HERE.parent / "engine" / "programs" / "two_hosts.py"
    command = [sys.executable, str(network), str(HERE / "programs" / "apart_or_together.py"), rounds]
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    rates = json.loads(done.stdout.splitlines()[-1])
    for apart, together in zip(rates["apart"], rates["together"], strict=True):
        print(f"apart {apart:.1f} steps/s, together {together:.1f} steps/s, {apart / together:.3f} x")
    medians = {name: statistics.median(rates[name]) for name in ("apart", "together")}
    print(f"medians: {medians['apart'] / medians['together']:.3f} x")


if __name__ == "__main__":
    main()
