"""Signatures that only an engine can tell to be forged, many a second, and signed peers that link."""

from __future__ import annotations

import base64
import os
import time
from collections import Counter, deque
from typing import Any

import gevent
import pysequoia
from gevent.pool import Pool

from crafted import armour
from honest import Fared, persist
from signed_peer import SignedPeer
from wire import Wire

# A greenlet's stack ends where Rust does not expect it: a backtrace from one kills the process.
os.environ["RUST_BACKTRACE"] = os.environ["RUST_LIB_BACKTRACE"] = "0"

ADDRESSES = 10
SETTINGS: dict[str, object] = {
    "SIGNATURES": "required",
    "TRUSTED_PROXIES": 1,
    "PAIR_MEMORY_TTL": 0,
    "REQUEST_TIMEOUT": 5,
}


class QuickPeer(SignedPeer):
    """Signs in the time of a hash."""

    def __init__(self, namespace: str) -> None:
        key = pysequoia.Tsk.generate("x <x@x.invalid>", profile=pysequoia.Profile.RFC4880)
        self._signer = key.signer()
        self.public_key = str(key.extract_certificate())
        self.namespace = namespace
        self.signed_namespace = self.sign(namespace)

    def sign(self, text: str, *, at: float | None = None) -> str:
        return bytes(pysequoia.sign(self._signer, text.encode())).decode()


def forgery(peer: QuickPeer, number: int) -> dict[str, Any]:
    """What looks signed until an engine has done its arithmetic: the signature's last bit is another."""
    given = peer.request(f"offer {number:9}")
    lines = given["SIGNED_SIGNAL"].strip().splitlines()
    raw = base64.b64decode("".join(lines[lines.index("") + 1 : -2]))
    return given | {"SIGNED_SIGNAL": armour(raw[:-1] + bytes((raw[-1] ^ 1,)))}


def forge(port: int, made: list[dict[str, Any]], per_second: float, until: float) -> Counter[int]:
    """Send so many of these, from ten addresses. Returns how they were answered."""
    statuses: Counter[int] = Counter()
    wires = [Wire(port, forwarded=f"198.51.100.{number % ADDRESSES + 1}") for number in range(20 * ADDRESSES)]
    idle = deque(wires)

    def send(number: int) -> None:
        wire = idle.popleft()
        try:
            statuses[wire.ask(**made[number % len(made)])[0]] += 1
        except OSError:
            wire.close()
        idle.append(wire)

    pool, started, sent = Pool(len(wires)), time.monotonic(), 0
    while time.monotonic() < until:
        while sent < (time.monotonic() - started) * per_second and pool.free_count():
            pool.spawn(send, sent)
            sent += 1
        gevent.sleep(0.01)
    pool.kill()
    for each in wires:
        each.close()
    return statuses


def link_signed(port: int, number: int, until: float, fared: Fared) -> None:
    """Two signed peers, each at an address of its own, that link again and again in a room of theirs."""
    alice, bob = (QuickPeer(f"room {number}") for _ in range(2))
    one, other = (Wire(port, forwarded=f"203.0.113.{2 * number + half + 1}") for half in range(2))
    with one, other:
        while time.monotonic() < until:
            started = time.monotonic()
            waiting = gevent.spawn(persist, one, lambda wire: wire.ask(**alice.request("offer")), fared)
            gevent.sleep(0.2)
            told = persist(other, lambda wire: wire.ask(**bob.request("other")), fared)
            if told["TYPE"] == "DEMOTE":
                nonce = told["NONCE"]
                told = persist(other, lambda wire: wire.ask(**bob.request("answer", nonce=nonce)), fared)  # noqa: B023
            ends = sorted((told["TYPE"], waiting.get()["TYPE"]))
            if ends == ["ANSWER", "DELIVERED"]:
                fared.waits.append(time.monotonic() - started - 0.2)
            else:
                fared.lost[", ".join(ends)] += 1


def under_forgeries(port: int, per_second: float, seconds: float, pairs: int) -> tuple[Fared, Counter[int]]:
    """How honest pairs fared, and how forgeries were answered."""
    peer = QuickPeer("room")
    made = [forgery(peer, number) for number in range(200)]
    until, fared = time.monotonic() + seconds, Fared()
    peers = [gevent.spawn(link_signed, port, number, until, fared) for number in range(pairs)]
    statuses = forge(port, made, per_second, until)
    gevent.joinall(peers)
    return fared, statuses
