"""Two hosts of their own: network namespaces joined by a cable, without a common disk, memory or home.

To be started by root, in an empty folder, with the driver's program, which lies beside this one or is an absolute
path, and its arguments. Prints as JSON what that has printed last, and who was refused.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HEAD, OTHER = "10.77.0.1", "10.77.0.2"
NAMES = ("raylight-head", "raylight-other")
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
SECONDS_TO_JOIN = 40


def command(*words, **more):
    return subprocess.run(words, check=True, capture_output=True, text=True, **more).stdout.strip()


@contextlib.contextmanager
def network():
    with contextlib.suppress(subprocess.CalledProcessError):
        remove_network()
    for name in NAMES:
        command("ip", "netns", "add", name)
    command("ip", "link", "add", "cable0", "netns", NAMES[0], "type", "veth", "peer", "cable1", "netns", NAMES[1])
    for name, device, address in zip(NAMES, ("cable0", "cable1"), (HEAD, OTHER), strict=True):
        command("ip", "-n", name, "address", "add", f"{address}/24", "dev", device)
        command("ip", "-n", name, "link", "set", device, "up")
        command("ip", "-n", name, "link", "set", "lo", "up")
    try:
        yield
    finally:
        remove_network()


def remove_network():
    for name in NAMES:
        with contextlib.suppress(subprocess.CalledProcessError):
            command("ip", "netns", "del", name)


def on_host(number, *words, hidden=()):
    """``words`` as a command on that host, whose /tmp and shared memory, and folders ``hidden``, are its own."""
    mounts = [f"mount -t tmpfs none '{folder}'" for folder in (*hidden, "/dev/shm", "/tmp")]
    script = " && ".join(["cd /", *mounts, 'exec "$@"']) if number else 'exec "$@"'
    return ["ip", "netns", "exec", NAMES[number], "unshare", "--mount", "sh", "-c", script, "sh", *words]


def environment(home, **more):
    """Of a user with that home."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**variables, "HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", **more}


def tries_to_join(here, token):
    """Whether the other host becomes a node with this token; its process, if so."""
    words = on_host(1, *RAY, "start", "--address", f"{HEAD}:6379", "--node-ip-address", OTHER, "--num-cpus", "1",
                    "--block", hidden=[str(here)])  # fmt: skip
    more = {"RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
    with open(here.parent / "other.txt", "w") as output:
        node = subprocess.Popen(
            words, cwd=here, env=environment("/root/nowhere", **more), stdout=output, stderr=subprocess.STDOUT
        )
    deadline = time.monotonic() + SECONDS_TO_JOIN
    while time.monotonic() < deadline and node.poll() is None:
        if "Ray runtime started" in (here.parent / "other.txt").read_text():
            return node
        time.sleep(0.1)
    stop(node)
    return None


def stop(*processes):
    for process in processes:
        if process is not None and process.poll() is None:
            process.terminate()
    for process in processes:
        if process is not None:
            process.wait(30)


def main(program, *arguments):
    here = Path.cwd() / "driver"
    home = Path.cwd() / "home"
    here.mkdir()
    home.mkdir()
    token = command(*RAY, "get-auth-token", "--generate", env=environment(home)).splitlines()[-1]
    with network(), open("head.txt", "w") as output:
        head = subprocess.Popen(
            on_host(0, *RAY, "start", "--head", "--node-ip-address", HEAD, "--port", "6379", "--num-cpus", "2",
                    "--include-dashboard=false", "--temp-dir", "/tmp/raylight-two-hosts", "--block"),
            cwd=here, env=environment(home), stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        other = None
        try:
            while "Ray runtime started" not in Path("head.txt").read_text():
                assert head.poll() is None, Path("head.txt").read_text()
                time.sleep(0.1)
            refused = [name for name, each in (("none", None), ("wrong", "0" * 64)) if not tries_to_join(here, each)]
            other = tries_to_join(here, token)
            assert other is not None, Path("other.txt").read_text()
            variables = environment(home, RAY_ADDRESS=f"{HEAD}:6379")
            words = on_host(0, sys.executable, str(Path(__file__).parent / program), *arguments)
            done = subprocess.run(words, cwd=here, env=variables, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            seen = json.loads(done.stdout.splitlines()[-1])
            print(json.dumps({"refused": refused, **seen}))
        finally:
            stop(other, head)


if __name__ == "__main__":
    main(*sys.argv[1:])
