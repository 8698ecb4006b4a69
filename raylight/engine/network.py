"""Which network device the workers reach each other through. Runs in every worker."""

from __future__ import annotations

import os

VARIABLE = "GLOO_SOCKET_IFNAME"


def choose_device(address: str) -> None:
    """Let gloo use the device that has the address by which Ray knows this node, unless a variable names another.

    By itself gloo takes the one that the host's name stands for: on many systems that is 127.0.1.1, where no other
    host can reach it. NCCL looks for one that is no loopback.
    """
    if VARIABLE not in os.environ and (device := device_of(address)) is not None:
        os.environ[VARIABLE] = device


def device_of(address: str) -> str | None:
    """Name of the network device with this IP address; None where there is none, as behind a container's gateway."""
    import psutil  # comes with Ray, and can be imported when Ray was

    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            return str(name)
    return None
