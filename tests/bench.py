"""How many pairs a second, and how much memory a waiting peer costs.

    python tests/bench.py            # the long run, for docs/performance.md
    python tests/bench.py --quick    # the same for a few seconds; the suite runs it

One core serves and one asks. Every check and limit is on, the limits too high to hit. Everything is measured
beside N, the requests a second of a Flask view that does nothing, on the same gunicorn and settings, in
turns within one run: machines are noisy, ratios less so. Traffic goes to 127.0.0.1 only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from live import Server

HIGH = {
    "REQUEST_LIMIT": "1000000 per second",
    "PAIR_LIMIT": "1000000 per second",
    "ADDRESS_LIMIT": "10000000 per second",
    "HELD_PER_ADDRESS": "1000000",
}
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


async def nothing(port: int, until: float, _number: int, _waits: list[float]) -> int:
    done = 0
    body = form("a", SIGNAL, 0)
    async with Client(port) as client:
        while time.monotonic() < until:
            await client.ask(body)
            done += 1
    return done


Player = Callable[[int, float, int, list[float]], Awaitable[int]]


@dataclass
class Measured:
    rate: float  # a second
    cpu_us: float  # of the worker, each
    p50_ms: float = 0.0
    p99_ms: float = 0.0


def measure(server: Server, player: Player, seconds: float, count: int) -> Measured:
    async def run() -> tuple[int, list[float]]:
        waits: list[float] = []
        until = time.monotonic() + seconds
        done = await asyncio.gather(*(player(server.port, until, number, waits) for number in range(count)))
        return sum(done), waits

    worker = worker_of(server)
    cpu, started = cpu_seconds(worker), time.monotonic()
    done, waits = asyncio.run(run())
    elapsed, used = time.monotonic() - started, cpu_seconds(worker) - cpu
    waits.sort()
    p50, p99 = (waits[int(len(waits) * q)] * 1000 if waits else 0.0 for q in (0.5, 0.99))
    return Measured(done / elapsed, used / max(1, done) * 1e6, p50, p99)


def worker_of(server: Server) -> int:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return int(children[0])


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ValueError("no VmRSS")


def memory(count: int) -> float:
    """KiB of resident memory that each of so many waiting peers costs."""

    async def wait(server: Server) -> float:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(server.port)) for _ in range(50)]
            for number in range(50):  # what the first requests need is not theirs
                task = asyncio.ensure_future(clients[number].ask(form("one", SIGNAL, 0)))
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.to_thread(server.until, held=50)
            before = resident_kib(worker_of(server))
            # A connection that is open and silent costs half of it, so they are opened only now.
            waiting = [await stack.enter_async_context(Client(server.port)) for _ in range(count)]
            tasks = [asyncio.ensure_future(each.ask(form("one", SIGNAL, 0))) for each in waiting]
            await asyncio.to_thread(server.until, held=count + 50)
            after = resident_kib(worker_of(server))
            for task in tasks:
                task.cancel()
            return (after - before) / count

    with Server(limits=True, **HIGH, REQUEST_TIMEOUT=120) as server:
        pin(server)
        return asyncio.run(wait(server))


@contextlib.contextmanager
def no_op() -> Iterator[Server]:
    """A Flask view that does nothing, under this project's gunicorn.conf.py."""
    with Server(app="tests.nothing:app()") as server:
        pin(server)
        yield server


def pin(server: Server) -> None:
    """The server on the first core, we on the second."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(worker_of(server), {cores[0]})
        os.sched_setaffinity(0, {cores[-1]})


def main(*, quick: bool) -> dict[str, float]:
    rounds, seconds = (1, 1.5) if quick else (5, 6.0)
    pairs, views = [], []
    everywhere = os.sched_getaffinity(0)
    with Server(limits=True, **HIGH) as server, no_op() as idle:
        pin(server)
        for _ in range(rounds):
            views.append(measure(idle, nothing, seconds, CLIENTS))
            pairs.append(measure(server, pair, seconds, CLIENTS))
        alone = measure(server, pair, seconds, 1)
    os.sched_setaffinity(0, everywhere)
    n = statistics.median(each.rate for each in views)
    rate = statistics.median(each.rate for each in pairs)
    result = {
        "N": n,
        "pairs_per_second": rate,
        "ratio_to_a_third_of_N": rate / (n / 3),
        "cpu_us_no_op": statistics.median(each.cpu_us for each in views),
        "cpu_us_pair": statistics.median(each.cpu_us for each in pairs),
        "pair_p50_ms": statistics.median(each.p50_ms for each in pairs),
        "pair_p99_ms": statistics.median(each.p99_ms for each in pairs),
        "alone_p50_ms": alone.p50_ms,
        "kib_per_waiting_peer": memory(500 if quick else 2000),
    }
    os.sched_setaffinity(0, everywhere)
    return result


def machine() -> str:
    model = subprocess.run(["uname", "-srm"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{model}, {os.cpu_count()} cores, Python {sys.version.split()[0]}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds")
    print(machine())
    for name, value in main(quick=parser.parse_args().quick).items():
        print(f"{name:>24} {value:10.2f}")
