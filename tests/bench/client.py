"""A client in Python, for what load.c cannot ask: signed requests, and waits that are timed one by one."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from .servers import HIGH as HIGH
from .servers import cores, cpu_seconds

SIGNAL = "v=0 candidate " * 107  # 1.5 KB, an offer with a few candidates
CLIENTS = 64
HEADERS = (
    "POST / HTTP/1.1\r\nHost: localhost\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    "Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nOrigin: http://localhost\r\n"
    "Content-Type: application/x-www-form-urlencoded;charset=UTF-8\r\nContent-Length: "
)

LENGTH = re.compile(rb"content-length: *(\d+)\r", re.I)


class Client(asyncio.Protocol):
    """A kept connection; as little of a browser as there can be, for it shares the machine."""

    _told: asyncio.Future[bytes]
    _transport: asyncio.Transport

    def __init__(self, port: int) -> None:
        self._port = port
        self._data = b""

    async def __aenter__(self) -> Client:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.abort()

    async def ask(self, body: str) -> bytes:
        """The body of the reply to this one."""
        self._told = asyncio.get_running_loop().create_future()
        self._transport.write(f"{HEADERS}{len(body)}\r\n\r\n{body}".encode())
        return await self._told

    def data_received(self, data: bytes) -> None:
        data = self._data + data
        begin = data.find(b"\r\n\r\n") + 4
        size = LENGTH.search(data, 0, begin)
        if begin > 3 and size is not None and len(data) >= begin + int(size[1]):
            self._data = b""
            self._told.set_result(data[begin : begin + int(size[1])])
        else:
            self._data = data

    def connection_lost(self, error: Exception | None) -> None:
        if hasattr(self, "_told") and not self._told.done():
            self._told.set_exception(error or ConnectionError("the server closed the connection"))


def form(name: str, signal: str, room: int, nonce: str = "") -> str:
    extra = f"&NONCE={nonce}" if nonce else ""
    return f"TYPE=CONNECT&FINGERPRINT={name}&NAMESPACE=room{room}&SIGNAL={signal.replace(' ', '+')}{extra}"


async def pair(port: int, until: float, number: int, waits: list[float]) -> int:
    """Two peers that meet again and again in a room of their own, each time as two new ones."""
    done, run = 0, f"{until:.3f}"  # pairs that met in an earlier run would not meet again
    async with Client(port) as one, Client(port) as other:
        while time.monotonic() < until:
            started = time.perf_counter()
            told = await asyncio.gather(
                play(one, f"a{run}.{done}", number), play(other, f"b{run}.{done}", number)
            )
            assert sorted(told) == ["ANSWER", "DELIVERED"], told
            waits.append(time.perf_counter() - started)
            done += 1
    return done


async def play(client: Client, name: str, room: int) -> str:
    """From the offer to the end, as whichever of the two the server makes of us."""
    told = json.loads(await client.ask(form(name, SIGNAL, room)))
    if told["TYPE"] == "DEMOTE":
        told = json.loads(await client.ask(form(name, SIGNAL, room, told["NONCE"])))
    return str(told["TYPE"])


Player = Callable[[int, float, int, list[float]], Awaitable[int]]


@dataclass
class Measured:
    rate: float  # a second
    cpu_us: float  # of the worker, each
    p50_ms: float = 0.0
    p99_ms: float = 0.0


def measure(port: int, pids: Sequence[int], player: Player, seconds: float, count: int) -> Measured:
    """Let so many pairs meet over and over, from the last core. The CPU time is that of these processes."""

    async def run() -> tuple[int, list[float]]:
        waits: list[float] = []
        until = time.monotonic() + seconds
        done = await asyncio.gather(*(player(port, until, number, waits) for number in range(count)))
        return sum(done), waits

    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores()[1]})
    try:
        cpu, started = sum(map(cpu_seconds, pids)), time.monotonic()
        done, waits = asyncio.run(run())
    finally:
        os.sched_setaffinity(0, allowed)
    elapsed, used = time.monotonic() - started, sum(map(cpu_seconds, pids)) - cpu
    waits.sort()
    p50, p99 = (waits[int(len(waits) * q)] * 1000 if waits else 0.0 for q in (0.5, 0.99))
    return Measured(done / elapsed, used / max(1, done) * 1e6, p50, p99)


def machine() -> str:
    model = subprocess.run(["uname", "-srm"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{model}, {os.cpu_count()} cores, Python {sys.version.split()[0]}"
