"""A client in Python, for what load.c cannot ask: signed requests, and waits that are timed one by one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from .servers import HIGH as HIGH
from .servers import cpu_seconds

SIGNAL = "v=0 candidate " * 107  # 1.5 KB, an offer with a few candidates
CLIENTS = 64
HEADERS = (
    "POST / HTTP/1.1\r\nHost: localhost\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
    "Accept: */*\r\nAccept-Language: en-US,en;q=0.5\r\nOrigin: http://localhost\r\n"
    "Content-Type: application/x-www-form-urlencoded;charset=UTF-8\r\nContent-Length: "
)


class Client:
    """A kept connection; as little of a browser as there can be, for it shares the machine."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def ask(self, body: str) -> bytes:
        self._writer.write(f"{HEADERS}{len(body)}\r\n\r\n{body}".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        start = head.lower().index(b"content-length:") + 15
        return await self._reader.readexactly(int(head[start : head.index(b"\r\n", start)]))


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
    """Let so many pairs meet over and over. The CPU time is that of these processes."""

    async def run() -> tuple[int, list[float]]:
        waits: list[float] = []
        until = time.monotonic() + seconds
        done = await asyncio.gather(*(player(port, until, number, waits) for number in range(count)))
        return sum(done), waits

    cpu, started = sum(map(cpu_seconds, pids)), time.monotonic()
    done, waits = asyncio.run(run())
    elapsed, used = time.monotonic() - started, sum(map(cpu_seconds, pids)) - cpu
    waits.sort()
    p50, p99 = (waits[int(len(waits) * q)] * 1000 if waits else 0.0 for q in (0.5, 0.99))
    return Measured(done / elapsed, used / max(1, done) * 1e6, p50, p99)


def machine() -> str:
    model = subprocess.run(["uname", "-srm"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{model}, {os.cpu_count()} cores, Python {sys.version.split()[0]}"
