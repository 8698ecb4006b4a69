"""The way to a cluster's jobs: its address, the connection, and why there is none."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

from packaging.version import Version

from raylight.engine.address import LOGIN
from raylight.utilities.exceptions import ClusterError
from raylight.utilities.rank_zero import log

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Ray's own, in the order in which it asks for them."""
OLDEST_RAY = "2.52"
"""With which raylight runs."""
RUN_ID_KEY = "raylight_run_id"
"""In a job's metadata."""
UNDER_WAY = ("PENDING", "RUNNING")
"""States of a job that has not ended."""
ADDRESS_HELP = f"HTTP address of the cluster's dashboard ({' or '.join(ADDRESS_VARIABLES)}, else {DEFAULT_ADDRESS})"


def choose_address(given: str | None) -> str:
    """The HTTP address that was given, or is in the environment, or Ray's default on this machine.

    Raises:
        ClusterError: It is of another kind.
    """
    name, text = next(
        ((variable, os.environ[variable]) for variable in ADDRESS_VARIABLES if os.environ.get(variable)),
        ("the default", DEFAULT_ADDRESS),
    )
    if given is not None:
        name, text = "--address", given
    if text in ("auto", "local"):  # what Ray says for the cluster of this machine
        return DEFAULT_ADDRESS
    text = text.rstrip("/")
    if text.startswith(("http://", "https://")):
        return text
    scheme, separator, rest = text.rpartition("://")
    host = rest.rpartition(":")[0] or rest
    what = "a Ray Client address" if scheme == "ray" else "no HTTP address"
    if not separator:
        what = "without http:// the address of the cluster's GCS, for Ray's own processes"
    raise ClusterError(
        f"{name} {text} is {what}; jobs go to that of the dashboard: --address http://{host or 'HEAD'}:8265"
    )


def connect(given: str | None) -> Any:
    """Ray's JobSubmissionClient for the address; see ``choose_address``.

    Raises:
        ClusterError: Nothing listens there, or not to us; or Ray there is too old. Says what to do.
    """
    address = choose_address(given)
    try:
        import aiohttp  # noqa: F401  Ray tells of it late, and in other words
        import requests
        from ray.job_submission import JobSubmissionClient
    except ModuleNotFoundError as error:
        raise ClusterError(
            f"Jobs need `ray[default]`, of which {error.name} is missing here: install the extra `raylight[jobs]`."
        ) from error
    with _address_of_ours(), told(address):
        try:
            client = JobSubmissionClient(address)
        except (requests.exceptions.RequestException, ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterError(_unreachable(address, error)) from error
    for talkative in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{talkative}").setLevel(logging.WARNING)
    _check_version(address, str(client._server_ray_version))
    return client


def without_passwords(text: str) -> str:
    """``text`` with ``<redacted>`` in the place of each URL's password."""
    return re.sub(r"(?<=://)([^\s/?#:@]*):[^\s/?#]*@", r"\1:<redacted>@", text)


@contextlib.contextmanager
def told(address: str) -> Iterator[None]:
    """In the block, what Ray and the network raise is a ClusterError.

    Raises:
        ClusterError: See above.
    """
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(f"{address} wants a token, or another one: {_first_line(error)}\n{LOGIN}") from error
    except requests.exceptions.RequestException as error:
        raise ClusterError(f"The connection to {address} was lost: {_first_line(error)}") from error
    except RuntimeError as error:  # how Ray passes on what the dashboard answers
        raise ClusterError(f"{address}: {error}") from error


@contextlib.contextmanager
def _address_of_ours() -> Iterator[None]:
    """In the block Ray does not take another address from the environment, which it prefers to the one it is given."""
    kept = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _unreachable(address: str, error: Exception) -> str:
    text = _first_line(error)
    if "404" in text:
        return f"{address} answers, but not as Ray's dashboard does: {text}"
    return (
        f"There is no dashboard of Ray at {address}: {text}\nIs it the head's address, with the port of the dashboard "
        "(8265) and not that of the GCS (6379)? From another machine the port has to be forwarded: `ray dashboard "
        "cluster.yaml`, or `kubectl port-forward svc/NAME-head-svc 8265`. On the head `ray[default]` must be "
        "installed (the extra `raylight[jobs]`): without it there is no dashboard."
    )


def _check_version(address: str, theirs: str) -> None:
    import ray

    if Version(theirs) < Version(OLDEST_RAY):
        raise ClusterError(
            f"The cluster at {address} runs Ray {theirs}, here is {ray.__version__}; raylight needs {OLDEST_RAY} or "
            f"later there: install the same Ray on the cluster (pip install 'ray[default]=={ray.__version__}')."
        )
    if Version(theirs) != Version(ray.__version__):
        log.warning("The cluster runs Ray %s, here is %s: the job runs with the cluster's.", theirs, ray.__version__)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def submissions(client: Any, run_id: str) -> list[Any]:
    """The jobs of a run, the newest last."""
    jobs = [job for job in client.list_jobs() if (job.metadata or {}).get(RUN_ID_KEY) == run_id and job.submission_id]
    return sorted(jobs, key=lambda job: (job.start_time or 0, number_of(job.submission_id)))


def number_of(submission_id: str) -> int:
    """Of a submission among those of its run; 0 for others."""
    end = submission_id.rpartition("-")[2]
    return int(end) if end.isdecimal() else 0


def find(client: Any, name: str) -> Any:
    """The job that a run id (its newest one), a submission id or Ray's job id means.

    Raises:
        ClusterError: There is none.
    """
    if of_run := submissions(client, name):
        return of_run[-1]
    jobs = [job for job in client.list_jobs() if job.submission_id]
    found = next((job for job in jobs if name in (job.submission_id, job.job_id)), None)
    if found is None:
        known = dict.fromkeys((job.metadata or {}).get(RUN_ID_KEY) or job.submission_id for job in jobs)
        has = f"it has {', '.join(list(known)[-10:])}" if known else "it has none"
        raise ClusterError(f"There is no run or job {name!r} on the cluster at {client.get_address()}: {has}.")
    return found
