"""Sends what no client of ours would to a running server, over kept connections, and checks every reply.

    PYTHONPATH=. python tests/fuzz_input.py --cases 200000
    PYTHONPATH=. python tests/fuzz_input.py --seconds 3600 --driver wsgi
    PYTHONPATH=. python tests/fuzz_input.py --only 7:123     # one case again: its bytes and its reply

input_cases.py makes the requests, and says of each which statuses it may get. Besides, every reply is that
request's own, a refusal is JSON with a TYPE and a few words of ours, and only a body that is too long ends
the connection. And of all: no traceback in the log, nothing left in the store, and no growth of the worker's
memory after the first third. How bytes are framed is not tried here; see fuzz_framing.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from input_cases import Case, make
from live import Server
from signed_peer import SignedPeer

CONNECTIONS = 16
REPLY_SECONDS = 10.0
SETTINGS = {
    "REQUEST_TIMEOUT": 0.02,
    "ANSWER_TIMEOUT": 0.05,
    "PAIR_MEMORY_TTL": 1,
    "TRUSTED_PROXIES": 1,
    "SIGNATURES": "optional",
    "LOG": "off",
}
"""A held request ends soon, a pair is soon forgotten, and a request's own `X-Request-Id` comes back."""

CLOSES = frozenset({400, 408, 413, 431})
"""After these a connection may be closed."""


@dataclass
class Seen:
    """What the server made of the cases."""

    ran: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    closed: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, str]] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    peak_mb: float = 0


class Client:
    """One kept connection."""

    def __init__(self, port: int, seen: Seen, peer: SignedPeer) -> None:
        self._port, self._seen, self._peer = port, seen, peer
        self._writer: asyncio.StreamWriter | None = None

    async def run(self, seeds: Iterator[str], until: float) -> None:
        for seed in seeds:
            if time.monotonic() > until or len(self._seen.wrong) > 20:
                break
            case = make(seed, self._peer)
            try:
                async with asyncio.timeout(REPLY_SECONDS):
                    fault = await self._try(seed, case)
            except TimeoutError:
                fault, self._writer = "no reply", None
            except (OSError, asyncio.IncompleteReadError) as error:
                fault, self._writer = f"no whole reply: {error!r}", None
            self._seen.ran += 1
            self._seen.kinds[case.kind] += 1
            if fault:
                self._seen.wrong.append((seed, f"{case.kind}: {fault}"))
        if self._writer is not None:
            self._writer.close()

    async def _try(self, seed: str, case: Case) -> str:
        """Returns what is wrong with the reply, or nothing."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        number = "case-" + seed.replace(":", "-")
        sent = case.written(number)
        self._writer.write(sent)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        status = int(first.split(" ")[1])
        self._seen.statuses[status] += 1
        if headers.get("connection") == "close":
            self._seen.closed[case.kind] += 1
            self._writer.close()
            self._writer = None
            if status not in CLOSES and "connection" not in dict(case.headers):
                return f"{status} closes the connection"
        elif status == 413:  # what is left of the body ends the connection, perhaps
            self._writer.close()
            self._writer = None
        return judge(case, number, status, headers, body)


def judge(case: Case, number: str, status: int, headers: dict[str, str], body: bytes) -> str:
    """What is wrong with a reply, or nothing."""
    if status not in case.allowed:
        return f"{status} {body[:200]!r}, and not one of {sorted(case.allowed)}"
    if headers.get("x-request-id", number) != number:
        return "the reply is another request's"
    if headers.get("content-encoding") == "gzip":
        return ""
    if headers.get("content-type") != "application/json":
        return f"{status} is {headers.get('content-type')}"
    try:
        said = json.loads(body)
    except ValueError:
        return f"{status} has no JSON: {body[:200]!r}"
    if not isinstance(said, dict) or not isinstance(said.get("TYPE"), str):
        return f"{status} has no TYPE: {body[:200]!r}"
    if status >= 300 and (
        not said.keys() <= {"TYPE", "DETAIL", "PARAMETER", "RETRY_AFTER", "TIME"} or len(body) > 200
    ):
        return f"{status} says too much: {body[:400]!r}"
    return ""


def memory_mb(server: Server, what: str = "VmRSS") -> float:
    status = Path(f"/proc/{server.workers[0]}/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


async def watch(server: Server, seen: Seen) -> None:
    while True:
        seen.memory_mb.append(memory_mb(server))
        await asyncio.sleep(0.5)


async def play(server: Server, seen: Seen, seed: int, cases: int, seconds: float) -> None:
    seeds = (f"{seed}:{number}" for number in range(cases))
    watcher = asyncio.create_task(watch(server, seen))
    until = time.monotonic() + seconds
    peer = SignedPeer("room")
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(Client(server.port, seen, peer).run(seeds, until))
    watcher.cancel()


def fuzz(cases: int, seed: int, seconds: float = 1e9, driver: str = "callbacks") -> Seen:
    """Run so many cases, or for so long, against a server of this driver."""
    seen, before = Seen(), Server.driver
    Server.driver = driver
    try:
        with Server(**SETTINGS) as server:
            asyncio.run(play(server, seen, seed, cases, seconds))
            with contextlib.suppress(AssertionError):
                server.until(waiting=0, offered=0)
            left = {
                name: count
                for name, count in server.statistics().items()
                if name in ("waiting", "offered", "held") and count
            }
            if left:
                seen.wrong.append(("all", f"left in the store: {left}"))
            if "Traceback" in server.log:
                seen.wrong.append(("all", server.log[server.log.index("Traceback") :][:2000]))
            seen.memory_mb.append(memory_mb(server))
            seen.peak_mb = memory_mb(server, "VmHWM")
    finally:
        Server.driver = before
    return seen


def growth_mb(seen: Seen) -> float:
    """Of the worker's memory, after the first third."""
    third = seen.memory_mb[len(seen.memory_mb) // 3 :]
    return third[-1] - third[0]


def report(seen: Seen) -> str:
    lines = [
        f"{seen.ran} cases; by kind: {dict(seen.kinds)}",
        f"statuses: {dict(sorted(seen.statuses.items()))}",
    ]
    lines += [f"closed after: {dict(seen.closed)}"]
    lines += [
        f"memory: {seen.memory_mb[0]:.1f} MB, {seen.memory_mb[-1]:.1f} at the end, "
        f"{growth_mb(seen):+.1f} after the first third, {seen.peak_mb:.1f} at most"
    ]
    lines += [f"WRONG: {seed}: {fault}" for seed, fault in seen.wrong]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--driver", choices=("callbacks", "wsgi"), default="callbacks")
    parser.add_argument("--only", help="the seed of one case, such as 7:123")
    options = parser.parse_args()
    if options.only:
        case = make(options.only, SignedPeer("room"))
        print(case.kind, case.allowed, case.written("only"), sep="\n")
        seen = Seen()
        with Server(**SETTINGS) as server:
            asyncio.run(Client(server.port, seen, SignedPeer("room")).run(iter([options.only]), 1e12))
    else:
        print(f"seed {options.seed}", flush=True)
        seen = fuzz(options.cases, options.seed, options.seconds, options.driver)
    print(report(seen) if not options.only else seen.wrong or seen.statuses)
    return min(1, len(seen.wrong))


if __name__ == "__main__":
    sys.exit(main())
