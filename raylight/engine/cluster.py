"""The Ray cluster: join the one that runs or start one, see what it has, and explain what it lacks."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from raylight.engine.address import LOGIN, Address, examine_address, examine_authentication, find_address
from raylight.utilities.exceptions import ClusterError, ResourceError
from raylight.utilities.findings import PROBLEM, Finding, problem
from raylight.utilities.rank_zero import log

if TYPE_CHECKING:
    from raylight.config.accelerators import Placement

_own: tuple[str, str] | None = None
"""The ``session`` of the cluster that was started here; it may be over since, and another one be joined."""
_before_restart: list[Callable[[], None]] = []
MOST_CPUS_PER_CORE = 16
STATUS_SECONDS = 5.0
STATE_API_SECONDS = 2.0
NO_LIMIT = 10**6
"""Workers that need nothing."""
TASK = {"CPU": 1.0}
"""What a task of Ray Data needs, unless its Dataset says otherwise."""
NEWS_SECONDS = 3.0
"""How old Ray's knowledge of what is free may be: a pool that was just ended may still seem to hold it."""


def session() -> tuple[str, str] | None:
    """This process's connection to Ray, like no other: the cluster's session and the driver's job; None without one.

    Actors and placement groups belong to it. A job's id alone would not do: the first of every cluster is 01000000.
    """
    import ray

    if not ray.is_initialized():
        return None
    context = ray.get_runtime_context()
    return str(context.worker.node.session_name), context.get_job_id()


def _is_own() -> bool:
    """Whether the cluster that this process is connected to was started here."""
    return _own is not None and _own == session()


def call_before_restart(action: Callable[[], None]) -> None:
    """Have ``action`` called before a cluster of our own is replaced by a larger one."""
    _before_restart.append(action)


def connect(num_workers: int = 0, cpus_per_worker: float = 0) -> None:
    """Runs on the driver: join the cluster that RAY_ADDRESS or this machine offers, or start one here.

    A cluster started here counts as many CPUs as the workers need, be they more than this machine's cores, up to
    ``MOST_CPUS_PER_CORE``; a number beyond that is taken for a mistake, which ``wait_for_room`` then names.

    Raises:
        ClusterError: There should be a cluster, and it cannot be joined.
    """
    import ray

    global _own
    if ray.is_initialized():
        if ray.util.client.ray.is_connected():
            _check(Address(os.environ.get("RAY_ADDRESS") or "ray://HEAD:10001", "ray.init"))
        if not _is_own() or ray.cluster_resources().get("CPU", 0) >= num_workers * cpus_per_worker:
            return
        for action in _before_restart:
            action()
        ray.shutdown()  # a cluster of our own that was started for fewer
    _check(find_address())
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    settings: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": True}
    cores = os.cpu_count() or 1
    cpus = min(max(cores, math.ceil(num_workers * cpus_per_worker)), cores * MOST_CPUS_PER_CORE)
    try:
        with _explained():
            ray.init(num_cpus=cpus, **settings)
        _own = session()
    except ValueError:  # there is a cluster to join, and it has its own number of CPUs
        with _explained():
            ray.init(**settings)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """In the block, that a cluster cannot be joined is a ClusterError."""
    from ray.exceptions import AuthenticationError

    where = os.environ.get("RAY_ADDRESS") or "that runs on this machine"
    try:
        yield
    except AuthenticationError as error:  # there is no token here
        raise ClusterError(f"The cluster {where} wants a token.\n{LOGIN}") from error
    except RuntimeError as error:
        if not str(error).startswith("Version mismatch"):
            raise
        raise ClusterError(
            f"{str(error).rstrip()}\nThey must be equal: install here what the cluster has, or run the script on the "
            "cluster: `raylight submit script.py --address http://HEAD:8265`."
        ) from error
    except ConnectionError as error:  # Ray's exception does not tell which
        raise ClusterError(
            f"The cluster {where} cannot be joined: it does not run, that is not its GCS, or, where Ray says above "
            f"that it is unauthenticated, it wants another token.\n{LOGIN}"
        ) from error


def _check(address: Address) -> None:
    """Ray would wait a minute and more for a cluster that does not run or does not let us in."""
    permitted, variables = examine_authentication(address)
    findings = [examine_address(address), permitted]
    may_ask = address.text not in (None, "auto") and not variables and all(each.level != PROBLEM for each in findings)
    if may_ask and (refused := refusal(str(address.text))):
        findings.append(refused)
    for finding in findings:
        if finding.level == PROBLEM:
            raise ClusterError(f"{finding.what} {finding.remedy}")


def refusal(address: str) -> Finding | None:
    """Ask the head who it is, which takes milliseconds; ``ray.init`` would ask a head that says no for 20 seconds."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RpcError

    try:
        GcsClient(address=address)
    except AuthenticationError:
        mode = os.environ.get("RAY_AUTH_MODE", "not set")
        sent = "the token that was sent is not its own" if mode == "token" else f"RAY_AUTH_MODE is {mode} here"
        return problem("authentication", f"The cluster at {address} asks for its token, and {sent}.", LOGIN)
    except RpcError as error:
        return problem(
            "Ray address",
            f"What answers at {address} is not the head of a Ray cluster that works: {str(error).rstrip('.')}.",
            "Is it the head's port (6379), not that of the dashboard (8265)? Else stop the cluster and start it again.",
        )
    return None


def disconnect() -> None:
    """Runs on the driver: stop the cluster if it was started here; leave any other alone."""
    import ray

    global _own
    if _is_own():
        ray.shutdown()
    _own = None


def gpu_count() -> int:
    """GPUs of the cluster."""
    import ray

    return int(ray.cluster_resources().get("GPU", 0))


def fitting_count(placement: Placement) -> int:
    """Workers that there is room for now, where their number may change, but no fewer than the least; else all."""
    if not placement.fewer:
        return placement.num_workers
    from ray._private.state import available_resources_per_node

    def room_now() -> int:
        return workers_on(available_resources_per_node().values(), placement.resources)

    deadline = time.monotonic() + NEWS_SECONDS
    while (room := room_now()) < placement.num_workers and time.monotonic() < deadline:
        time.sleep(0.2)
    return next((size for size in placement.sizes if size <= room), placement.sizes[-1])


def workers_on(nodes: Iterable[dict[str, float]], resources: dict[str, float]) -> int:
    """Workers of ``resources`` each that the nodes, of which each has so much, have room for."""
    needs = {name: amount for name, amount in resources.items() if amount > 0}
    fitting = [[int(node.get(name, 0) // amount) for name, amount in needs.items()] for node in nodes]
    return sum(min(counts, default=NO_LIMIT) for counts in fitting)


def draining_nodes() -> dict[str, float]:
    """Nodes that are about to end, by id: when, in seconds since 1970; inf where that is not known."""
    from ray._private.state import state

    return {node: deadline / 1000 or math.inf for node, deadline in state.get_draining_nodes().items()}


def wait_for_room(group: Any, placement: Placement, count: int, seconds: float) -> None:
    """Wait until a placement group for ``count`` workers has its resources, saying meanwhile what it waits for.

    Raises:
        ResourceError: They were not free within ``seconds``; says what is there and who holds it.
    """
    import ray

    patience = 0.0 if _can_never_fit(placement, count) else seconds
    deadline = time.monotonic() + patience
    ready = group.ready()
    while True:
        left = deadline - time.monotonic()
        done, _ = ray.wait([ready], timeout=max(0.5, min(STATUS_SECONDS, left)))
        if done:
            ray.get(done)
            return
        if time.monotonic() >= deadline:
            raise ResourceError(_explain(placement, count, patience))
        log.warning("Waiting for resources: %s", _explain(placement, count, None))


def has_room_for_tasks(seconds: float = NEWS_SECONDS) -> bool:
    """Whether a task of Ray Data, of one CPU, can run now; waits so long for it."""
    from ray.util import placement_group, remove_placement_group

    group = placement_group([TASK], name="raylight-data")  # makes a cluster grow that can
    try:
        return bool(group.wait(seconds))
    finally:
        remove_placement_group(group)


def wait_for_tasks(placement: Placement | None, seconds: float) -> None:
    """Wait until a task of Ray Data, of one CPU, can run beside the workers, saying meanwhile what it waits for.

    Args:
        placement: Of the workers; None: there are none.

    Raises:
        ResourceError: None can, within ``seconds``; or none ever, as the workers hold all that there is.
    """
    import ray

    held = placement.num_workers * placement.resources.get("CPU", 0) if placement is not None else 0.0
    deadline = time.monotonic() + seconds
    while not has_room_for_tasks(max(0.5, min(STATUS_SECONDS, deadline - time.monotonic()))):
        total = ray.cluster_resources().get("CPU", 0)
        never = is_of_this_process() and total - held < TASK["CPU"]
        text = _explain_tasks(placement, held, total)
        if never or time.monotonic() >= deadline:
            raise ResourceError(text if never else f"{text} Waited {seconds:g} s (resource_timeout).")
        log.warning("Waiting for resources: %s", text)


def _explain_tasks(placement: Placement | None, held: float, total: float) -> str:
    text = f"Ray Data reads in tasks of 1 CPU, and none of the cluster's {total:g} CPUs is left for them"
    if placement is None:
        return f"{text}. Free one: end what else holds them, or shut other Trainers down."
    count, each = placement.num_workers, placement.resources.get("CPU", 0)
    remedy = max(0.0, math.floor((total - TASK["CPU"]) / count * 10) / 10)
    advice = (
        f"Give each less, resources_per_worker={{'CPU': {remedy:g}}}, " if 0 < remedy < each else "Give each less, "
    )
    return f"{text}: {count} workers hold {each:g} each, {held:g} in all. {advice}use fewer workers, or add nodes."


def is_of_this_process() -> bool:
    """Whether the cluster was started by ``ray.init`` here, by whomever: such a one does not grow."""
    from ray._private import worker

    node = getattr(worker, "_global_node", None)
    return node is not None and bool(node.is_head())


def inside_trial() -> bool:
    """Whether this process is a trial of Ray Tune, or another actor that lives in a placement group."""
    import ray

    return ray.is_initialized() and ray.util.get_current_placement_group() is not None


def bundles_of_trial(group: Any, placement: Placement) -> list[int]:
    """Runs in a trial of Ray Tune: which bundles of its placement group the workers take.

    The first is the trial's own, unless it has asked for nothing: then Ray makes no bundle of that.

    Raises:
        ResourceError: It has not enough of them.
    """
    import ray

    own = 1 if ray.get_runtime_context().get_assigned_resources() else 0
    fitting = [
        index
        for index, bundle in enumerate(group.bundle_specs)
        if index >= own and all(bundle.get(name, 0) >= amount for name, amount in placement.resources.items())
    ]
    if len(fitting) < placement.num_workers:
        wanted = f"PlacementGroupFactory([{{}}] + [{placement.resources}] * {placement.num_workers})"
        raise ResourceError(
            f"{placement.num_workers} workers with {placement.resources} each are asked for in a trial whose placement "
            f"group has {len(fitting)} bundles for them: {group.bundle_specs}. Workers outside of it could wait for "
            f"ever; give the trial resources of {wanted}, or use raylight.sweep(..., workers_per_trial=...)."
        )
    return fitting[: placement.num_workers]


def _can_never_fit(placement: Placement, count: int) -> bool:
    """The cluster is one of our own on this machine, which does not grow."""
    import ray

    if not _is_own():
        return False
    total = ray.cluster_resources()
    lacks = any(total.get(name, 0) < amount * count for name, amount in placement.resources.items())
    return lacks or placement.num_nodes > len(_alive_nodes())


def _explain(placement: Placement, count: int, waited: float | None) -> str:
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    needs = ", ".join(f"{amount:g} {name}" for name, amount in placement.resources.items())
    has = ", ".join(f"{free.get(name, 0):g} of {total.get(name, 0):g} {name}" for name in placement.resources)
    text = f"{count} workers with {needs} each are asked for, but the cluster has {has} free."
    if placement.num_nodes > 1:
        text += f" They must spread over {placement.num_nodes} nodes (num_nodes); it has {len(_alive_nodes())}."
    held = holders(placement.resources)
    if held:
        text += f" Held by: {'; '.join(held)}."
    if waited:
        text += f" Waited {waited:g} s (resource_timeout)."
    if waited is not None:
        text += " Ask for fewer devices, free what is held, or add nodes to the cluster."
    return text


def _alive_nodes() -> list[Any]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def holders(names: Collection[str]) -> list[str]:
    """Placement groups, and actors outside of any, that hold resources of these names."""
    from ray.util import placement_group_table

    held = []
    for entry in placement_group_table().values():
        if entry["state"] == "CREATED":
            bundles = list(entry["bundles"].values())
            sums = {name: sum(bundle.get(name, 0) for bundle in bundles) for name in names}
            amounts = ", ".join(f"{amount:g} {name}" for name, amount in sums.items() if amount)
            held.append(f"placement group {entry['name'] or entry['placement_group_id'][:8]} ({amounts})")
    return held + _actor_holders()


def _actor_holders() -> list[str]:
    """Actors outside of any placement group; none where the cluster's state API is not there to tell."""
    import ray

    holders: list[str] = []
    address = ray.get_runtime_context().gcs_address
    asking = threading.Thread(target=_ask_for_actors, args=(address, holders), daemon=True)
    asking.start()
    asking.join(STATE_API_SECONDS)  # where there is no dashboard it would look for one for half a minute
    return list(holders)


def _ask_for_actors(address: str, holders: list[str]) -> None:
    from ray.util.state import list_actors

    try:
        actors = list_actors(address=address, filters=[("state", "=", "ALIVE")], detail=True, timeout=5)
    except Exception:  # the state API needs the cluster's dashboard, which may not run
        return
    holders.extend(
        f"actor {actor.class_name}, pid {actor.pid} ({actor.required_resources})"
        for actor in actors
        if actor.required_resources and not actor.placement_group_id
    )
