"""``raylight chaos``: run a script twice, once killing workers and nodes now and then, and compare the results."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from raylight.config.flags import LAUNCHER_VARIABLE

USAGE = "raylight chaos [option ...] script.py [argument ...]"
EQUAL, DIFFERENT, BAD_INPUT = 0, 1, 2
"""Exit status."""
ANY_NUMBER = 10**6
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0}
EPILOG = """\
Each Trainer.fit of the script is compared: weights to the last bit, optimizer steps, and metrics. The script has to be
one whose result does not change from run to run: call seed_everything. It runs on Ray, be it on one worker.

With --nodes it runs on a cluster of its own on this machine, whose nodes are killed as well, one killing in two; a new
one takes a lost one's place. Have one more than the workers need, else they wait for it.

examples: raylight chaos --kill every=20s train.py --epochs 5
          raylight chaos --kill every=20s --nodes 3 train.py --devices 2
"""


def main(arguments: Sequence[str]) -> int:
    """Runs on the driver: the command line behind ``raylight chaos``; returns the exit status."""
    parser = argparse.ArgumentParser(
        usage=USAGE, description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kill", metavar="every=TIME", default="every=20s", help="of work, such as every=500ms, every=20s"
    )
    parser.add_argument("--most", type=int, default=ANY_NUMBER, metavar="N", help="kills in all; any number")
    parser.add_argument("--nodes", type=int, default=0, metavar="N", help="run on a cluster of N nodes, kill these too")
    parser.add_argument("--cpus-per-node", type=int, default=1, metavar="N", help="of --nodes; 1")
    parser.add_argument("--seed", type=int, default=0, help="which workers, and how far the times are scattered")
    parser.add_argument("script", help="its path; what follows is for the script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    try:
        seconds = interval(options.kill)
    except ValueError as error:
        parser.error(str(error))
    if options.nodes < 0 or options.cpus_per_node < 1 or options.most < 1:
        parser.error("--nodes must be >= 0, --cpus-per-node >= 1 and --most >= 1")
    if not os.path.isfile(options.script):
        parser.error(f"there is no script {options.script!r}")
    with tempfile.TemporaryDirectory(prefix="raylight-chaos-") as folder:
        results = []
        for name, kill in (("undisturbed", 0.0), ("disturbed", seconds)):
            print(f"raylight chaos: the {name} run", flush=True)
            result = Path(folder, f"{name}.pt")
            status = _run(result, kill, options)
            if status != 0:
                print(f"raylight chaos: the {name} run has failed with exit status {status}", file=sys.stderr)
                return 128 - status if status < 0 else status  # of a signal, as a shell tells it
            results.append(torch.load(result, weights_only=True))
    return _report(*results)


def interval(text: str) -> float:
    """Seconds of "every=20s".

    Raises:
        ValueError: It is not of this form.
    """
    match = re.fullmatch(r"every=(\d+(?:\.\d+)?)(ms|s|m)", text)
    if match is None or float(match[1]) == 0:
        raise ValueError(f"--kill {text!r} is not of the form every=TIME, such as every=500ms, every=20s or every=1m")
    return float(match[1]) * UNITS[match[2]]


def _run(result: Path, kill: float, options: argparse.Namespace) -> int:
    numbers = (kill, options.most, options.seed, options.nodes, options.cpus_per_node)
    command = [sys.executable, "-m", "raylight.cli.chaos_run", str(result), *map(str, numbers)]
    environment = {**os.environ, LAUNCHER_VARIABLE: "ray"}
    with subprocess.Popen([*command, options.script, *options.arguments], env=environment) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:  # the terminal has told the script, too: it ends as it sees fit
                continue


def _report(undisturbed: dict[str, Any], disturbed: dict[str, Any]) -> int:
    for incident in disturbed["incidents"]:
        print(f"  {incident}")
    kills, nodes = disturbed["kills"], disturbed["node_kills"]
    if not kills and not nodes:
        print("raylight chaos: nothing was killed: the script ended before, or has no worker on Ray")
        return DIFFERENT
    found = differences(undisturbed["fits"], disturbed["fits"])
    for difference in found:
        print(f"  {difference}")
    verdict = "differ" if found else "are equal, to the last bit"
    killed = f"{kills} workers and {nodes} nodes" if nodes else f"{kills} workers"
    print(f"raylight chaos: {killed} were killed; the results {verdict}")
    return DIFFERENT if found else EQUAL


def differences(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> list[str]:
    """What is not the same in two lists of results of ``fit``, a line each."""
    if len(left) != len(right):
        return [f"fit was called {len(left)} times, and {len(right)} times in the disturbed run"]
    found = []
    for number, (one, other) in enumerate(zip(left, right, strict=True)):
        for kind in ("weights", "metrics"):
            for name in sorted({*one[kind], *other[kind]}):
                values = one[kind].get(name), other[kind].get(name)
                if None in values or not _same(*values):
                    found.append(f"fit {number}: {kind} {name!r} differ")
        if one["steps"] != other["steps"]:
            found.append(f"fit {number}: {one['steps']} steps, and {other['steps']} in the disturbed run")
    return found


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """To the last bit, be it NaN."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
