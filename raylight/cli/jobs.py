"""``raylight status``, ``logs`` and ``stop``: the jobs that ``raylight submit`` has handed to a cluster."""

from __future__ import annotations

import argparse
import asyncio
import re
import shlex
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from raylight.callbacks.progress.bar_lines import BAR_MARK
from raylight.cli.job_client import ADDRESS_HELP, RUN_ID_KEY, UNDER_WAY, connect, find, told, without_passwords
from raylight.utilities.exceptions import SIGTERM_STATUS, ClusterError, RaylightError

FAILED, BAD_INPUT, LOST, INTERRUPTED = 1, 2, 3, 130
"""Exit status."""
ATTEMPTS = 5
"""To get a further character of a log whose connection was lost."""
SECONDS_BETWEEN_ATTEMPTS = 2.0
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_END = 30.0
"""After the end of a job's log, for its state."""
SECONDS_TO_STOP = 90.0
"""For a job that was told to stop: more than the 60 that the files of ``cluster/`` grant."""
TQDM = re.compile(r"\d+%\|.*\| \d+/\d+ \[")


def add_commands(commands: Any) -> None:
    """Register ``status``, ``logs`` and ``stop``."""
    ids = "a run id, which means its newest submission, or a submission's"
    status = commands.add_parser("status", help="show the jobs of a cluster", description="Show jobs of a cluster.")
    status.add_argument("id", nargs="?", help=f"{ids}; all jobs")
    logs = commands.add_parser("logs", help="print a job's log", description="Print the log of a job.")
    logs.add_argument("id", help=ids)
    logs.add_argument("--follow", action="store_true", help="until the job ends; the exit status is then the job's")
    stop = commands.add_parser(
        "stop",
        help="stop a job, saving first",
        description="Stop a job: training stops at the next batch and saves what `raylight submit` with the same run "
        "id goes on from. Ray grants 3 s for that, unless RAY_JOB_STOP_WAIT_TIME_S in the environment of the cluster's "
        "head says otherwise; the files of cluster/ say 60. The exit status is 1 where it is still stopping after "
        f"{SECONDS_TO_STOP:g} s.",
    )
    stop.add_argument("id", help=ids)
    for parser, run in ((status, show_status), (logs, show_logs), (stop, stop_job)):
        parser.add_argument("--address", help=ADDRESS_HELP)
        parser.set_defaults(run=_complaining(parser.prog, run))


def _complaining(command: str, run: Callable[[Any, argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    def carry_out(options: argparse.Namespace) -> int:
        try:
            client = connect(options.address)
            with told(client.get_address()):
                return run(client, options)
        except RaylightError as error:
            print(without_passwords(f"{command}: {error}"), file=sys.stderr)
            return BAD_INPUT

    return carry_out


def address_option(given: str | None) -> str:
    """What further commands have behind the id, to reach the same cluster; may be empty."""
    return f" --address {shlex.quote(without_passwords(given))}" if given else ""


# ------------------------------------------------------------------------------------------------ status


def show_status(client: Any, options: argparse.Namespace) -> int:
    """Print a table of all jobs, or what is known of one."""
    if options.id is None:
        _print_table([job for job in client.list_jobs() if job.submission_id])
        return 0
    job = find(client, options.id)
    facts = {
        "run": _run_id(job),
        "submission": job.submission_id,
        "status": job.status.value,
        "exit status": job.driver_exit_code,
        "message": (job.message or "").partition("\n")[0],
        "started": _moment(job.start_time),
        "ended": _moment(job.end_time),
        "duration": _duration(job),
        "command": job.entrypoint,
    }
    for name, fact in facts.items():
        if fact not in (None, ""):
            print(f"{name + ':':<13}{fact}")
    return 0


def _print_table(jobs: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "submission", "status", "started", "duration", box=None, pad_edge=False)
    for job in sorted(jobs, key=lambda each: each.start_time or 0):
        table.add_row(_run_id(job), job.submission_id, job.status.value, _moment(job.start_time), _duration(job))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a line each, for other programs
    console.print(table if jobs else "no jobs")


def _run_id(job: Any) -> str:
    return str((job.metadata or {}).get(RUN_ID_KEY, ""))


def _moment(milliseconds: int | None) -> str:
    return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M:%S") if milliseconds else ""


def _duration(job: Any) -> str:
    if not job.start_time:
        return ""
    end = job.end_time / 1000 if job.end_time else time.time()
    return str(timedelta(seconds=max(0, round(end - job.start_time / 1000))))


# ------------------------------------------------------------------------------------------------ logs


def show_logs(client: Any, options: argparse.Namespace) -> int:
    """Print what a job has written, and with ``--follow`` what it writes."""
    job = find(client, options.id)
    if options.follow:
        return follow(client, job.submission_id, _run_id(job) or job.submission_id, address_option(options.address))
    terminal = LogPrinter()
    terminal.write(client.get_job_logs(job.submission_id))
    terminal.close()
    return 0


def follow(client: Any, submission_id: str, name: str, address: str) -> int:
    """Print a job's log until it ends; its exit status.

    Args:
        name: What its owner calls it.
        address: Of ``address_option``.
    """
    terminal = LogPrinter()
    try:
        with told(client.get_address()):
            asyncio.run(_tail(client, submission_id, terminal))
            job = _ended(client, submission_id, SECONDS_TO_END)
    except KeyboardInterrupt:
        terminal.close()
        return _leave(f"\n{name} goes on.", name, address, INTERRUPTED)
    except ClusterError as error:
        terminal.close()
        return _leave(f"{error}\nThis does not end {name}.", name, address, LOST)
    finally:
        terminal.close()
    return _report(job, name)


def _leave(reason: str, name: str, address: str, status: int) -> int:
    """Say that a job is no longer followed, and what can be done; the exit status."""
    print(
        f"{without_passwords(reason)} Its log again: raylight logs --follow {name}{address}\n"
        f"To stop it, saving first: raylight stop {name}{address}",
        file=sys.stderr,
    )
    return status


async def _tail(client: Any, submission_id: str, terminal: LogPrinter) -> None:
    """Print the log until the job ends; a lost connection is taken up again."""
    import aiohttp

    failures = 0
    while True:
        seen, before = 0, terminal.count
        try:
            async for text in client.tail_job_logs(submission_id):  # from its beginning
                fresh = text[max(0, terminal.count - seen) :]
                seen += len(text)
                terminal.write(fresh)
            if client.get_job_status(submission_id).value not in UNDER_WAY:
                return
        except (RuntimeError, aiohttp.ClientError, OSError) as error:
            failures = failures + 1 if terminal.count == before else 1
            if failures == ATTEMPTS:
                raise ClusterError(f"The connection to {client.get_address()} was lost: {error}") from error
        await asyncio.sleep(SECONDS_BETWEEN_ATTEMPTS)


def _ended(client: Any, submission_id: str, seconds: float) -> Any:
    """The job's last state, or that after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        job = client.get_job_info(submission_id)
        if job.status.value not in UNDER_WAY or time.monotonic() > deadline:
            return job
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _report(job: Any, name: str) -> int:
    """Say how a job has ended; its exit status."""
    state = job.status.value
    if state == "SUCCEEDED":
        print(f"run {name}: succeeded")
        return 0
    if state == "STOPPED":
        print(f"run {name}: was stopped; submit it with the same --run-id and it goes on", file=sys.stderr)
        return SIGTERM_STATUS
    message = (job.message or "").partition(", last available logs")[0].strip()
    print(f"run {name}: {state.lower()}: {message}", file=sys.stderr)
    if "No module named raylight" in (job.message or ""):
        print("raylight must be installed on all nodes of the cluster, where jobs find `python`", file=sys.stderr)
    code = job.driver_exit_code or FAILED
    return 128 - code if code < 0 else code  # of a signal, as a shell tells it


class LogPrinter:
    """Prints a log as it comes; on a terminal a progress bar, which is a line of it each time, stays in its place."""

    def __init__(self) -> None:
        self.count = 0
        """Characters of the log that are done with."""
        self._terminal = sys.stdout.isatty()
        self._rest = ""
        self._bar_shown = False

    def write(self, text: str) -> None:
        """Print what is new."""
        self.count += len(text)
        if not self._terminal:
            sys.stdout.write(text.replace(BAR_MARK, ""))
            sys.stdout.flush()
            return
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._print_line(line)
        sys.stdout.flush()

    def _print_line(self, line: str) -> None:
        is_bar = line.startswith(BAR_MARK) or TQDM.search(line) is not None
        if is_bar:
            sys.stdout.write(f"\r\x1b[K{line.removeprefix(BAR_MARK)}")
        else:
            sys.stdout.write(f"\n{line}\n" if self._bar_shown else f"{line}\n")
        self._bar_shown = is_bar

    def close(self) -> None:
        """Nothing more comes, for now."""
        if self._terminal and (self._bar_shown or self._rest):
            sys.stdout.write(f"\n{self._rest}" if self._bar_shown else f"{self._rest}\n")
        self._rest, self._bar_shown = "", False
        sys.stdout.flush()


# ------------------------------------------------------------------------------------------------ stop


def stop_job(client: Any, options: argparse.Namespace) -> int:
    """Ask a job to stop, and wait until it has."""
    job = find(client, options.id)
    if job.status.value not in UNDER_WAY:
        print(f"{job.submission_id} has ended: {job.status.value.lower()}")
        return 0
    client.stop_job(job.submission_id)
    job = _ended(client, job.submission_id, SECONDS_TO_STOP)
    if job.status.value in UNDER_WAY:
        look = f"raylight status {job.submission_id}{address_option(options.address)}"
        print(f"{job.submission_id} is stopping. Whether it has ended: {look}")
        return FAILED
    print(f"{job.submission_id}: {job.status.value.lower()}")
    return 0
