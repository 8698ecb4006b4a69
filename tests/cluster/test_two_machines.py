"""``local.sh head`` and ``local.sh worker`` on two machines: namespaces of this one, each with an address of its own.

Containers are made of the same: what ``docker/compose.yaml`` calls is what is called here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
Wait = Callable[..., Any]
IN_FOLDER = ["sh", "-c", 'cd "$FOLDER" && exec "$@"', "sh"]  # nsenter begins in /
HEAD, WORKER = "10.99.77.1", "10.99.77.2"
TRAINING = """
import ray
import raylight as pl
from raylight.demos.boring_classes import BoringModel

trainer = pl.Trainer(num_workers=2, max_epochs=1, limit_train_batches=4, limit_val_batches=1, accelerator="cpu",
                     logger=False, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(BoringModel())
print("steps", trainer.global_step, "machines", sorted(node["NodeManagerAddress"] for node in ray.nodes()))
"""


class Machine:
    """A network, a list of processes and a folder for Ray of its own."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str], work: Path, wait_until: Wait) -> None:
        self.name = f"{name}-{os.getpid()}"
        self.environment = {**environment, "RAY_TMPDIR": str(folder / name), "HOME": str(folder / f"{name}-home")}
        self._work = work
        self._wait_until = wait_until
        self._inside: subprocess.Popen[bytes] | None = None
        self._first = 0
        for path in (self.environment["RAY_TMPDIR"], self.environment["HOME"]):
            Path(path).mkdir()

    def run(self, *command: str | Path, seconds: float = 90, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["nsenter", f"--target={self._first}", "--net", "--pid", "--mount", *IN_FOLDER, *map(str, command)],
            env={**self.environment, "FOLDER": str(self._work), **variables},
            capture_output=True,
            text=True,
            timeout=seconds,
        )

    def start(self, *command: str | Path, **variables: str) -> None:
        """Let this be the machine's first process, as it would be a container's."""
        new = ["unshare", "--pid", "--mount", "--mount-proc", "--fork", "--kill-child"]
        with (self._work / f"{self.name}.log").open("wb") as output:
            self._inside = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *new, *map(str, command)],
                env={**self.environment, **variables},
                cwd=self._work,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        unshare = psutil.Process(self._inside.pid)
        (first,) = self._wait_until(unshare.children)
        self._first = first.pid

    def log(self) -> str:
        return (self._work / f"{self.name}.log").read_text()

    def stop(self) -> None:
        if self._inside is not None:
            self._inside.kill()  # and with the first process all others
            self._inside.wait()
            self._inside = None


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def machines(environment: dict[str, str], tmp_path: Path, wait_until: Wait) -> Iterator[tuple[Machine, Machine]]:
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter"))):
        pytest.skip("needs root, and the programs ip, unshare and nsenter")
    folder = Path(tempfile.mkdtemp(prefix="rl-", dir="/tmp"))  # paths of Unix sockets must be short
    both = (
        Machine("rla", folder, environment, tmp_path, wait_until),
        Machine("rlb", folder, environment, tmp_path, wait_until),
    )
    try:
        for machine in both:
            ip("netns", "add", machine.name)
        ip("link", "add", "eth0", "netns", both[0].name, "type", "veth", "peer", "name", "eth0", "netns", both[1].name)
        for machine, own, other in zip(both, (HEAD, WORKER), (WORKER, HEAD), strict=True):
            ip("-n", machine.name, "address", "add", f"{own}/24", "dev", "eth0")
            ip("-n", machine.name, "link", "set", "eth0", "up")
            ip("-n", machine.name, "link", "set", "lo", "up")
            ip("-n", machine.name, "route", "add", "default", "via", other)  # by its route a node finds its address
        yield both
    finally:
        for machine in both:
            machine.stop()
            subprocess.run(["ip", "netns", "delete", machine.name], capture_output=True)
        shutil.rmtree(folder)


def test_a_script_trains_on_a_head_and_a_worker(
    machines: tuple[Machine, Machine], files: Path, tmp_path: Path, wait_until: Wait
) -> None:
    (tmp_path / "train.py").write_text(TRAINING)
    head, worker = machines
    local, address = files / "local.sh", f"{HEAD}:6379"

    def healthy(machine: Machine) -> Callable[[], bool]:
        def is_healthy() -> bool:
            return machine.run(local, "health").returncode == 0

        return is_healthy

    head.start(local, "head", "1")
    wait_until(healthy(head), 120)
    token = head.run("ray", "get-auth-token").stdout.strip()

    worker.start(local, "worker", address, "1")
    wait_until(lambda: "no token. On the head, type 'ray get-auth-token'" in worker.log(), 60)
    worker.stop()
    worker.start(local, "worker", address, "1", RAY_AUTH_TOKEN="0" * 64)
    wait_until(lambda: "AuthenticationError" in worker.log(), 90)
    worker.stop()

    worker.start(local, "worker", address, "1", RAY_AUTH_TOKEN=token)
    wait_until(healthy(worker), 120)
    result = head.run("python", "train.py", seconds=240, RAY_ADDRESS=address, RAY_AUTH_MODE="token")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"steps 4 machines ['{HEAD}', '{WORKER}']" in result.stdout
