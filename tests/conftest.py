"""What all tests share: an environment that each leaves as it was, and one Ray cluster for those that need one."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_CHANGE = {
    "PYTEST_CURRENT_TEST",
    "PL_GLOBAL_SEED",
    "PL_SEED_WORKERS",
    "CUBLAS_WORKSPACE_CONFIG",  # Trainer(deterministic=True)
    "TORCHINDUCTOR_CACHE_DIR",  # torch's own doing
    "KMP_DUPLICATE_LIB_OK",  # scikit-learn's
    "KMP_INIT_AT_FORK",  # likewise
    "RAY_CLIENT_MODE",  # Ray Tune's, where it is imported
    "PYTORCH_NVML_BASED_CUDA_CHECK",  # Lightning's, where it looks for GPUs
}
"""Variables whose change is documented, here or by others; put back after each test like all others."""
CLUSTER_SETTINGS = {
    "RAY_AUTH_MODE": "disabled",  # else Ray writes a token into the user's home
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
OF_RAY_DATA = ("_StatsActor", "_AutoscalingCoordinatorActor")
"""Its actors of which a cluster has one each, from the first Dataset on."""
IMPORT = "\nimport raylight as pl\n"
"""The line of an example that names the library."""
Wait = Callable[..., Any]


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """Fail a test that leaves environment variables behind, such as RANK."""
    before = dict(os.environ)
    yield
    after = dict(os.environ)
    os.environ.clear()
    os.environ.update(before)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert not changed - MAY_CHANGE, f"the test has changed {sorted(changed - MAY_CHANGE)} in the environment"


@pytest.fixture(autouse=True, scope="module")
def _old_objects_are_kept() -> None:
    """Searches collect garbage before each trial: it must not go through the objects of thousands of other tests."""
    gc.freeze()


@pytest.fixture(scope="session")
def wait_until() -> Wait:
    """``wait_until(condition, seconds)``: poll until ``condition()`` is true and return it; fail after ``seconds``."""

    def wait(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"{condition.__name__} was still {value!r} after {seconds:g} s")
            time.sleep(0.02)
        return value

    return wait


@pytest.fixture(scope="session")
def ray_cluster(wait_until: Wait) -> Iterator[str]:
    """The session's Ray cluster of two CPUs, on which trainers share warm workers; its address.

    Fails the session where a worker process, an actor or a placement group outlives the pool.
    """
    import ray

    from raylight.engine import pool

    folder = tempfile.mkdtemp(prefix="raylight-", dir="/tmp")  # paths of Unix sockets must be short
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CLUSTER_SETTINGS.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
        patch.delenv("RAY_ADDRESS", raising=False)
        context = ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=200 * 1024 * 1024,
            include_dashboard=False,
            logging_level="warning",
            log_to_driver=False,
            _temp_dir=folder,
        )
        try:
            yield context.address_info["address"]
            pool.shutdown()

            def nothing_left() -> bool:
                return not (worker_processes() or placement_groups() or actors())

            wait_until(nothing_left)
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def send_by_value() -> Iterator[Callable[..., None]]:
    """``send_by_value(*modules)``: their classes travel as those of a script; Ray's processes cannot import tests."""
    from ray import cloudpickle

    sent: list[ModuleType] = []

    def send(*modules: ModuleType) -> None:
        for module in modules:
            cloudpickle.register_pickle_by_value(module)
            sent.append(module)

    yield send
    for module in sent:
        cloudpickle.unregister_pickle_by_value(module)


class Example:
    """A script of ``examples/``, for one of the two libraries, run in this process on one worker.

    Args:
        name: The script, without ".py".
        library: What its one import names: "raylight" or "pytorch_lightning".
        monkeypatch: Puts back what running it changes.
        capsys: Hears what it prints.
    """

    def __init__(self, name: str, library: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        self._path = ROOT / "examples" / f"{name}.py"
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        source = self._path.read_text()
        assert source.count(IMPORT) == 1
        self.module: Any = ModuleType(name)
        monkeypatch.syspath_prepend(self._path.parent)  # as Python does
        exec(compile(source.replace(IMPORT, f"\nimport {library} as pl\n"), self._path, "exec"), vars(self.module))

    def run(self, *arguments: str) -> str:
        """Run it with these arguments of the command line; what it printed."""
        import torch

        self._monkeypatch.setattr(sys, "argv", [str(self._path), "--workers", "1", *arguments])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # several lose time over such small networks
        try:
            self.module.main()
        finally:
            torch.set_num_threads(threads)
        return str(self._capsys.readouterr().out)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> Callable[..., Example]:
    """``example(name, library="raylight")``: an example, which leaves its files in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    return lambda name, library="raylight": Example(name, library, monkeypatch, capsys)


@pytest.fixture
def nothing_held(ray_cluster: str, wait_until: Wait) -> Callable[[], None]:
    """``nothing_held()`` fails unless all workers of raylight and their resources are soon gone."""

    def check() -> None:
        wait_until(lambda: not (worker_processes() or placement_groups()))

    return check


def worker_processes() -> list[psutil.Process]:
    """Processes of raylight's actors on the session's cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            command = process.cmdline()  # empty for a process that is ending
            if command and command[0].startswith(("ray::WorkerActor", "ray::Trial")):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):  # it ended meanwhile
            continue
    return found


def placement_groups() -> list[str]:
    """Names of the cluster's placement groups that hold or want resources."""
    from ray.util import placement_group_table

    return [entry["name"] for entry in placement_group_table().values() if entry["state"] != "REMOVED"]


def actors() -> list[Any]:
    """The cluster's actors that live or will, but for those that Ray Data keeps for the cluster's time."""
    from ray._private.state import actors as table

    return [
        entry for entry in table().values() if entry["State"] != "DEAD" and entry["ActorClassName"] not in OF_RAY_DATA
    ]
