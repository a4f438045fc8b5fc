"""Clients that mean harm, and honest ones that look how much of it comes through.

    PYTHONPATH=. python tests/hostile.py                   # each body, for 5 s, by one connection
    PYTHONPATH=. python tests/hostile.py --connections 20 --driver wsgi
    PYTHONPATH=. python tests/hostile.py --slow 2000 --seconds 60 --connections 100
    PYTHONPATH=. python tests/hostile.py --forgeries 500 --seconds 60 --connections 10

How long others are kept waiting is told in CPU time of the worker, too: what it does between a request and
its reply, and in the longest turn of any of its greenlets. That is the same on a busy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import gzip
import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pysequoia

from crafted import armour
from live import Call, Server
from signed_peer import SignedPeer


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join((line, "Host: t", *headers, "", "")).encode()


CHUNKED = "Transfer-Encoding: chunked"
JSON = "Content-Type: application/json"
TINY = b"1\r\nx\r\n" * 10_000
WRAPPED = (b"1;" + b"a" * 4000 + b"\r\nx\r\n") * 50

BODIES = {
    "wanted, a byte a chunk": (head("POST / HTTP/1.1", JSON, CHUNKED), TINY),
    "wanted, with long extensions": (head("POST / HTTP/1.1", JSON, CHUNKED), WRAPPED),
    "refused, a byte a chunk": (head("POST / HTTP/1.1", "Content-Type: a/b", CHUNKED), TINY),
    "refused, with long extensions": (head("POST / HTTP/1.1", "Content-Type: a/b", CHUNKED), WRAPPED),
    "to nowhere, a byte a chunk": (head("POST /nothing HTTP/1.1", CHUNKED), TINY),
    "to nowhere, with long extensions": (head("POST /nothing HTTP/1.1", CHUNKED), WRAPPED),
    "of a GET, a byte a chunk": (head("GET /health HTTP/1.1", CHUNKED), TINY),
    "of a GET, in one": (head("GET /health HTTP/1.1", "Content-Length: 99999999999"), b"x" * 65536),
    "trailers": (head("POST /nothing HTTP/1.1", CHUNKED) + b"0\r\n", b"a: b\r\n" * 10_000),
}
"""Each with what it goes on with, for ever."""


TURNS = "tests.turns_probe:app()"


@dataclass
class Seen:
    """What became of it.

    Attributes:
        sent: bytes that a connection took before it was ended.
        lived: seconds that it took.
        waits: seconds that an honest request had to wait.
        work: CPU seconds of the worker in each of these, and until we have the time to see the reply.
        longest: CPU seconds of the longest turn of a greenlet of the worker.
        cut: honest requests without a reply.
    """

    sent: list[int] = field(default_factory=list)
    lived: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
    longest: float = 0.0
    cut: int = 0


def quantile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else float("inf")


def cpu_seconds(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def pour(port: int, body: tuple[bytes, bytes], until: float, seen: Seen) -> None:
    """Send a body that never ends, again and again, and read nothing."""
    while time.monotonic() < until:
        sent, started = 0, time.monotonic()
        with socket.create_connection(("127.0.0.1", port)) as client, contextlib.suppress(OSError):
            client.settimeout(until + 10 - started)
            client.sendall(body[0])
            while time.monotonic() < until:
                sent += client.send(body[1])
        seen.sent.append(sent)
        seen.lived.append(time.monotonic() - started)


def watch(server: Server, until: float, seen: Seen) -> None:
    """Ask for something small, on a kept connection, and look how long it takes."""
    (pid,) = server.workers
    call: Call | None = None
    while time.monotonic() < until:
        started, worked = time.monotonic(), cpu_seconds(pid)
        try:
            if call is None:
                call = Call(server.port, {"TYPE": "CONNECT"})
            else:
                call.send({"TYPE": "CONNECT"})
            assert call.reply().status == 499
        except (OSError, AssertionError):
            seen.cut, call = seen.cut + 1, None
        seen.waits.append(time.monotonic() - started)
        with contextlib.suppress(OSError):
            seen.work.append(cpu_seconds(pid) - worked)
        time.sleep(0.005)


def attack(server: Server, kind: str, seconds: float, connections: int = 1) -> Seen:
    """Pour this kind of body, while somebody honest asks. The server is one of tests/turns_probe.py."""
    server.get("/test/longest")
    seen, until = Seen(), time.monotonic() + seconds
    threads = [threading.Thread(target=watch, args=(server, until, seen))]
    for _ in range(connections):
        threads.append(threading.Thread(target=pour, args=(server.port, BODIES[kind], until, seen)))
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    seen.longest = json.loads(server.get("/test/longest")[2])["seconds"]
    return seen


@contextlib.contextmanager
def driven_by(driver: str) -> Iterator[None]:
    before, Server.driver = Server.driver, driver
    try:
        yield
    finally:
        Server.driver = before


# --- forgeries ---------------------------------------------------------------------------------------------

ADDRESSES = 10
TRIES = 3


class Wire:
    """A kept connection, for one request at a time."""

    def __init__(self, port: int, address: str, local: tuple[str, int] | None = None) -> None:
        self._port, self._address, self._local = port, address, local
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, parameters: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Returns status and reply."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, local_addr=self._local)
        reader, writer = self._streams
        body = json.dumps(parameters).encode()
        forwarded, length = f"X-Forwarded-For: {self._address}", f"Content-Length: {len(body)}"
        writer.write(head("POST / HTTP/1.1", JSON, forwarded, length) + body)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        raw = await reader.readexactly(int(fields["content-length"]))
        raw = gzip.decompress(raw) if fields.get("content-encoding") == "gzip" else raw
        return int(first.split()[1]), json.loads(raw)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


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


async def forge(
    port: int, made: list[dict[str, Any]], per_second: float, until: float, statuses: Counter[int]
) -> None:
    """Send so many of these, from ten addresses."""
    due = asyncio.Queue[int]()

    async def send(number: int) -> None:
        wire = Wire(port, f"198.51.100.{number % ADDRESSES + 1}")
        try:
            while time.monotonic() < until:
                status, _ = await wire.ask(made[await due.get() % len(made)])
                statuses[status] += 1
        finally:
            wire.close()

    senders = [asyncio.create_task(send(number)) for number in range(20 * ADDRESSES)]
    started, sent = time.monotonic(), 0
    while time.monotonic() < until:
        while sent < (time.monotonic() - started) * per_second:
            due.put_nowait(sent)
            sent += 1
        await asyncio.sleep(0.01)
    for each in senders:
        each.cancel()
    await asyncio.gather(*senders, return_exceptions=True)


async def honest(port: int, number: int, until: float, waits: list[float], lost: list[str]) -> None:
    """Two signed peers, each at an address of its own, that link again and again in a room of theirs."""
    alice, bob = (QuickPeer(f"room {number}") for _ in range(2))
    wires = [Wire(port, f"203.0.113.{2 * number + half + 1}") for half in range(2)]

    async def ask(half: int, request: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for _ in range(TRIES):
            status, told = await wires[half].ask(request())
            if status != 503:
                break
            await asyncio.sleep(told["RETRY_AFTER"])
        return told

    while time.monotonic() < until:
        started = time.monotonic()
        waiting = asyncio.create_task(ask(0, lambda: alice.request("offer")))
        await asyncio.sleep(0.2)
        told = await ask(1, lambda: bob.request("other"))
        if told["TYPE"] == "DEMOTE":
            told = await ask(1, lambda nonce=told["NONCE"]: bob.request("answer", nonce=nonce))  # type: ignore[misc]
        got = await waiting
        if sorted((told["TYPE"], got["TYPE"])) == ["ANSWER", "DELIVERED"]:
            waits.append(time.monotonic() - started - 0.2)
        else:
            lost.append(f"{got['TYPE']}, {told['TYPE']}")
    for each in wires:
        each.close()


async def under_forgeries(
    port: int, per_second: float, seconds: float, pairs: int
) -> tuple[list[float], list[str], Counter[int]]:
    """How long honest pairs took, what became of those that did not link, and how forgeries were answered."""
    peer = QuickPeer("room")
    made = [forgery(peer, number) for number in range(200)]
    until, waits, lost = time.monotonic() + seconds, list[float](), list[str]()
    statuses: Counter[int] = Counter()
    peers = [honest(port, number, until, waits, lost) for number in range(pairs)]
    await asyncio.gather(forge(port, made, per_second, until, statuses), *peers)
    return waits, lost, statuses


# --- slow ones ---------------------------------------------------------------------------------------------

SLOW = {
    "heads": b"POST / HTTP/1.1\r\nHost: t\r\nX: ",
    "bodies": head("POST / HTTP/1.1", JSON, "Content-Length: 60000"),
    "silent": b"",
}


async def drip(port: int, address: str, first: bytes, until: float, cut: Counter[str], kind: str) -> None:
    """Send a byte a second, and come again when that is cut off."""
    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        except OSError:
            await asyncio.sleep(0.5)
            continue
        try:
            writer.write(first)
            ended = asyncio.create_task(reader.read())
            while time.monotonic() < until and not ended.done():
                if first:
                    writer.write(b"a")
                await asyncio.wait([ended], timeout=1)
            cut[kind] += ended.done()
            ended.cancel()
            await asyncio.wait([ended])
            if not ended.cancelled():
                ended.exception()
        finally:
            writer.close()


async def plain(port: int, number: int, until: float, waits: list[float], lost: list[str]) -> None:
    """Two open peers, at two addresses, that link again and again in a room of theirs."""

    async def ask(half: int, **parameters: str) -> dict[str, Any]:
        told: dict[str, Any] = {}
        for _ in range(TRIES):
            wire = Wire(port, "", local=(f"127.{half + 1}.{number // 250}.{number % 250 + 1}", 0))
            try:
                _, told = await wire.ask({"TYPE": "CONNECT", "NAMESPACE": str(number), **parameters})
            except (OSError, asyncio.IncompleteReadError) as error:
                told = {"TYPE": type(error).__name__, "RETRY_AFTER": 1}
            finally:
                wire.close()
            if told["TYPE"] in ("DEMOTE", "ANSWER", "DELIVERED"):
                break
            await asyncio.sleep(told["RETRY_AFTER"])
        return told

    async def peer(half: int, name: str) -> str:
        told = await ask(half, SIGNAL="offer", FINGERPRINT=name)
        if told["TYPE"] == "DEMOTE":
            told = await ask(half, SIGNAL="answer", FINGERPRINT=name, NONCE=told["NONCE"])
        return str(told["TYPE"])

    run = 0
    while time.monotonic() < until:
        run += 1
        started = time.monotonic()
        types = await asyncio.gather(*(peer(half, f"{half}.{run}") for half in range(2)))
        if sorted(types) == ["ANSWER", "DELIVERED"]:
            waits.append(time.monotonic() - started)
        else:
            lost.append(", ".join(types))
        await asyncio.sleep(1)


async def among_slow_ones(
    port: int, connections: int, seconds: float, pairs: int
) -> tuple[list[float], list[str], Counter[str]]:
    """How long pairs took among so many of each kind, what the others got, and how many were cut off."""
    until, waits, lost, cut = time.monotonic() + seconds, list[float](), list[str](), Counter[str]()
    slow = [
        drip(port, f"127.9.{number // 250}.{number % 250 + 1}", first, until, cut, kind)
        for kind, first in SLOW.items()
        for number in range(connections)
    ]
    honest = [plain(port, number, until, waits, lost) for number in range(pairs)]
    await asyncio.gather(*slow, *honest)
    return waits, lost, cut


SIGNED = {"SIGNATURES": "required", "TRUSTED_PROXIES": 1, "PAIR_MEMORY_TTL": 0, "REQUEST_TIMEOUT": 5}


def pairs_told(waits: list[float], lost: list[str]) -> str:
    linked = f"{len(waits)} of {len(waits) + len(lost)} pairs linked"
    took = f"p50 {quantile(waits, 0.5):.3f} s, p99 {quantile(waits, 0.99):.3f} s"
    return f"{linked}, {took}, others: {Counter(lost)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--driver", choices=("callbacks", "wsgi"), default="callbacks")
    parser.add_argument("--forgeries", type=float, help="a second, from ten addresses")
    parser.add_argument("--slow", type=int, help="connections of each kind that send a byte a second")
    options = parser.parse_args()
    if options.slow is not None:
        with driven_by(options.driver), Server(LOG="off", limits=True) as server:
            told = asyncio.run(
                among_slow_ones(server.port, options.slow, options.seconds, options.connections)
            )
        print(f"{pairs_told(*told[:2])}; cut off: {dict(told[2])}")
        return 0
    if options.forgeries is not None:
        with driven_by(options.driver), Server(LOG="off", **SIGNED) as server:
            waits, lost, statuses = asyncio.run(
                under_forgeries(server.port, options.forgeries, options.seconds, options.connections)
            )
        print(
            f"{len(waits)} of {len(waits) + len(lost)} pairs linked, p50 {quantile(waits, 0.5):.2f} s,",
            end=" ",
        )
        print(
            f"p99 {quantile(waits, 0.99):.2f} s; the others: {Counter(lost)}; to forgeries: {dict(statuses)}"
        )
        return 0
    print(
        f"{'body':34} waits p50   p99    of them work p50   p99     longest turn | a connection takes, lives"
    )
    with driven_by(options.driver):
        for kind in BODIES:
            with Server(app=TURNS, LOG="off") as server:
                seen = attack(server, kind, options.seconds, options.connections)
            figures = [
                1000 * quantile(each, part) for each in (seen.waits, seen.work) for part in (0.5, 0.99)
            ]
            told = "{:8.1f} {:6.1f} {:15.1f} {:6.1f} {:10.1f} ms".format(*figures, 1000 * seen.longest)
            print(
                f"{kind:34} {told} | {max(seen.sent) / 1e6:.1f} MB {max(seen.lived):.1f} s, {seen.cut} cut",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
