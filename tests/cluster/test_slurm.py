"""``slurm/train.sbatch`` on a Slurm of one node, whose daemons run here, from Debian's packages."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
CONFIGURATION = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={daemon_port}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=30
OverTimeLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
TRAINING = """
import os, sys
import ray, torch
import raylight as pl
from raylight.demos.boring_classes import BoringModel

trainer = pl.Trainer(num_workers=2, max_epochs=1, limit_train_batches=4, limit_val_batches=1, accelerator="cpu",
                     logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(BoringModel())
print("workers", trainer.world_size, "steps", trainer.global_step, "CPUs", ray.cluster_resources()["CPU"])
print("run", os.environ["RAYLIGHT_RUN_ID"], "mode", os.environ["RAY_AUTH_MODE"])
sys.exit(int(sys.argv[1]))
"""
WAITING = """
import os, pathlib, sys, time

with open("starts", "a") as file:
    print(os.environ["RAYLIGHT_RUN_ID"], os.environ.get("SLURM_RESTART_COUNT", "0"), file=file)
if "SLURM_RESTART_COUNT" not in os.environ:
    time.sleep(600)  # until the job is queued again
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Slurm:
    """A Slurm cluster of this machine, and what a user does with it."""

    def __init__(self, folder: Path, environment: dict[str, str], wait_until: Callable[..., Any]) -> None:
        self.folder = folder
        self.environment = {**environment, "SLURM_CONF": str(folder / "slurm.conf")}
        self._wait_until = wait_until
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        munge, host = self.folder / "munge", socket.gethostname()
        for name in ("munge", "state", "spool", "work"):
            (self.folder / name).mkdir()
        (munge / "key").write_bytes(secrets.token_bytes(1024))
        (munge / "key").chmod(0o400)
        owner = pwd.getpwnam("munge")
        for path in (munge, munge / "key"):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        text = CONFIGURATION.format(
            host=host,
            folder=self.folder,
            controller_port=free_port(),
            daemon_port=free_port(),
            cpus=os.cpu_count(),
            memory=psutil.virtual_memory().total // 2**20 // 2,
        )
        (self.folder / "slurm.conf").write_text(text)
        names = ("key", "socket", "pid", "log", "seed")
        places = [f"--{name}-file={munge / name}" for name in names if name != "socket"]
        self._daemon("runuser", "-u", "munge", "--", "munged", "-F", f"--socket={munge / 'socket'}", *places)
        self._wait_until((munge / "socket").exists, 20)
        self._daemon("slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))
        self._daemon("slurmd", "-D", "-f", str(self.folder / "slurm.conf"))
        self._wait_until(lambda: "idle" in self.call("sinfo", "-h", "-o", "%t", check=False), 60)

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{len(self._daemons)}.out").open("wb") as output:
            self._daemons.append(
                subprocess.Popen(command, env=self.environment, stdout=output, stderr=subprocess.STDOUT)
            )

    def call(self, *command: str, check: bool = True, **variables: str) -> str:
        result = subprocess.run(
            command,
            env={**self.environment, **variables},
            cwd=self.folder / "work",
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or result.returncode == 0, result.stderr
        return result.stdout

    def submit(self, *arguments: str, **variables: str) -> str:
        return self.call("sbatch", "--parsable", *arguments, **variables).strip()

    def state(self, job: str) -> str:
        fields = self.call("scontrol", "show", "job", job).split()
        return next(word.removeprefix("JobState=") for word in fields if word.startswith("JobState="))

    def wait_for(self, job: str, *states: str, seconds: float = 240) -> str:
        def reached() -> str | None:
            return state if (state := self.state(job)) in states else None

        return str(self._wait_until(reached, seconds))

    def log(self, job: str) -> str:
        return (self.folder / "work" / f"raylight-{job}.log").read_text()

    def stop(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(timeout=30)


@pytest.fixture
def slurm(environment: dict[str, str], wait_until: Callable[..., Any]) -> Iterator[Slurm]:
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here: apt-get install slurmctld slurmd slurm-client munge")
    if os.geteuid() != 0:
        pytest.skip("only root can start Slurm's daemons")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    folder.chmod(0o755)  # munge's user must get through
    environment["PATH"] += ":/usr/sbin"
    cluster = Slurm(folder, environment, wait_until)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


def ray_processes_of(job: str) -> list[list[str]]:
    """The command lines of what Ray has started for the job."""
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [command for command in commands if any(f"/tmp/ray-{job}/" in word for word in command)]


def test_a_job_trains_and_its_exit_code_is_that_of_the_script(files, slurm):
    (slurm.folder / "work" / "train.py").write_text(TRAINING)
    sbatch = str(files / "slurm" / "train.sbatch")

    job = slurm.submit(sbatch, "python", "train.py", "0", RAY_ADDRESS="10.0.0.1:6379")  # of another cluster
    slurm.wait_for(job, "COMPLETED", "FAILED")
    log = slurm.log(job)
    assert slurm.state(job) == "COMPLETED", log
    assert f"workers 2 steps 4 CPUs {os.cpu_count()}.0" in log
    assert f"run slurm-{job} mode token" in log
    assert not Path(f"/tmp/ray-{job}").exists()

    failing = slurm.submit(sbatch, "python", "train.py", "3", RAYLIGHT_RUN_ID="mine")
    assert slurm.wait_for(failing, "COMPLETED", "FAILED") == "FAILED"
    assert "ExitCode=3:0" in slurm.call("scontrol", "show", "job", failing)
    assert "run mine mode token" in slurm.log(failing)
    shutil.rmtree(f"/tmp/ray-{failing}")  # Ray's logs of a job that failed are kept


def test_ray_that_does_not_start_fails_the_job(files, slurm):
    job = slurm.submit("--hold", str(files / "slurm" / "train.sbatch"), "true")
    with socket.create_server(("", 20000 + int(job) % 10000)):  # where the head would listen
        slurm.call("scontrol", "release", job)
        assert slurm.wait_for(job, "COMPLETED", "FAILED") == "FAILED"
    assert "Ray did not start" in slurm.log(job)
    shutil.rmtree(f"/tmp/ray-{job}")


def test_a_job_that_is_cancelled_leaves_no_process(files, slurm, wait_until):
    work = slurm.folder / "work"
    (work / "wait.py").write_text(WAITING)
    job = slurm.submit(str(files / "slurm" / "train.sbatch"), "python", "wait.py")
    wait_until((work / "starts").exists, 120)
    assert ray_processes_of(job)
    slurm.call("scancel", job)
    slurm.wait_for(job, "CANCELLED")
    wait_until(lambda: not ray_processes_of(job), 60)
    shutil.rmtree(f"/tmp/ray-{job}")


def test_a_job_near_its_time_limit_is_queued_again_under_the_same_run(files, slurm, wait_until):
    work = slurm.folder / "work"
    (work / "wait.py").write_text(WAITING)
    job = slurm.submit(str(files / "slurm" / "train.sbatch"), "python", "wait.py")
    wait_until((work / "starts").exists, 120)
    slurm.call("scancel", "--signal=USR1", "--batch", job)  # as Slurm does before the time limit

    def is_queued() -> bool:
        text = slurm.call("scontrol", "show", "job", job)
        return "Restarts=1" in text and "JobState=PENDING" in text

    wait_until(is_queued, 120)
    # A requeued job waits for two minutes by itself; within the second of the requeue Slurm would refuse to start it.
    slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now+3")
    slurm.wait_for(job, "COMPLETED", "FAILED")
    assert slurm.state(job) == "COMPLETED", slurm.log(job)
    assert (work / "starts").read_text().split("\n")[:2] == [f"slurm-{job} 0", f"slurm-{job} 1"]
    assert "is queued again" in slurm.log(job)
    assert ray_processes_of(job) == []
