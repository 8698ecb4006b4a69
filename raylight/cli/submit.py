"""``raylight submit script.py``: run a script on a cluster, as a job of Ray's.

The folder goes to the cluster, the script runs there as with ``raylight run``, trains on Ray's workers, and its log
comes back. Submitted again under the same run id, each ``Trainer.fit`` of it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raylight.cli.job_client import (
    ADDRESS_HELP,
    RUN_ID_KEY,
    UNDER_WAY,
    connect,
    number_of,
    submissions,
    told,
    without_passwords,
)
from raylight.cli.job_files import check_working_dir, read_env_file
from raylight.cli.jobs import BAD_INPUT, address_option, follow
from raylight.config.flags import LAUNCHER_VARIABLE
from raylight.config.run_id import DEFAULT_STORAGE, RUN_ID_VARIABLE, STORAGE_VARIABLE, check_run_id
from raylight.utilities.exceptions import ClusterError, MisconfigurationException, RaylightError

USAGE = "raylight submit script.py [argument ...] [option ...] [-- argument ...]"
EPILOG = f"""\
Options may stand before and behind the script; what else is behind it are its own arguments, and so is all behind --.

Files: the job's working directory on the cluster is a copy, and a new one each time. Relative paths of a Trainer's
default_root_dir, of loggers, ModelCheckpoint, predict(write_to=) and sweeps lie in the run's folder instead, on the
cluster's head: {DEFAULT_STORAGE}/RUN-ID, or --storage/RUN-ID. Paths that are absolute, and URIs, are kept.

Secrets: the script's arguments stand in Ray's list of jobs and in the log. What --env-file holds is not printed, but
seen by all who may see the cluster's jobs.

exit status: 0 where the job succeeded, the script's own where it failed, 143 where it was stopped, 2 for bad input; 130
after Ctrl-C and 3 where the connection was lost while the log was followed, both of which leave the job alone; with
--no-follow 0 where it was accepted.

example: raylight submit train.py --epochs 10 --address http://head:8265 --gpus 4 --run-id digits --storage s3://runs
"""

SECONDS_FOR_AGENT = 30.0
"""A head that has just started takes no jobs yet."""
NO_AGENT = (
    "The agent on the head that starts jobs does not run: dashboard_agent.log there says why. Where two Rays share a "
    "machine, start the second with another --dashboard-agent-listen-port (of local.sh: RAYLIGHT_AGENT_PORT)."
)


def main(arguments: Sequence[str]) -> int:
    """The command line behind ``raylight submit``; returns the exit status."""
    parser = _parser()
    try:
        options, scripts = _parse(parser, arguments)
        job = _job(options, scripts)
        client = connect(options.address)
        with told(client.get_address()):
            submission_id = _submit(client, job, options.run_id)
            return _accompany(client, submission_id, options)
    except RaylightError as error:
        print(without_passwords(f"raylight submit: {error}"), file=sys.stderr)
        return BAD_INPUT


def _accompany(client: Any, submission_id: str, options: argparse.Namespace) -> int:
    """Follow the job, or say how to."""
    where = without_passwords(client.get_address())
    print(f"run {options.run_id}: submitted as {submission_id} to {where}", flush=True)
    address = address_option(options.address)
    if options.follow:
        return follow(client, submission_id, options.run_id, address)
    for command in ("logs --follow", "stop"):
        print(f"raylight {command} {options.run_id}{address}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="raylight submit", usage=USAGE, description=__doc__, epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--address", help=ADDRESS_HELP)
    devices = parser.add_mutually_exclusive_group()
    devices.add_argument("--gpus", type=_count, metavar="N", help="the Trainer's devices, unless the script sets them")
    devices.add_argument("--workers", type=_count, metavar="N", help="likewise, on CPUs")
    parser.add_argument("--working-dir", default=".", metavar="DIR", help="what goes to the cluster (this folder)")
    parser.add_argument("--env-file", metavar="FILE", help="KEY=VALUE lines: variables of the job and its workers")
    parser.add_argument("--run-id", metavar="ID", help="a name; the same again goes on with that run (a new one)")
    parser.add_argument(
        "--storage", metavar="PATH", help=f"on the cluster, or a URI: folder of runs ({DEFAULT_STORAGE})"
    )
    parser.add_argument(
        "--follow", action=argparse.BooleanOptionalAction, default=True, help="show the log until the job ends (yes)"
    )
    return parser


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return count


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options of this command, also the script and the env file's variables; and the script's arguments in order.

    Raises:
        MisconfigurationException: The env file cannot be read.
    """
    given = list(arguments)
    end = given.index("--") if "--" in given else len(given)
    options, others = parser.parse_known_args(given[:end])
    if not others or others[0].startswith("-"):
        what = f"unknown option {others[0]}" if others else "give a script"
        parser.error(f"{what}: the script comes before its arguments")
    options.script, *scripts = others
    options.variables = read_env_file(options.env_file) if options.env_file else {}
    options.run_id = options.run_id or options.variables.pop(RUN_ID_VARIABLE, "") or _new_run_id(options.script)
    return options, scripts + given[end + 1 :]


def _new_run_id(script: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(script).stem).strip("-_")[:60] or "run"
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _job(options: argparse.Namespace, scripts: list[str]) -> dict[str, Any]:
    """What Ray's ``submit_job`` takes, but for the submission's id.

    Raises:
        MisconfigurationException: Something cannot be sent, or options contradict each other.
    """
    check_run_id(options.run_id)
    _check_storage(options.storage)
    folder = Path(options.working_dir)
    script = check_working_dir(folder, Path(options.script))
    variables, own = options.variables, _own_variables(options)
    for name in own.keys() & variables.keys() - {LAUNCHER_VARIABLE}:
        raise MisconfigurationException(f"--env-file {options.env_file} sets {name}, and so does an option: drop one.")
    if LAUNCHER_VARIABLE in variables:
        own.pop(LAUNCHER_VARIABLE)
    # For the driver alone: a Trainer in a worker, as in a trial of Ray Tune, is not this run. exec: the signal that
    # stops a job goes to the script itself.
    prefix = shlex.join(f"{name}={value}" for name, value in own.items())
    command = shlex.join(["python", "-m", "raylight", "run", script, *scripts])
    return {
        "entrypoint": f"exec env {prefix} {command}",
        "runtime_env": {"working_dir": str(folder.resolve()), "env_vars": variables},
        "metadata": {RUN_ID_KEY: options.run_id},
    }


def _check_storage(storage: str | None) -> None:
    if storage is not None and "://" not in storage and not storage.startswith(("/", "~")):
        raise MisconfigurationException(
            f"--storage {storage} is relative, but a job has no folder of its own that lasts: give a path that begins "
            "with '/', on the cluster, or a URI such as s3://bucket/runs."
        )


def _own_variables(options: argparse.Namespace) -> dict[str, str]:
    """Of the driver: the run's name and folder, and what the Trainer's flags are by default."""
    variables = {RUN_ID_VARIABLE: options.run_id, LAUNCHER_VARIABLE: "ray"}
    if options.storage is not None:
        variables[STORAGE_VARIABLE] = options.storage
    devices = options.gpus or options.workers
    if devices is not None:
        variables["PL_TRAINER_DEVICES"] = str(devices)
        variables["PL_TRAINER_ACCELERATOR"] = "gpu" if options.gpus else "cpu"
    return variables


def _submit(client: Any, job: dict[str, Any], run_id: str) -> str:
    """Hand the job over; the id of the submission.

    Raises:
        ClusterError: One of this run is under way, or Ray does not take it.
    """
    earlier = submissions(client, run_id)
    for each in earlier:
        if each.status in UNDER_WAY:
            raise ClusterError(
                f"Run {run_id} is under way, as {each.submission_id} ({each.status.lower()}). Wait for it, stop it "
                f"with `raylight stop {run_id}`, or give another --run-id."
            )
    number = max((number_of(each.submission_id) for each in earlier), default=0) + 1
    if earlier:
        print(f"run {run_id}: submission {number} goes on with it, where a fit was stopped")
    deadline = time.monotonic() + SECONDS_FOR_AGENT
    while True:
        try:
            return str(client.submit_job(**job, submission_id=f"{run_id}-{number}"))
        except (RuntimeError, ValueError) as error:
            waits_for_agent = "No available agent" in str(error)
            if not waits_for_agent or time.monotonic() > deadline:
                hint = f"\n{NO_AGENT}" if waits_for_agent else ""
                raise ClusterError(f"Ray does not take the job: {error}{hint}") from error
            time.sleep(1)
