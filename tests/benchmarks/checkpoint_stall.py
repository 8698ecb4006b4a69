"""How long training stands still for a checkpoint, beside what a copy of its tensors in memory takes.

    python tests/benchmarks/checkpoint_stall.py
    python tests/benchmarks/checkpoint_stall.py --megabytes 256 --tensors 30 --rounds 9 --json checkpoint_stall.json

- copy: each tensor is cloned, and all clones are held until the last is made
- background: the call that hands a checkpoint to the process that writes it, when nothing is under way
- at once: the call that writes the file, flushed to the disk

Each round is copy, background, copy, at once, copy; what is printed are the medians, and their ratios to the copy's.
The first save is apart: its memory is got in a thread before, which is awaited here, as training gives it time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # this checkout's raylight, installed or not

from raylight.checkpoint.io import TorchCheckpointIO


def seconds_of(action: Callable[[], Any]) -> float:
    start = time.perf_counter()
    result = action()
    seconds = time.perf_counter() - start
    del result
    return seconds


def measure(megabytes: int, num_tensors: int, rounds: int) -> dict[str, Any]:
    tensors = {str(index): torch.randn(megabytes * 2**18 // num_tensors) for index in range(num_tensors)}
    checkpoint = {"state_dict": tensors, "epoch": 3, "callbacks": {"best": "a.ckpt"}}
    io = TorchCheckpointIO()
    seconds: dict[str, list[float]] = {"copy": [], "background": [], "at once": []}

    def copy() -> Any:
        return {name: tensor.clone() for name, tensor in tensors.items()}

    def save(background: bool) -> None:
        with io.in_background(background):
            io.save_checkpoint(checkpoint, Path(folder) / "a.ckpt")

    with tempfile.TemporaryDirectory() as folder:
        io.make_room(lambda: megabytes * 2**20)
        io._room._thread.join()
        first = {"copy": seconds_of(copy), "background": seconds_of(lambda: save(True))}
        for _ in range(rounds):
            for name, action in (
                ("copy", copy), ("background", lambda: save(True)), ("copy", copy), ("at once", lambda: save(False)),
                ("copy", copy),
            ):  # fmt: skip
                io.wait()
                seconds[name].append(seconds_of(action))
        io.teardown()
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    ratios = {name: median / medians["copy"] for name, median in medians.items()}
    return {"first": first, "seconds": seconds, "medians": medians, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=256, help="of the tensors")
    parser.add_argument("--tensors", type=int, default=30, help="how many there are")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write everything that was measured here")
    arguments = parser.parse_args()
    report = measure(arguments.megabytes, arguments.tensors, arguments.rounds)
    for name, median in report["medians"].items():
        print(f"{name:>10} {median * 1000:8.1f} ms {report['ratios'][name]:6.2f} x")
    print("the first: " + ", ".join(f"{name} {each * 1000:.1f} ms" for name, each in report["first"].items()))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
