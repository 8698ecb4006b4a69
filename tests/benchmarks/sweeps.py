"""Sixteen short trials, two at a time, one worker each: raylight.sweep beside Ray Tune with Lightning in a function.

    python tests/benchmarks/sweeps.py
    python tests/benchmarks/sweeps.py --rounds 5 --json sweeps.json

A system is a program in ``programs/``, started anew in each round; the systems take turns. Ray Tune with Lightning is
set up as Ray's documentation has it: a function, a report and a checkpoint after each validation.

- trials per minute: from the call of the search to the last trial's end
- steps per second: optimizer steps in the median of all stretches of eight
- trial start: from the end of a trial to the first step of the next one in the same process, in the median, seconds;
  what Ray Tune decides in between included. A process that has only one trial has none.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "programs")]

import short_trials  # noqa: E402
import two_workers  # noqa: E402

BASELINE = "tune_lightning"
SYSTEMS = (BASELINE, "raylight_sweep")
FIGURES = ("trials_per_minute", "steps_per_s", "trial_start_s")


def read_figures(events: list[dict[str, Any]], start: float) -> dict[str, float]:
    """Of one program; events in the order of their times."""
    (call,) = [event["time"] for event in events if event["event"] == "call"]
    ends = [event["time"] for event in events if event["event"] == "trial_end"]
    assert len(ends) == short_trials.NUM_TRIALS
    starts, stretches = [], []
    for process in {event["rank"] for event in events}:
        own = [event for event in events if event["rank"] == process]
        for earlier, later in itertools.pairwise(own):
            seconds = later["time"] - earlier["time"]
            if (earlier["event"], later["event"]) == ("trial_end", "first_step"):
                starts.append(seconds)
            elif (earlier["event"], later["event"]) == ("stretch 8", "stretch 16"):
                stretches.append(seconds)
    return {
        "trials_per_minute": short_trials.NUM_TRIALS * 60 / (max(ends) - call),
        "steps_per_s": short_trials.STRETCH / statistics.median(stretches),
        "trial_start_s": statistics.median(starts) if starts else math.nan,
    }


def measure(num_rounds: int) -> dict[str, list[dict[str, float]]]:
    """Figures of each round."""
    rounds: dict[str, list[dict[str, float]]] = {system: [] for system in SYSTEMS}
    for number in range(1, num_rounds + 1):
        for system, own in rounds.items():
            own.append(two_workers.run_system(system, read_figures))
            print(f"round {number}  {system:<16}", "  ".join(f"{name} {own[-1][name]:.2f}" for name in FIGURES))
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each system runs (default 3)")
    parser.add_argument("--json", help="also write the medians and each round's figures to this file")
    args = parser.parse_args()
    rounds = measure(args.rounds)
    summary = two_workers.summarize(rounds, FIGURES)
    two_workers.print_table(summary, BASELINE, FIGURES)
    if args.json is not None:
        Path(args.json).write_text(json.dumps({"summary": summary, "rounds": rounds}, indent=2))


if __name__ == "__main__":
    main()
