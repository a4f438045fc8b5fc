"""A server and two homes in network namespaces. A home has two network cards and a firewall, and its path can
be taken away.

    with TwoPaths() as world:
        with world.inside("server"), Server() as server: ...
        world.cut("a")

It needs root, iproute2 and nftables, and has no way to the outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

ADDRESS = "10.77.0.1"
"""The server's."""

CLONE_NEWNET = 0x40000000

FIREWALL = """
table inet firewall {
    chain input {
        type filter hook input priority filter; policy accept;
        ct state new meta l4proto udp iifname "eth*" drop
    }
}"""
"""With it, nobody hears a peer that comes from a new address."""

_numbers = itertools.count()


class TwoPaths:
    """The namespaces, from `__enter__` to `__exit__`: `server`, and the homes `a` and `b`, on one network."""

    def __init__(self) -> None:
        self.prefix = f"paths{os.getpid()}-{next(_numbers)}-"

    def __enter__(self) -> TwoPaths:
        remove_abandoned()
        for name in ("server", "a", "b"):
            shell(f"ip netns add {self.prefix}{name}")
            self.run(name, "ip link set lo up")
        self.run(
            "server", f"ip link add net type bridge; ip addr add {ADDRESS}/24 dev net; ip link set net up"
        )
        for home in "ab":
            for card in (0, 1):
                there = f"{home}{card}"
                inside = f"{self.prefix}{home}"
                self.run("server", f"ip link add {there} type veth peer name eth{card} netns {inside}")
                self.run("server", f"ip link set {there} master net up")
            self.run(home, f"nft -f - <<'END'\n{FIREWALL}\nEND")
            self.up(home, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in ("server", "a", "b"):
            subprocess.run(["ip", "netns", "del", self.prefix + name], check=False)

    def run(self, name: str, script: str) -> None:
        """Run a script of the shell there."""
        shell(script, "ip", "netns", "exec", self.prefix + name)

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Let this thread, and the processes that it starts, be there."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{self.prefix}{name}") as there:
            if libc.setns(there.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield
            finally:
                libc.setns(before.fileno(), CLONE_NEWNET)

    # --- what happens to a home ---

    def up(self, home: str, card: int) -> None:
        address = f"10.77.0.{10 + 'ab'.index(home) * 10 + card}"
        self.run(home, f"ip link set eth{card} up; ip addr add {address}/24 dev eth{card}")
        self.run(home, f"ip route add default via {ADDRESS}")

    def down(self, home: str, card: int) -> None:
        """A cable is pulled: the home's system knows it."""
        self.run(home, f"ip link set eth{card} down; ip addr flush dev eth{card}")

    def cut(self, home: str, card: int) -> None:
        """Something on the way is gone: nobody is told."""
        self.run("server", f"ip link set {home}{card} nomaster")

    def mend(self, home: str, card: int) -> None:
        self.run("server", f"ip link set {home}{card} master net")


def shell(script: str, *before: str) -> None:
    done = subprocess.run([*before, "sh", "-ec", script], text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{script}: {done.stderr}")


def remove_abandoned() -> None:
    """Remove what was left behind by a process that was killed."""
    for path in Path("/run/netns").glob("paths*"):
        found = re.fullmatch(r"paths(\d+)-.*", path.name)
        if found and not Path("/proc", found[1]).exists():
            subprocess.run(["ip", "netns", "del", path.name], check=False)
