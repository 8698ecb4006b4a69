"""The examination of a Ray cluster, in a process of its own: Ray ends a process whose head is lost or refuses it.

Usage: python -m raylight.engine.examination ADDRESS STORAGE SECONDS

Prints a line of JSON for each finding, and for what it is about to do: {"doing": "..."}. Runs beside the driver.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylight.checkpoint import storage
from raylight.engine import cluster, conditions, probe
from raylight.engine.conditions import HERE
from raylight.utilities.findings import PROBLEM, Finding, ok, problem, warning

MEGABYTES = 8
QUESTIONS = 5
"""To a clock; the quickest answer counts."""
RESOURCES = ("CPU", "GPU")


@dataclass
class Node:
    """One of the cluster's."""

    id: str
    name: str
    """Its host's address, with a part of its id where others have the same."""
    resources: dict[str, float]
    probe: Any = None
    """Actor handle."""


Doing = Callable[[str], None]
"""Told what is done next."""


def enter(address: str) -> Iterator[Finding]:
    """Join the cluster as a driver; a problem is the last finding, and then there is nothing to examine."""
    from ray._private import services

    address = services.canonicalize_bootstrap_address_or_die(address)
    refused = cluster.refusal(address)
    if refused is not None:
        yield refused
    elif not _has_node_here(address, services.find_gcs_addresses()):
        yield problem(
            "Ray address",
            f"The cluster at {address} has no node on this machine, and a script can only join one from its nodes.",
            f"Type `ray start --address={address}` here, or run the script there, with `raylight submit`.",
        )
    else:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)


def _has_node_here(address: str, nodes_of: frozenset[str]) -> bool:
    return any(_resolved(address) == _resolved(other) for other in nodes_of)


def _resolved(address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        return f"{socket.gethostbyname(host)}:{port}"
    except OSError:
        return address


# ------------------------------------------------------------------------------------------------ the nodes


def examine(folder: str, seconds: float, doing: Doing = lambda what: None) -> Iterator[Finding]:
    """Examine the cluster that this process has joined. Nothing of it stays there.

    Args:
        folder: Path or URI, where files of runs go.
        seconds: That a node has for each answer.
        doing: Called before each part.
    """
    doing("asking for the nodes")
    nodes = _nodes()
    yield _examine_nodes(nodes)
    ray.cloudpickle.register_pickle_by_value(probe)
    probes: list[Any] = []
    try:
        doing("starting a process on each node")
        draining = cluster.draining_nodes()
        nodes = [node for node in nodes if node.id not in draining]  # those take no new process
        for node in nodes:
            node.probe = _start_probe(node, probes)
        # A single node is measured against itself: the second process starts beside the first.
        beside = dataclasses.replace(nodes[0], probe=_start_probe(nodes[0], probes)) if len(nodes) == 1 else None
        reports, silent = ask(nodes, lambda node: node.probe.report.remote(), seconds)
        yield from (_silence(name, why) for name, why in silent.items())
        answering = [node for node in nodes if node.name in reports]
        stores = {node.name: node.resources.get("object_store_memory", 0.0) for node in answering}
        yield from conditions.examine_machines({HERE: probe.report(), **reports}, stores)
        if not answering:
            return
        counted = {node.name: node.resources.get("GPU", 0.0) for node in answering}
        yield conditions.examine_gpus(reports, counted)
        doing("asking for the time")
        yield from _examine_clocks(answering, seconds)
        doing("looking for a file on each node")
        yield from _examine_storage(folder, answering, seconds)
        doing("measuring the network")
        with_torch = [node for node in answering if "torch" not in reports[node.name]["errors"]]
        if len(with_torch) == 1:
            first = with_torch[0]
            with_torch.append(beside or dataclasses.replace(first, probe=_start_probe(first, probes)))
        if with_torch:
            yield _measure("gloo", with_torch, seconds)
        yield from _examine_nccl([node for node in answering if reports[node.name]["cuda"]["count"]], probes, seconds)
        doing("asking who holds resources")
        yield _examine_room()
    finally:
        for each in probes:
            ray.kill(each)
        ray.cloudpickle.unregister_pickle_by_value(probe)


def _nodes() -> list[Node]:
    alive = [entry for entry in ray.nodes() if entry["Alive"]]
    hosts = [entry["NodeManagerAddress"] for entry in alive]
    return [
        Node(
            entry["NodeID"],
            host if hosts.count(host) == 1 else f"{host} ({entry['NodeID'][:6]})",
            entry["Resources"],
        )
        for entry, host in zip(alive, hosts, strict=True)
    ]


def _examine_nodes(nodes: list[Node]) -> Finding:
    told = ", ".join(node.name for node in nodes)
    draining = cluster.draining_nodes()
    leaving = {node.name: draining[node.id] for node in nodes if node.id in draining}
    if leaving:
        when = ", ".join(
            name if end == float("inf") else f"{name} in {max(0.0, end - time.time()):.0f} s"
            for name, end in leaving.items()
        )
        return warning(
            "nodes",
            f"{len(nodes)} alive: {told}. About to end: {when}.",
            "Workers move to other nodes by themselves where there is room; add nodes, or start with "
            "num_workers=(min, max).",
        )
    return ok("nodes", f"{len(nodes)} alive: {told}")


def _start_probe(node: Node, probes: list[Any], gpus: int = 0) -> Any:
    where = NodeAffinitySchedulingStrategy(node.id, soft=False)
    kind: Any = ray.remote(num_cpus=0, num_gpus=gpus, max_restarts=0)(probe.Probe)
    started = kind.options(scheduling_strategy=where).remote()
    probes.append(started)
    return started


def ask(
    nodes: Sequence[Node], question: Callable[[Node], Any], seconds: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """Ask all nodes at once.

    Args:
        nodes: Whose probes are there.
        question: Gives the reference to a node's answer.
        seconds: To wait for all answers together.

    Returns:
        Answers by the node's name, and of the others why there is none.
    """
    asked = {question(node): node.name for node in nodes}
    if asked:
        ray.wait(list(asked), num_returns=len(asked), timeout=seconds)
    answers, silent = {}, {}
    for reference, name in asked.items():
        try:
            answers[name] = ray.get(reference, timeout=0)
        except GetTimeoutError:
            silent[name] = f"it did not answer within {seconds:g} s"
        except RayError as error:
            silent[name] = _reason(error)
    return answers, silent


def _reason(error: RayError) -> str:
    cause = getattr(error, "cause", None)  # what the probe has raised
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"
    return next((line.strip(" .") for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _silence(name: str, why: str) -> Finding:
    return problem(
        "node",
        f"A process on {name} gave no answer: {why}.",
        "Is the machine overloaded, hanging or gone? `ray status` shows it; the logs are there in "
        "/tmp/ray/session_latest/logs. A run whose workers are there would wait, or go elsewhere after some minutes.",
    )


def _examine_clocks(nodes: list[Node], seconds: float) -> Iterator[Finding]:
    skews = {}
    for node in nodes:
        best: tuple[float, float] | None = None
        for _ in range(QUESTIONS):
            before = time.time()
            answers, silent = ask([node], lambda node: node.probe.clock.remote(), seconds)
            after = time.time()
            if silent:
                yield _silence(node.name, silent[node.name])
                break
            doubt = (after - before) / 2
            if best is None or doubt < best[1]:
                best = answers[node.name] - (before + after) / 2, doubt
        if best is not None:
            skews[node.name] = best
    if skews:
        yield conditions.examine_clocks(skews)


def _examine_storage(folder: str, nodes: list[Node], seconds: float) -> Iterator[Finding]:
    is_local = storage.is_local(folder)
    folder = os.path.abspath(os.path.expanduser(folder)) if is_local and "://" not in folder else folder
    marker = storage.join(folder, f".raylight-doctor-{uuid.uuid4().hex}")
    try:
        storage.make_dirs(folder)
        storage.write_atomic(marker, _write_marker)
    except Exception as error:  # of the file system, or of the library that speaks to it
        yield problem(
            "storage",
            f"This machine cannot write to {folder}: {type(error).__name__}: {error}.",
            "Give a folder or URI that can be written: --storage here, default_root_dir in the Trainer.",
        )
        return
    try:
        seen, silent = ask(nodes, lambda node: node.probe.sees.remote(marker), seconds)
    finally:
        storage.delete(marker)
    for name, why in silent.items():
        yield problem("storage", f"{name} could not look into {folder}: {why}.", "Look at the node's own message.")
    if seen:
        yield conditions.examine_storage(folder, seen, is_local)


def _write_marker(file: BinaryIO) -> None:
    file.write(b"raylight doctor")


# ------------------------------------------------------------------------------------------------ the network


def _examine_nccl(nodes: list[Node], probes: list[Any], seconds: float) -> Iterator[Finding]:
    """With one free GPU of each node; with a second one where there is a single node."""
    from ray._private.state import available_resources_per_node

    free = {node.id: int(available_resources_per_node().get(node.id, {}).get("GPU", 0)) for node in nodes}
    held = [node.name for node in nodes if not free[node.id]]
    if held:
        yield ok("network", f"nccl was not measured with {', '.join(held)}: all GPUs there are in use")
    able = [node for node in nodes if free[node.id]]
    if len(able) == 1 and free[able[0].id] > 1:
        able = able * 2
    if able:
        yield _measure(
            "nccl", [dataclasses.replace(node, probe=_start_probe(node, probes, gpus=1)) for node in able], seconds
        )


def _measure(backend: str, members: list[Node], seconds: float) -> Finding:
    """Let the members' probes reduce tensors together."""
    places = sorted({node.name for node in members})
    over = f"{len(places)} nodes" if len(places) > 1 else f"{len(members)} processes of {places[0]}"
    # Each has a name of its own here, as two may be on one node.
    ranked = [dataclasses.replace(node, name=f"rank {rank} on {node.name}") for rank, node in enumerate(members)]
    size = len(ranked)
    met, silent = ask(ranked[:1], lambda node: node.probe.open_store.remote(size), seconds)
    results: Mapping[str, tuple[float, float]] = {}
    if met:
        meeting = met[ranked[0].name]
        ranks = {node.name: rank for rank, node in enumerate(ranked)}
        results, silent = ask(
            ranked,
            lambda node: node.probe.measure.remote(ranks[node.name], size, meeting, backend, MEGABYTES, seconds / 2),
            seconds,
        )
    if silent:
        told = "; ".join(f"{name}: {why}" for name, why in silent.items())
        return problem(
            "network",
            f"{backend} over {over} failed: {told}.",
            f"All ports between the nodes must be open. Let {conditions.interface_variable(backend)} name the network "
            "of the nodes, such as eth0, on all of them; see that no host's own name means 127.0.0.1 in /etc/hosts.",
        )
    slowest = max(seconds for seconds, _ in results.values())
    return conditions.examine_network(backend, over, slowest, min(rate for _, rate in results.values()))


def _examine_room() -> Finding:
    total, free = ray.cluster_resources(), ray.available_resources()
    names = [name for name in RESOURCES if total.get(name)]
    told = ", ".join(f"{free.get(name, 0):g} of {total[name]:g} {name}" for name in names) + " free"
    held = cluster.holders(names) if any(free.get(name, 0) < total[name] for name in names) else []
    if held:
        told += f". Held by: {'; '.join(held)}"
    if any(free.get(name, 0) < 1 for name in names):
        return warning(
            "resources",
            told,
            "A run would wait resource_timeout seconds for room: end what holds it, or add nodes.",
        )
    return ok("resources", told)


# ------------------------------------------------------------------------------------------------ the process


def main(arguments: Sequence[str]) -> int:
    """Runs beside the driver; see the module."""
    address, folder, seconds = arguments[0], arguments[1], float(arguments[2])
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is none of them

    def write(entry: dict[str, Any]) -> None:
        print(json.dumps(entry), file=lines, flush=True)

    def doing(what: str) -> None:
        write({"doing": what})

    doing("joining the cluster")
    entered = list(enter(address))
    for finding in entered:
        write(dataclasses.asdict(finding))
    if any(finding.level == PROBLEM for finding in entered):
        return 0
    for finding in examine(folder, seconds, doing):
        write(dataclasses.asdict(finding))
    doing("leaving the cluster")
    ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
