"""``raylight doctor`` on a cluster of its own of a head and two nodes, which are to have something wrong.

Usage: examined_nodes.py KIND

KIND: "well": nothing is; "hanging": a node does not go on; "leaving": a node is lost while it is asked; "full": all is
held, a node is drained, the head gives away a GPU that it does not have; "apart": a node has another file system in
place of the working directory. The findings are printed as JSON, with the exit status and what stays on the cluster.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster

from raylight.cli.main import main as raylight

PREEMPTION = 2
"""A reason to drain a node, by Ray's protocol."""


def raylet(node) -> int:
    (info,) = node.all_processes["raylet"]
    return info.process.pid


def examine(*options: str) -> tuple[int, dict]:
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        status = raylight(["doctor", "--json", *options])
    return status, json.loads(told.getvalue())


def processes() -> int:
    """Of doctors on any node."""
    found = subprocess.run(["pgrep", "-c", "-f", "ray::Probe"], capture_output=True, text=True, check=False)
    return int(found.stdout)


def main(kind: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": int(kind == "full")})
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--address", cluster.address, "--block"]
    apart = None
    if kind == "apart":
        shell = f"mount -t tmpfs none '{os.getcwd()}' && exec {' '.join(start)} --num-cpus=1"
        apart = subprocess.Popen(["unshare", "--mount", "sh", "-c", shell], stdout=subprocess.DEVNULL)
        second = None
    else:
        second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    while len([node for node in ray.nodes() if node["Alive"]]) < 2:
        threading.Event().wait(0.1)
    os.environ["RAY_ADDRESS"] = cluster.address
    options = ["--timeout", "60"]
    if kind == "full":
        holders = [ray.remote(num_cpus=1)(Holder).remote() for _ in range(2)]
        ray.get([each.ping.remote() for each in holders])
        deadline = int((time.time() + 600) * 1000)
        drained, why = GcsClient(address=cluster.address).drain_node(second.node_id, PREEMPTION, "spot", deadline)
        assert drained, why
    if kind == "hanging":
        os.kill(raylet(second), signal.SIGSTOP)
        options = ["--timeout", "15"]
    if kind == "leaving":
        threading.Thread(target=leave, args=(cluster, second), daemon=True).start()
    began = time.monotonic()
    status, document = examine(*options)
    seconds = time.monotonic() - began
    if kind == "hanging":
        os.kill(raylet(second), signal.SIGCONT)
    from ray._private.state import actors

    deadline = time.monotonic() + 20
    while (left := processes()) and time.monotonic() < deadline:
        threading.Event().wait(0.1)
    probes = [each for each in actors().values() if each["ActorClassName"] == "Probe" and each["State"] != "DEAD"]
    print(json.dumps({"status": status, **document, "seconds": seconds, "left": left + len(probes)}))
    ray.shutdown()
    if apart is not None:
        apart.terminate()
        apart.wait(30)
    cluster.shutdown()


class Holder:
    def ping(self) -> None: ...


def leave(cluster: Cluster, node) -> None:
    """As soon as it is asked."""
    while not processes():
        threading.Event().wait(0.02)
    cluster.remove_node(node, allow_graceful=False)


if __name__ == "__main__":
    main(sys.argv[1])
