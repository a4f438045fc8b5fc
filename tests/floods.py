"""Clients that mean harm, in a process of their own, so that honest ones need not wait for them.

    PYTHONPATH=. python tests/floods.py WHAT PORT COUNT SECONDS

Prints how the server took it, as JSON.
"""

from __future__ import annotations

import gzip
import json
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import gevent
from gevent.pool import Group

from wire import Wire, head, opened

JSON = "Content-Type: application/json"
VICTIMS = "victims"
"""The room in which nonces are guessed."""

SLOW = {
    "heads": b"POST / HTTP/1.1\r\nHost: t\r\nX: ",
    "bodies": head("POST / HTTP/1.1", JSON, "Content-Length: 60000"),
    "silent": b"",
}


class Flood:
    """Those who do one thing.

    Attributes:
        count: of them.
        took: what became of their requests and connections.
    """

    def __init__(self, port: int, count: int, seconds: float) -> None:
        self._port, self._until = port, time.monotonic() + seconds
        self.count = count
        self.took: Counter[str] = Counter()
        self.group = Group()

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self._until

    def address(self, number: int) -> str:
        return f"127.9.{number // 250}.{number % 250 + 1}"

    def asks(self, address: str, ask: Callable[[Wire], tuple[int, dict[str, Any]]], *, patient: bool) -> None:
        """Ask again and again on a kept connection, and have another one if it is cut.

        Args:
            patient: come again no sooner than one is told to.
        """
        while self.goes_on:
            with Wire(self._port, address) as wire, suppress(OSError):
                while self.goes_on:
                    self.took["asked"] += 1
                    _, told = ask(wire)
                    self.took[told["TYPE"]] += 1
                    if patient:
                        gevent.sleep(told.get("RETRY_AFTER", 0))
                    if told["TYPE"] == "RATE_LIMIT":
                        break
            gevent.sleep(0.02)

    # --- what they do --------------------------------------------------------------------------------------

    def slow(self) -> None:
        """So many heads and bodies that get a byte a second, and so many connections that get none."""
        for kind, first in SLOW.items():
            for number in range(self.count):
                self.group.spawn(self._drip, kind, first, self.address(number))

    def _drip(self, kind: str, first: bytes, address: str) -> None:
        gevent.sleep(random.uniform(0, 1))
        while self.goes_on:
            with suppress(OSError), closing(opened(self._port, address)) as client:
                client.sendall(first)
                client.settimeout(1)
                while self.goes_on:
                    try:
                        if not client.recv(4096):
                            break
                    except TimeoutError:
                        client.sendall(b"a" if first else b"")
            self.took[kind] += self.goes_on
            gevent.sleep(0.1)

    def held(self) -> None:
        """So many from one address that wait, each in a room of its own."""
        for _ in range(self.count):
            self.group.spawn(self.asks, "127.9.9.9", self._hold, patient=True)

    def _hold(self, wire: Wire) -> tuple[int, dict[str, Any]]:
        name = secrets.token_urlsafe(16)
        return wire.ask(TYPE="CONNECT", NAMESPACE=name, FINGERPRINT=name, SIGNAL="offer " * 200)

    def unread(self) -> None:
        """So many that read nothing: of a file asked for on and on, and of an offer of 60 KB."""
        for number in range(self.count):
            self.group.spawn(self._ignore_file, self.address(number))
            self.group.spawn(self._ignore_offer, self.address(number))

    def _ignore_file(self, address: str) -> None:
        asks = head("GET /spacerift.js HTTP/1.1") * 50
        while self.goes_on:
            self.took["asked"] += 1
            with suppress(OSError), closing(opened(self._port, address, received=4096)) as client:
                while self.goes_on:
                    client.sendall(asks)
                    gevent.sleep(0.1)
            self.took["file: ended"] += self.goes_on
            gevent.sleep(0.5)

    def _ignore_offer(self, address: str) -> None:
        while self.goes_on:
            self.took["asked"] += 1
            room = secrets.token_urlsafe(16)
            with suppress(OSError), Wire(self._port, address) as one:
                one.send(TYPE="CONNECT", NAMESPACE=room, FINGERPRINT="1", SIGNAL="x" * 60_000)
                gevent.sleep(0.2)
                with Wire(self._port, address, received=2048) as other:
                    other.send(TYPE="CONNECT", NAMESPACE=room, FINGERPRINT="2", SIGNAL="x")
                    self.took[f"offer: {one.reply()[1]['TYPE']}"] += 1
            gevent.sleep(0.5)

    def invented(self) -> None:
        """Fingerprints and forwarded addresses, a new one each time, from three addresses."""

        def ask(wire: Wire) -> tuple[int, dict[str, Any]]:
            number = random.getrandbits(32)
            wire.forwarded = ".".join(str(number >> bits & 255) for bits in (24, 16, 8, 0))
            nonce = secrets.token_urlsafe(16)  # is no good, and so nobody waits
            return wire.ask(TYPE="CONNECT", FINGERPRINT=nonce, NAMESPACE=nonce, NONCE=nonce, SIGNAL="answer")

        for number in range(self.count):
            self.group.spawn(self.asks, self.address(number % 3), ask, patient=False)

    def guesses(self) -> None:
        """Nonces of the victims' room, and names of requests."""

        def ask(wire: Wire) -> tuple[int, dict[str, Any]]:
            guess = secrets.token_urlsafe(16)
            if random.getrandbits(1):
                return wire.ask(TYPE="LEAVE", REQUEST=guess)
            return wire.ask(
                TYPE="CONNECT", NAMESPACE=VICTIMS, FINGERPRINT=guess, NONCE=guess, SIGNAL="a guess"
            )

        for number in range(self.count):
            self.group.spawn(self.asks, self.address(number), ask, patient=False)

    def leaves(self) -> None:
        """`LEAVE`s that come before their request, or so it seems."""

        def ask(wire: Wire) -> tuple[int, dict[str, Any]]:
            return wire.ask(TYPE="LEAVE", REQUEST=secrets.token_urlsafe(48), FINGERPRINT="f" * 256)

        for number in range(self.count):
            self.group.spawn(self.asks, self.address(number), ask, patient=False)

    def bombs(self) -> None:
        """Bodies that are more work than others of their length."""
        for number in range(self.count):
            self.group.spawn(self._throw, self.address(number), number)

    def _throw(self, address: str, number: int) -> None:
        def ask(wire: Wire) -> tuple[int, dict[str, Any]]:
            nonlocal number
            number += 1
            name, (headers, body) = list(BOMBS.items())[number % len(BOMBS)]
            wire.put(head("POST / HTTP/1.1", *headers, f"Content-Length: {len(body)}") + body)
            status, told = wire.reply()
            return status, told | {"TYPE": f"{name}: {told['TYPE']}" if status != 297 else "RATE_LIMIT"}

        self.asks(address, ask, patient=False)


def _bombs() -> dict[str, tuple[tuple[str, ...], bytes]]:
    """Each with its headers."""
    packed, form = "Content-Encoding: gzip", "Content-Type: application/x-www-form-urlencoded"
    empty = gzip.compress(b"", mtime=0)
    return {
        "64 MB of gzip": ((JSON, packed), gzip.compress(b" " * (64 << 20), 9, mtime=0)[:65000]),
        "3,000 gzips": ((JSON, packed), empty * 3000),
        "nested": ((JSON,), b'{"a":[' + b",".join([b"[" * 14 + b"]" * 14] * 2200) + b"]}"),
        "numbers": ((JSON,), b'{"a":[' + b",".join([b"9" * 4000] * 15) + b"]}"),
        "names": ((JSON,), b"{" + b",".join(b'"%d":0' % number for number in range(6000)) + b"}"),
        "fields": ((form,), b"&".join([b"a=1"] * 16000)),
        "percents": ((form,), b"%41" * 21000),
    }


BOMBS = _bombs()
KINDS = ("slow", "held", "unread", "invented", "guesses", "leaves", "bombs")


def main() -> int:
    what, (port, count, seconds) = sys.argv[1], map(int, sys.argv[2:5])
    assert what in KINDS
    flood = Flood(port, count, seconds)
    begin: Callable[[], None] = getattr(flood, what)
    begin()
    gevent.sleep(seconds)
    flood.group.kill(timeout=5)
    print(json.dumps(flood.took))
    return 0


if __name__ == "__main__":
    sys.exit(main())
