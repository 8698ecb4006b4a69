"""One run of ``raylight chaos``: a script with its workers killed now and then, and what its ``fit`` calls gave.

Usage: python -m raylight.cli.chaos_run RESULT SECONDS MOST SEED NODES CPUS script.py [argument ...]
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from raylight.cli import run
from raylight.cli.chaos import ANY_NUMBER
from raylight.trainer import Trainer

LOOK_SECONDS = 0.05


class Nodes:
    """A Ray cluster on this machine, of a head, where the driver is, and nodes for workers that can be killed."""

    def __init__(self, count: int, cpus: int) -> None:
        from ray.cluster_utils import Cluster

        self._cpus = cpus
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0}, shutdown_at_exit=False)
        self._nodes = [self._cluster.add_node(num_cpus=cpus) for _ in range(count)]
        os.environ["RAY_ADDRESS"] = self._cluster.address

    def replace(self, node_id: str) -> bool:
        """End a node and all that runs there at once, and start another; False: it is gone already."""
        lost = next((node for node in self._nodes if node.node_id == node_id), None)
        if lost is None:
            return False
        self._nodes.remove(lost)
        self._cluster.remove_node(lost, allow_graceful=False)
        self._nodes.append(self._cluster.add_node(num_cpus=self._cpus))
        return True

    def end(self) -> None:
        self._cluster.shutdown()


class Killer(threading.Thread):
    """Kills one of the workers that are at work, or the node of one, every so many seconds of work.

    Args:
        seconds: On average.
        most: Kills in all.
        seed: Of what is random: half to one and a half times the seconds, which worker, and whether its node.
        nodes: What can be killed beside workers.
    """

    def __init__(self, seconds: float, most: int, seed: int, nodes: Nodes | None) -> None:
        super().__init__(daemon=True)
        self.kills = 0
        self.node_kills = 0
        self._seconds = seconds
        self._most = most
        self._random = random.Random(seed)
        self._nodes = nodes
        self._over = threading.Event()

    def run(self) -> None:
        from raylight.engine import pool

        left = self._wait()
        while not self._over.wait(LOOK_SECONDS) and self.kills + self.node_kills < self._most:
            workers = pool.workers_at_work()
            left -= LOOK_SECONDS if workers else 0.0
            if workers and left <= 0:
                self._kill(self._random.choice(workers))
                left = self._wait()

    def _kill(self, worker: Any) -> None:
        if self._nodes is not None and self._random.random() < 0.5:
            self.node_kills += self._nodes.replace(worker.node_id)
            return
        from raylight.engine import hangs

        with contextlib.suppress(ProcessLookupError):  # it is dead already
            hangs.kill_process(worker)
            self.kills += 1

    def _wait(self) -> float:
        return self._seconds * self._random.uniform(0.5, 1.5)

    def end(self) -> None:
        self._over.set()
        self.join()


@contextlib.contextmanager
def recording(note: Callable[[Trainer, Any], None]) -> Iterator[None]:
    """In the block trainers survive any number of failures, and ``note`` is told of each ``fit`` that is over."""
    init, fit = Trainer.__init__, Trainer.fit

    @functools.wraps(init)
    def persistent(self: Trainer, *positional: Any, **flags: Any) -> None:
        init(self, *positional, **{**flags, "max_failures": ANY_NUMBER})

    @functools.wraps(fit)
    def noting(self: Trainer, model: Any, *positional: Any, **named: Any) -> None:
        fit(self, model, *positional, **named)
        note(self, model)

    Trainer.__init__, Trainer.fit = persistent, noting  # type: ignore[method-assign]
    try:
        yield
    finally:
        Trainer.__init__, Trainer.fit = init, fit  # type: ignore[method-assign]


def main() -> int:
    """Run the script; returns its exit status."""
    result, seconds, most, seed, num_nodes, cpus, *script = sys.argv[1:]
    fits: list[dict[str, Any]] = []
    incidents: list[str] = []

    def note(trainer: Trainer, model: Any) -> None:
        metrics = {name: torch.as_tensor(value) for name, value in trainer.callback_metrics.items()}
        fits.append({"weights": dict(model.state_dict()), "metrics": metrics, "steps": trainer.global_step})
        for each in trainer.incidents:
            incidents.append(f"step {each.step}, {each.seconds:.1f} s lost: {each.what.partition(':')[0]}")
        trainer.incidents.clear()

    nodes = Nodes(int(num_nodes), int(cpus)) if int(num_nodes) else None
    killer = Killer(float(seconds), int(most), int(seed), nodes)
    if float(seconds):
        killer.start()
    try:
        with recording(note):
            status = _status_of(script)
    finally:
        if killer.is_alive():
            killer.end()
        if nodes is not None:
            _disconnect()
            nodes.end()
    counts = {"kills": killer.kills, "node_kills": killer.node_kills}
    torch.save({"fits": fits, "incidents": incidents, **counts}, result)
    return status


def _status_of(script: list[str]) -> int:
    """Run it; that it ends with ``sys.exit(0)`` is as good as that it just ends."""
    try:
        return run.main(script)
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
        return 0


def _disconnect() -> None:
    import ray

    from raylight.engine import pool

    pool.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
