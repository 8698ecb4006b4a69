"""What the reports of a cluster's machines mean for a run on them."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from raylight.utilities.findings import Finding, ok, problem, warning

OPEN_FILES, PROCESSES = 65536, 16384
"""Limits of a process below which a larger run may fail: sockets and files of Ray, threads of all workers."""
SHARED_MEMORY = 1 << 30
"""Bytes free in /dev/shm below which DataLoader processes, whose batches pass through it, may fail."""
MUST_BE_EQUAL = ("python", "ray", "torch", "raylight")
"""Between the driver and all nodes: what one pickles the other has to understand, or they cannot meet."""
SKEW_SECONDS = 1.0
HERE = "this machine"
"""Name of the driver's machine, among the names of nodes."""
SLOW_SECONDS, SLOW_BYTES = 0.01, 100e6
"""A round trip, and bytes per second, from which on DDP waits for the network rather than computes."""

Reports = Mapping[str, Mapping[str, Any]]
"""By the node's name, what ``probe.report`` gives."""


def examine_machines(reports: Reports, stores: Mapping[str, float] | None = None) -> Iterator[Finding]:
    """All that can be told of machines without asking them again; ``stores``: bytes of the nodes' object stores."""
    yield from examine_imports(reports)
    yield examine_versions(reports)
    yield examine_cuda(reports)
    yield examine_limit(reports, "open_files", OPEN_FILES, "ulimit -n")
    yield examine_limit(reports, "processes", PROCESSES, "ulimit -u")
    yield examine_shared_memory(reports, stores or {})


def examine_imports(reports: Reports) -> Iterator[Finding]:
    """Packages without which no worker can start."""
    for name, report in reports.items():
        for package, error in report["errors"].items():
            yield problem(
                package,
                f"It cannot be imported on {name}: {error}.",
                f"Install the driver's version of {package} in the Python environment that Ray runs in there.",
            )


def examine_versions(reports: Reports) -> Finding:
    """Whether all machines have the same packages."""
    packages = list(next(iter(reports.values()))["versions"])
    found = {package: _by_value(reports, package) for package in packages}
    different = {package: values for package, values in found.items() if len(values) > 1}
    if not different:
        versions = ", ".join(f"{package} {version}" for package, (version,) in found.items() if version)
        return ok("versions", versions + (f", the same on {_all(reports)}" if len(reports) > 1 else ""))
    told = "; ".join(
        f"{package} is " + ", ".join(f"{version or 'missing'} on {_names(nodes)}" for version, nodes in values.items())
        for package, values in different.items()
    )
    grave = any(package in different for package in MUST_BE_EQUAL)
    return (problem if grave else warning)(
        "versions", told, "Install the same versions on all nodes: the same image or the same lock file."
    )


def _by_value(reports: Reports, package: str) -> dict[str | None, list[str]]:
    found: dict[str | None, list[str]] = defaultdict(list)
    for name, report in reports.items():
        found[report["versions"].get(package)].append(name)
    return found


def examine_cuda(reports: Reports) -> Finding:
    """Whether torch sees the GPUs of each machine."""
    blind = [name for name, report in reports.items() if report["cuda"]["has_device"] and not report["cuda"]["count"]]
    if blind:
        cpu_only = [name for name in blind if reports[name]["cuda"]["built"] is None]
        remedy = "Install a build of torch with CUDA: pip install torch, without +cpu."
        if not cpu_only:
            remedy = "Look at CUDA_VISIBLE_DEVICES there, and whether nvidia-smi's driver is new enough for this torch."
        return problem("CUDA", f"There is an NVIDIA driver on {_names(blind)}, but torch sees no GPU there.", remedy)
    told = []
    for name, report in reports.items():
        cuda = report["cuda"]
        if cuda["count"]:
            told.append(f"{cuda['count']} GPUs on {name} (CUDA {cuda['built']})")
    return ok("CUDA", ", ".join(told) or f"no GPU on {_all(reports)}")


def examine_limit(reports: Reports, key: str, least: int, command: str) -> Finding:
    """Whether each machine lets processes have as much as a run may need."""
    subject = key.replace("_", " ")
    limits = {name: _reachable(report[key], name) for name, report in reports.items()}
    low = {name: limit for name, limit in limits.items() if limit < least}
    if low:
        told = ", ".join(f"{limit:,} on {name}" for name, limit in low.items())
        where = "before `ray start`" if set(low) - {HERE} else "before the script"
        return warning(
            subject,
            f"The limit is {told}; {least:,} are recommended.",
            f"Type `{command} {least}` {where}, or raise it in /etc/security/limits.conf or with the container's "
            "--ulimit.",
        )
    lowest = min(limits.values())
    return ok(subject, f"limit {'none' if lowest == sys.maxsize else f'{lowest:,}'} on {_all(reports)}")


def _reachable(limits: tuple[int, int], name: str) -> int:
    """A node's workers keep what they were given; Ray lets a driver have as much as it may."""
    limit = limits[1] if name == HERE else limits[0]
    return sys.maxsize if limit < 0 else limit


def examine_shared_memory(reports: Reports, stores: Mapping[str, float]) -> Finding:
    """Whether /dev/shm has room.

    Args:
        reports: Of the machines.
        stores: Bytes of the object store of each node.
    """
    subject, remedy = "shared memory", "Make /dev/shm larger: `docker run --shm-size=...`, or a memory volume there."
    sizes = {name: report["shm"] for name, report in reports.items() if report["shm"] is not None}
    small = [name for name, (total, _) in sizes.items() if total < stores.get(name, 0)]
    if small:
        return warning(
            subject,
            f"/dev/shm is smaller than Ray's object store on {_names(small)}: Ray keeps that on a disk there, slowly.",
            remedy,
        )
    full = [name for name, (_, free) in sizes.items() if free < SHARED_MEMORY]
    if full:
        return warning(
            subject,
            f"Less than 1 GiB is free in /dev/shm on {_names(full)}: DataLoaders with num_workers pass batches "
            "through it, and end with a bus error where it is full.",
            remedy,
        )
    free = min((free for _, free in sizes.values()), default=None)
    return ok(subject, "there is no /dev/shm" if free is None else f"{free / (1 << 30):.1f} GiB free in /dev/shm")


def examine_gpus(reports: Reports, counted: Mapping[str, float]) -> Finding:
    """Whether Ray gives away the GPUs that torch sees.

    Args:
        reports: Of the nodes.
        counted: GPUs of each node by Ray's count.
    """
    present = {name: report["cuda"]["count"] for name, report in reports.items()}
    missing = [name for name, count in present.items() if counted.get(name, 0) > count]
    unused = [name for name, count in present.items() if counted.get(name, 0) < count]
    told = ", ".join(
        f"{name}: {counted.get(name, 0):g} by Ray, {present[name]} by torch" for name in [*missing, *unused]
    )
    if missing:
        return problem(
            "GPUs",
            f"Ray gives away GPUs that torch does not see. {told}.",
            "Start these nodes without --num-gpus, so that Ray counts for itself; install torch with CUDA there.",
        )
    if unused:
        return warning(
            "GPUs",
            f"Ray does not know of all GPUs. {told}.",
            "Start these nodes again with `ray start --num-gpus=N`, and without CUDA_VISIBLE_DEVICES.",
        )
    total = sum(present.values())
    return ok("GPUs", f"{total:g}, by Ray's count and by torch's" if total else "none in the cluster")


def examine_clocks(skews: Mapping[str, tuple[float, float]]) -> Finding:
    """Whether the clocks agree.

    Args:
        skews: By node, seconds that its clock is ahead of the driver's, and the uncertainty of that.
    """
    off = {name: skew for name, (skew, doubt) in skews.items() if abs(skew) - doubt > SKEW_SECONDS}
    if off:
        told = ", ".join(f"{skew:+.1f} s on {name}" for name, skew in off.items())
        return warning(
            "clocks",
            f"They differ from this machine's: {told}. Which file is newer is told by the clock, and S3 refuses "
            "requests that are 15 minutes off.",
            "Run an NTP client, such as chrony, on all nodes.",
        )
    most = max(abs(skew) for skew, _ in skews.values())
    return ok("clocks", f"within {max(most, 0.001):.3f} s of this machine's")


def examine_storage(path: str, seen: Mapping[str, bool], is_local: bool) -> Finding:
    """Whether a file that the driver has written is there on the nodes.

    Args:
        path: The folder.
        seen: By node.
        is_local: It is no URI.
    """
    blind = [name for name, sees in seen.items() if not sees]
    if not blind:
        return ok("storage", f"{path} is the same on {_all(seen)}")
    if is_local:
        return ok(
            "storage",
            f"{path} is not shared with {_names(blind)}: files of workers there come home through raylight. There is "
            "nothing to do; datasets have to be there, or be downloaded in prepare_data.",
        )
    return problem(
        "storage",
        f"What this machine has written to {path} cannot be read on {_names(blind)}.",
        "Give those nodes the same credentials and network access: workers write there themselves.",
    )


def examine_network(backend: str, over: str, seconds: float, bytes_per_second: float) -> Finding:
    """Whether the connection between workers is quick enough for gradients."""
    told = f"{backend} over {over}: round trip {seconds * 1000:.2f} ms, {bytes_per_second / 1e9:.2f} GB/s"
    if seconds > SLOW_SECONDS or bytes_per_second < SLOW_BYTES:
        return warning(
            "network",
            f"{told}. Gradients of 100 MB take {200e6 / bytes_per_second:.1f} s or more at each step.",
            f"Is it the right network? {interface_variable(backend)} names one, such as eth0, on all nodes. Else "
            "accumulate_grad_batches makes exchanges rarer.",
        )
    return ok("network", told)


def interface_variable(backend: str) -> str:
    return f"{backend.upper()}_SOCKET_IFNAME"


def _names(nodes: Any) -> str:
    return ", ".join(nodes)


def _all(reports: Mapping[str, Any]) -> str:
    nodes = [name for name in reports if name != HERE]
    if not nodes:
        return HERE
    told = f"all {len(nodes)} nodes" if len(nodes) > 1 else "the one node"
    return f"{HERE} and {told}" if HERE in reports else told
