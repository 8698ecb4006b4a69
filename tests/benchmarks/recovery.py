"""A worker is killed in mid-epoch: raylight, without and with a spare worker, beside Ray Train with Lightning.

    python tests/benchmarks/recovery.py
    python tests/benchmarks/recovery.py --rounds 5 --json recovery.json

A system is a program in ``programs/``, started anew in each round; the systems take turns. Two CPU workers train the
network of ``two_workers.py``, six epochs of 100 steps; in one of them rank 1 is killed by SIGKILL.

- gap: from the kill to the next completed step of all workers, seconds
- redone: steps that were trained on for the second time
- steps per second: of rank 0 in all epochs but the first; "guarded" and "unguarded" are raylight without a kill, with
  the default max_failures and with 0: what the snapshots cost
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "programs")]

import steps  # noqa: E402
import two_workers  # noqa: E402

BASELINE = "ray_train"
KILL_AT = 361
SYSTEMS: dict[str, tuple[str, int, dict[str, Any]]] = {
    BASELINE: ("killed_ray_train", KILL_AT, {}),
    "raylight": ("killed_raylight", KILL_AT, {}),
    "raylight_spare": ("killed_raylight", KILL_AT, {"spare_workers": 1}),
    "unguarded": ("killed_raylight", -1, {"max_failures": 0}),
    "guarded": ("killed_raylight", -1, {}),
}
"""Program, batch of the kill, further flags."""
FIGURES = ("gap_s", "redone", "steps_per_s")


def read_figures(events: list[dict[str, Any]], start: float) -> dict[str, float]:
    """Of one program."""
    done = [event for event in events if event["event"] == "step"]
    kills = [event for event in events if event["event"] == "kill"]
    if not kills:
        warm = [e["time"] for e in done if e["rank"] == 0 and e["step"] >= steps.STEPS_PER_EPOCH]
        return {"gap_s": math.nan, "redone": math.nan, "steps_per_s": (len(warm) - 1) / (warm[-1] - warm[0])}
    (kill,) = kills
    after = {rank: [e for e in done if e["rank"] == rank and e["time"] > kill["time"]] for rank in (0, 1)}
    first = [min(own, key=lambda event: event["time"]) for own in after.values()]
    return {
        "gap_s": max(event["time"] for event in first) - kill["time"],
        "redone": float(kill["step"] - min(event["step"] for event in first)),
        "steps_per_s": math.nan,
    }


def measure(num_rounds: int, systems: list[str]) -> dict[str, list[dict[str, float]]]:
    """Figures of each round."""
    rounds: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
    for number in range(1, num_rounds + 1):
        for system, own in rounds.items():
            program, kill_at, flags = SYSTEMS[system]
            os.environ.update(BENCHMARK_KILL_AT=str(kill_at), BENCHMARK_FLAGS=json.dumps(flags))
            own.append(two_workers.run_system(program, read_figures))
            print(f"round {number}  {system:<16}", "  ".join(f"{name} {own[-1][name]:.2f}" for name in FIGURES))
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each system runs (default 3)")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="those to run (default all)")
    parser.add_argument("--json", help="also write the medians and each round's figures to this file")
    args = parser.parse_args()
    rounds = measure(args.rounds, args.systems.split(","))
    summary = two_workers.summarize(rounds, FIGURES)
    for system, figures in summary.items():
        print(f"{system:<16}", "  ".join(f"{name} {figures[name]:8.2f}" for name in FIGURES))
    if args.json is not None:
        Path(args.json).write_text(json.dumps({"summary": summary, "rounds": rounds}, indent=2))


if __name__ == "__main__":
    main()
