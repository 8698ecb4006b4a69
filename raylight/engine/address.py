"""Which Ray cluster a Trainer would join, and whether it would be let in; asked without Ray, which could wait or abort.

Runs on the driver.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raylight.utilities.findings import Finding, ok, problem, warning

CONNECT_SECONDS = 5.0
AUTH_MODES = ("disabled", "token", "k8s")
LOGIN = """\
The cluster's token is what `ray get-auth-token` prints on its head. Here, type:
    export RAY_AUTH_MODE=token
    export RAY_AUTH_TOKEN=...      (or RAY_AUTH_TOKEN_PATH=FILE)"""
"""What to do where a cluster does not let us in."""


@dataclass(frozen=True)
class Address:
    """A cluster's, as ``ray.init`` would find it."""

    text: str | None
    """Such as "10.0.0.1:6379"; None: there is none, and one is started."""
    source: str
    """Where it stands: "--address", "RAY_ADDRESS", "ray.init" or a file's path; empty where ``text`` is None."""

    @property
    def was_found(self) -> bool:
        """Nobody named it: ``ray start`` on this machine has left it."""
        return self.text is not None and self.source not in ("--address", "RAY_ADDRESS")


def address_file() -> Path:
    """Where ``ray start`` writes the address of the cluster that it has started."""
    folder = os.environ.get("RAY_TMPDIR")
    if folder is None and sys.platform.startswith("linux"):
        folder = os.environ.get("TMPDIR")
    return Path(folder or "/tmp", "ray", "ray_current_cluster")


def find_address(asked: str | None = None) -> Address:
    """The address that ``asked``, RAY_ADDRESS or the last ``ray start`` on this machine gives, in this order."""
    text = asked or os.environ.get("RAY_ADDRESS") or None
    source = "--address" if asked else "RAY_ADDRESS"
    if text == "local":
        return Address(None, "")
    if text in (None, "auto"):
        file = address_file()
        found = file.read_text().strip() if file.is_file() else ""
        if found:
            return Address(found, str(file))
    return Address(text, source) if text is not None else Address(None, "")


def is_reached(address: str, seconds: float) -> bool:
    """Whether something listens at HOST:PORT."""
    try:
        _knock(address, seconds)
    except (OSError, OverflowError):
        return False
    return True


def _knock(address: str, seconds: float) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), seconds):
        pass


def examine_address(address: Address) -> Finding:
    """Whether the head of the cluster can be reached. The finding is a problem where there is no use in asking Ray."""
    subject = "Ray address"
    text = address.text
    if text is None:
        cores = os.cpu_count()
        return ok(
            subject,
            "No Ray cluster is running here and RAY_ADDRESS is not set: a Trainer that needs one starts one on this "
            f"machine, with its {cores} CPUs, and stops it again.",
        )
    if text.startswith("ray://"):
        head = text.removeprefix("ray://").rpartition(":")[0] or "HEAD"
        return problem(
            subject,
            f"{text} (from {address.source}) is an address of Ray Client, through which nothing can be trained.",
            f"Run the script on the cluster: `raylight submit script.py --address http://{head}:8265`.",
        )
    if text == "auto":
        return ok(subject, f"{address.source} is 'auto': any cluster that has a node on this machine.")
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return problem(
            subject,
            f"{text!r} (from {address.source}) is not an address of the form HOST:PORT.",
            "Give the address of the cluster's head, such as 10.0.0.1:6379, as `ray start` prints it.",
        )
    try:
        _knock(text, CONNECT_SECONDS)
    except (OSError, OverflowError) as error:
        return _unreachable(address, error)
    return ok(subject, f"{text} (from {address.source}) answers.")


def _unreachable(address: Address, error: Exception) -> Finding:
    if address.was_found:
        return problem(
            "Ray address",
            f"{address.source} names {address.text}, where nothing answers ({error}): it is left over from a cluster "
            "that was killed. ray.init, and so each Trainer that needs Ray, would wait for it for minutes.",
            f"Type `ray stop`, or `rm {address.source}`.",
        )
    return problem(
        "Ray address",
        f"Nothing answers at {address.text} (from {address.source}): {error}.",
        "Start the head there with `ray start --head`, open its port in the firewall, or correct the address; without "
        "RAY_ADDRESS a Trainer starts a cluster on this machine.",
    )


# ------------------------------------------------------------------------------------------------ authentication


def examine_authentication(address: Address) -> tuple[Finding, Mapping[str, str]]:
    """Whether there is a token where one is needed, and the variables that ``ray.init`` would set for itself.

    A problem here would end the process that asks Ray.
    """
    subject, mode = "authentication", os.environ.get("RAY_AUTH_MODE")
    token, source, fault = _token()
    enables = {"RAY_AUTH_MODE": "token"}
    if mode is None and address.text is None:
        return ok(subject, "RAY_AUTH_MODE is not set: a cluster that Ray starts for a Trainer makes its own token."), {}
    if mode is None and not (address.was_found and token):
        return ok(subject, "RAY_AUTH_MODE is not set: no token is sent."), {}
    if mode is not None and mode.lower() not in AUTH_MODES:
        return warning(
            subject,
            f"RAY_AUTH_MODE is {mode!r}, which Ray does not know and takes for 'disabled'.",
            f"Set it to one of {', '.join(AUTH_MODES)}.",
        ), {}
    if mode is not None and mode.lower() != "token":
        return ok(subject, f"RAY_AUTH_MODE is {mode}."), {}
    if fault:
        return problem(subject, fault, LOGIN), {}
    if not token and address.text is None:
        return ok(subject, "RAY_AUTH_MODE is token: a cluster that Ray starts for a Trainer makes its own."), {}
    if not token:
        return problem(
            subject,
            "RAY_AUTH_MODE is token, but there is no token: not in RAY_AUTH_TOKEN, nor in the file of "
            "RAY_AUTH_TOKEN_PATH, nor in ~/.ray/auth_token.",
            LOGIN,
        ), {}
    return ok(subject, f"by token, from {source}."), {} if mode else enables


def _token() -> tuple[str, str, str]:
    """The token as Ray would find it, where it is from, and what is wrong with it."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        token, source = os.environ["RAY_AUTH_TOKEN"], "RAY_AUTH_TOKEN"
    elif path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        source = f"{path} (RAY_AUTH_TOKEN_PATH)"
        try:
            token = Path(path).read_text(errors="replace")
        except OSError as error:
            return "", source, f"The token's file {source} cannot be read: {error.strerror}."
        if not token.strip():
            return "", source, f"The token's file {source} is empty."
    else:
        file = Path.home() / ".ray" / "auth_token"
        source = str(file)
        token = file.read_text(errors="replace") if file.is_file() else ""
    token = token.strip()
    if any(not "!" <= character <= "~" for character in token):
        return token, source, f"The token from {source} has a blank, a line break or a letter that no token has."
    if token[:1] + token[-1:] in ('""', "''"):
        return token, source, f"The token from {source} begins and ends with a quotation mark."
    return token, source, ""
