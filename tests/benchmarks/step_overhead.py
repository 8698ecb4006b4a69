"""What a training step costs beyond PyTorch's own work, in one process on the CPU.

    python tests/benchmarks/step_overhead.py
    python tests/benchmarks/step_overhead.py --rounds 9 --json step_overhead.json
    python tests/benchmarks/step_overhead.py --systems hand-written,raylight-bare

The model is so small that the trainer's own work shows. Every system trains the same network, on the same
DataLoader, with the same optimizer; the trainers also log the loss in each step.

- hand-written: a loop of ``zero_grad``, forward, loss, ``backward``, ``step``
- ...-default: the trainer's defaults: logger, progress bar (into /dev/null), checkpoints, model summary
- ...-bare: all of those off

Start-up is left out: the clock is read in ``training_step`` of one early step and of the last. The systems take turns
within a round, in the other direction every second round, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[2]))  # this checkout's raylight, installed or not

NUM_FEATURES = 32
BATCH_SIZE = 16
WARM_UP_STEPS = 100
BARE = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
}


class StepClock:
    """Seconds per step between step ``WARM_UP_STEPS`` and the last, both 0-based; silent in all other steps."""

    def __init__(self, num_steps: int) -> None:
        self.steps = (WARM_UP_STEPS, num_steps - 1)
        self.stamps: list[float] = []

    def at(self, step: int) -> None:
        if step in self.steps:
            self.stamps.append(time.perf_counter())

    def seconds_per_step(self) -> float:
        start, end = self.stamps
        return (end - start) / (self.steps[1] - self.steps[0])


def build_network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(NUM_FEATURES, 32), nn.ReLU(), nn.Linear(32, 2))


def build_loader(num_steps: int) -> DataLoader[Any]:
    inputs = torch.randn(num_steps * BATCH_SIZE, NUM_FEATURES)
    return DataLoader(TensorDataset(inputs, (inputs.sum(dim=1) > 0).long()), batch_size=BATCH_SIZE)


def build_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.01)


def time_hand_written(num_steps: int) -> float:
    clock = StepClock(num_steps)
    network = build_network()
    optimizer = build_optimizer(network)
    for step, (inputs, labels) in enumerate(build_loader(num_steps)):
        clock.at(step)
        loss = F.cross_entropy(network(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return clock.seconds_per_step()


def time_trainer(pl: Any, num_steps: int, **flags: Any) -> float:
    """``pl`` is ``raylight`` or ``pytorch_lightning``: the same script for both."""
    clock = StepClock(num_steps)

    class Classifier(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = build_network()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            clock.at(batch_idx)
            inputs, labels = batch
            loss = F.cross_entropy(self.network(inputs), labels)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return build_optimizer(self.network)

    with tempfile.TemporaryDirectory() as root:
        trainer = pl.Trainer(accelerator="cpu", devices=1, max_epochs=1, default_root_dir=root, **flags)
        trainer.fit(Classifier(), build_loader(num_steps))
    return clock.seconds_per_step()


def find_systems() -> dict[str, Callable[[int], float]]:
    """Name -> function from a number of steps to seconds per step; only of what can be imported here."""
    systems: dict[str, Callable[[int], float]] = {"hand-written": time_hand_written}
    # In this process: the worker's loop is the same function elsewhere, and the clock is in the user's own module.
    packages: list[tuple[str, str, dict[str, Any]]] = [
        ("lightning", "pytorch_lightning", {}),
        ("raylight", "raylight", {"launcher": "local"}),
    ]
    for name, package, flags in packages:
        try:
            pl = importlib.import_module(package)
            pl.Trainer  # noqa: B018 - asks whether it is there
        except (ImportError, AttributeError) as error:
            print(f"{name} is left out: {error}")
            continue
        systems[f"{name}-default"] = partial(time_trainer, pl, **flags)
        systems[f"{name}-bare"] = partial(time_trainer, pl, **flags, **BARE)
    return systems


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Bars and notices go to /dev/null; they are drawn all the same."""
    logging.disable(logging.WARNING)
    with (
        open(os.devnull, "w") as null,
        contextlib.redirect_stdout(null),
        contextlib.redirect_stderr(null),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def measure(systems: dict[str, Callable[[int], float]], num_rounds: int, num_steps: int) -> dict[str, list[float]]:
    """Seconds per step of each system in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for round_index in range(num_rounds):
        for name in list(systems)[:: -1 if round_index % 2 else 1]:
            gc.collect()  # no system sweeps up after another
            torch.manual_seed(0)
            with silence():
                seconds[name].append(systems[name](num_steps))
    return seconds


def summarize(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Microseconds per step (median and least), and what they are to the hand-written loop of the same round."""
    summary = {}
    for name, own in seconds.items():
        pairs = list(zip(own, seconds["hand-written"], strict=True))
        summary[name] = {
            "median_us": statistics.median(own) * 1e6,
            "least_us": min(own) * 1e6,
            "extra_us": statistics.median(mine - baseline for mine, baseline in pairs) * 1e6,
            "ratio": statistics.median(mine / baseline for mine, baseline in pairs),
        }
    return summary


def print_table(summary: dict[str, dict[str, float]]) -> None:
    print(f"{'us per step':<20}{'median':>10}{'least':>10}{'extra':>10}{'ratio':>8}")
    for name, row in summary.items():
        times = f"{row['median_us']:>10.1f}{row['least_us']:>10.1f}{row['extra_us']:>10.1f}"
        print(f"{name:<20}{times}{row['ratio']:>8.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each system runs (default 5)")
    parser.add_argument("--steps", type=int, default=2000, help=f"steps per run, {WARM_UP_STEPS} of them to warm up")
    parser.add_argument("--systems", help="names with commas between; default: all that can be imported")
    parser.add_argument("--json", help="also write the figures, with each round's seconds per step, to this file")
    args = parser.parse_args()
    if args.steps < WARM_UP_STEPS + 2:
        parser.error(f"--steps must be at least {WARM_UP_STEPS + 2}")

    torch.set_num_threads(1)
    systems = find_systems()
    if args.systems is not None:
        asked = {"hand-written", *args.systems.split(",")}
        if unknown := asked - set(systems):
            parser.error(f"no system {', '.join(sorted(unknown))}; there are {', '.join(systems)}")
        systems = {name: run for name, run in systems.items() if name in asked}
    seconds = measure(systems, args.rounds, args.steps)
    summary = summarize(seconds)
    print_table(summary)
    if args.json is not None:
        with open(args.json, "w") as file:
            json.dump({"summary": summary, "seconds_per_step": seconds}, file, indent=2)


if __name__ == "__main__":
    main()
