"""Two CPU workers: start-up, steps per second, a second call and memory, of four systems.

    python tests/benchmarks/two_workers.py
    python tests/benchmarks/two_workers.py --rounds 5 --json two_workers.json
    python tests/benchmarks/two_workers.py --systems handwritten_ddp,raylight_pool
    python tests/benchmarks/two_workers.py --systems ray_train_lightning,raylight_pool --running

A system is a program in ``programs/``, started anew in each round; the systems take turns. All train the same network
with gloo and one thread per worker.

- cold start: from the start of the script until all workers are in their first ``training_step``, seconds
- steps per second: optimizer steps, in the median of ten stretches after a warm-up, on rank 0
- second call: from calling ``validate()`` after ``fit()`` until all workers have their first batch, seconds
- worker memory: the largest resident size of a worker until the end of training, MB
- script: from start to exit, seconds

``--running``: Ray runs already, by ``ray start --head``; else each program that needs it starts and stops it.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "programs"))

import common  # noqa: E402

BASELINE = "handwritten_ddp"
SYSTEMS = (BASELINE, "lightning_ddp", "ray_train_lightning", "raylight_pool")
FIGURES = ("cold_start_s", "steps_per_s", "second_call_s", "worker_mb", "script_s")
TIME_LIMIT_S = 300
RAY_PORT = 6399
ReadFigures = Callable[[list[dict[str, Any]], float], dict[str, float]]


class ProgramFailed(Exception):
    """A system's program ended badly or took longer than ``TIME_LIMIT_S``; carries the end of its output."""


def run_system(system: str, read: ReadFigures) -> dict[str, float]:
    """Run one program to its end and read the figures off its stamps, given the time at which it was started."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as root:
        stamps = Path(root, "stamps.jsonl")
        environment = {
            **os.environ,
            "BENCHMARK_STAMPS": str(stamps),
            "BENCHMARK_ROOT": root,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parents[1]), os.environ.get("PYTHONPATH")])),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        output = Path(root, "output.txt")
        start = time.time()
        with open(output, "w") as file:
            program = subprocess.Popen(
                [sys.executable, str(HERE / "programs" / f"{system}.py")],
                env=environment,
                cwd=root,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code = wait(program)
        end = time.time()
        if code != 0:
            raise ProgramFailed(f"{system} ended with code {code}:\n{output.read_text()[-3000:]}")
        events = [json.loads(line) for line in stamps.read_text().splitlines()]
        return {**read(events, start), "script_s": end - start}


@contextlib.contextmanager
def running_cluster() -> Iterator[None]:
    """Ray is there for programs to join."""
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", PYTHONPATH=str(HERE.parents[1]))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port", str(RAY_PORT)]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        os.environ["RAY_TMPDIR"] = folder  # its address is left there, and not where other programs look for one
        head = subprocess.Popen([*command, "--num-cpus", "2"], stdout=output, stderr=subprocess.STDOUT)
        try:
            while "Ray runtime started" not in said(output):
                assert head.poll() is None, said(output)
                time.sleep(0.1)
            os.environ["RAY_ADDRESS"] = f"127.0.0.1:{RAY_PORT}"
            yield
        finally:
            head.terminate()
            head.wait()


def said(output: IO[str]) -> str:
    output.seek(0)
    return output.read()


def wait(program: subprocess.Popen[bytes]) -> int:
    """The exit code, -9 after ``TIME_LIMIT_S``; what the program has started and left running is killed."""
    try:
        return program.wait(TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL
    finally:
        with contextlib.suppress(ProcessLookupError):  # it left nothing
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def read_figures(events: list[dict[str, Any]], start: float) -> dict[str, float]:
    """``start``: when the script was started, in seconds since the epoch."""

    def times(name: str, after: float = start) -> list[float]:
        return [event["time"] for event in events if event["event"] == name and event["time"] >= after]

    def time_of_rank_zero(name: str) -> float:
        return float(next(event["time"] for event in events if event["event"] == name and event["rank"] == 0))

    call = time_of_rank_zero("validate_call")
    marks = [event["time"] for event in events if event["event"] == "stretch" and event["rank"] == 0]
    stretch = statistics.median(later - earlier for earlier, later in itertools.pairwise(marks))
    return {
        "cold_start_s": max(times("first_step")) - start,
        "steps_per_s": common.STRETCH / stretch,
        "second_call_s": max(times("validation_batch", after=call)) - call,
        "worker_mb": max(event["kilobytes"] for event in events if event["event"] == "peak_memory") / 1024,
    }


def measure(systems: Iterable[str], num_rounds: int) -> dict[str, list[dict[str, float]]]:
    """Figures of each round that went well; a program that fails is named on stderr and has its turn again."""
    rounds: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
    for number in range(1, num_rounds + 1):
        for system, own in rounds.items():
            try:
                figures = run_system(system, read_figures)
            except ProgramFailed as error:
                print(error, file=sys.stderr)
                continue
            own.append(figures)
            print(f"round {number}  {system:<20}", "  ".join(f"{name} {figures[name]:.2f}" for name in FIGURES))
    return rounds


def summarize(rounds: dict[str, list[dict[str, float]]], names: Sequence[str] = FIGURES) -> dict[str, dict[str, float]]:
    """Medians over the rounds, of the systems that have any."""
    return {
        system: {name: statistics.median(figures[name] for figures in own) for name in names}
        for system, own in rounds.items()
        if own
    }


def print_table(
    summary: dict[str, dict[str, float]], baseline_name: str = BASELINE, names: Sequence[str] = FIGURES
) -> None:
    """Each figure, and in brackets what it is to the baseline's."""
    baseline = summary.get(baseline_name)
    print(f"{'':<20}", *(f"{name:>20}" for name in names))
    for system, figures in summary.items():
        cells = []
        for name in names:
            ratio = f" ({figures[name] / baseline[name]:.2f}x)" if baseline else ""
            cells.append(f"{figures[name]:.2f}{ratio}".rjust(20))
        print(f"{system:<20}", *cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often each system runs (default 3)")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="names with commas between; default: all")
    parser.add_argument("--running", action="store_true", help="programs find Ray running")
    parser.add_argument("--json", help="also write the medians and each round's figures to this file")
    args = parser.parse_args()
    systems = args.systems.split(",")
    if unknown := set(systems) - set(SYSTEMS):
        parser.error(f"no system {', '.join(sorted(unknown))}; there are {', '.join(SYSTEMS)}")

    with running_cluster() if args.running else contextlib.nullcontext():
        rounds = measure(systems, args.rounds)
    summary = summarize(rounds)
    print_table(summary, BASELINE if BASELINE in systems else systems[0])
    if args.json is not None:
        Path(args.json).write_text(json.dumps({"summary": summary, "rounds": rounds}, indent=2))
    if any(len(own) < args.rounds for own in rounds.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
