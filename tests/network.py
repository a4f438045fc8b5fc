"""A network namespace of a test's own: loopback, and an interface that leads nowhere.

Most WebRTC stacks offer no loopback address, so that without an interface they have nothing to offer. The
block that enters the namespace does so with its thread: what it starts there, process or socket, stays there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

CLONE_NEWNET = 0x40000000
ADDRESS = "10.99.0.2"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=10)


@contextlib.contextmanager
def network() -> Iterator[None]:
    """Be in a namespace of our own, with the interface `nic0` and one IPv4 address."""
    libc = ctypes.CDLL(None, use_errno=True)

    def check(code: int) -> None:
        if code:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    with open("/proc/thread-self/ns/net") as before:
        check(libc.unshare(CLONE_NEWNET))
        try:
            ip("link", "set", "lo", "up")
            ip("link", "add", "nic0", "type", "veth", "peer", "name", "nic1")
            ip("link", "set", "nic0", "addrgenmode", "none")  # no IPv6: one path, which a test can take away
            ip("link", "set", "nic1", "addrgenmode", "none")
            ip("link", "set", "nic0", "up")
            ip("link", "set", "nic1", "up")
            add(ADDRESS)
            # Firefox offers the address of the default route only, and looks for names by multicast.
            ip("route", "add", "default", "dev", "nic0")
            for server in nameservers():
                ip("route", "add", "unreachable", server)  # at once, and not once somebody tires of waiting
            yield
        finally:
            check(libc.setns(before.fileno(), CLONE_NEWNET))


def nameservers() -> set[str]:
    """Those that this machine asks, without one of its own."""
    lines = [line.split() for line in Path("/etc/resolv.conf").read_text().splitlines()]
    found = {words[1] for words in lines if words[:1] == ["nameserver"]}
    return {each for each in found if ":" not in each and not each.startswith("127.")}


def add(address: str) -> None:
    ip("address", "add", f"{address}/24", "dev", "nic0")


def delete(address: str) -> None:
    ip("address", "delete", f"{address}/24", "dev", "nic0")
