"""A server that is reloaded again and again under load, and one that comes back to a crowd.

    PYTHONPATH=. python tests/restarts.py reloads                # 30 in 20 s, 200 that wait, 200 new a second
    PYTHONPATH=. python tests/restarts.py crowd --waiting 5000   # a restart, with 5,000 that wait

Clients do what ours do: they come again after a RETRY_AFTER, and if nobody listens, and add a random pause. A
request that was sent and has no whole reply counts as cut, whatever the reason.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from live import Server

BACKOFF_SECONDS = 0.5
"""The random pause is a part of this, which doubles with each failure in a row."""

RELOADED = "Handling signal: hup"

SPREAD = 500
"""So many that are turned away come again in one second, says the protocol."""


@dataclass
class Seen:
    """What the clients saw.

    Attributes:
        replies: by status.
        cut: requests without a whole reply.
        refused: connections that nobody took.
        came: when each request was sent, by the monotonic clock.
    """

    replies: Counter[int] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    came: list[float] = field(default_factory=list)


async def ask(port: int, seen: Seen, parameters: dict[str, Any], address: str = "") -> dict[str, Any] | None:
    """One request on a connection of its own. Returns None without a reply."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        seen.refused += 1
        return None
    seen.came.append(time.monotonic())
    try:
        body = json.dumps(parameters).encode()
        forwarded = f"X-Forwarded-For: {address}\r\n" if address else ""
        head = f"POST / HTTP/1.1\r\nHost: t\r\n{forwarded}Content-Type: text/plain\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        length = next(int(each[15:]) for each in lines if each.lower().startswith("content-length:"))
        told: dict[str, Any] = json.loads(await reader.readexactly(length))
        seen.replies[int(lines[0].split()[1])] += 1
        return told
    except (OSError, asyncio.IncompleteReadError) as error:
        seen.cut[type(error).__name__] += 1
        return None
    finally:
        writer.close()


async def wait_on(port: int, seen: Seen, number: int, address: str = "") -> None:
    """A peer that waits in a room of its own, and comes again."""
    offer = {"TYPE": "CONNECT", "SIGNAL": "offer", "FINGERPRINT": str(number), "NAMESPACE": str(number)}
    failures = 0
    while True:
        told = await ask(port, seen, offer, address)
        failures = 0 if told is not None and told["TYPE"] == "NO_NAMESPACE_PEER" else failures + 1
        window = BACKOFF_SECONDS * 2 ** (failures - 1) if failures else 0
        await asyncio.sleep((told or {}).get("RETRY_AFTER", 0) + random.uniform(0, window))


# --- reloads -----------------------------------------------------------------------------------------------


async def newcomers(port: int, seen: Seen, per_second: float, seconds: float) -> None:
    started, tasks = time.monotonic(), set()
    while (passed := time.monotonic() - started) < seconds:
        while len(tasks) < passed * per_second:
            tasks.add(asyncio.create_task(ask(port, seen, {"TYPE": "LEAVE", "REQUEST": "r" * 22})))
        await asyncio.sleep(0.005)
    await asyncio.gather(*tasks)


async def under_reloads(
    server: Server, reloads: int, seconds: float, waiting: int, per_second: float
) -> Seen:
    seen = Seen()
    waiters = [asyncio.create_task(wait_on(server.port, seen, number)) for number in range(waiting)]
    coming = asyncio.create_task(newcomers(server.port, seen, per_second, seconds + 1))
    for number in range(reloads):
        await asyncio.sleep(seconds / reloads)
        server.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(60):
            while server.log.count(RELOADED) <= number:  # for two that are not taken yet are one
                await asyncio.sleep(0.01)
    await coming
    await end(waiters)
    return seen


async def end(tasks: list[asyncio.Task[None]]) -> None:
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# --- a crowd that comes back -------------------------------------------------------------------------------


@dataclass
class Return:
    """How a crowd came back.

    Attributes:
        seconds: from the end of the old server until all wait again.
        away: of these, until the new server listened.
        waves: requests in each second since it did.
    """

    seconds: float
    away: float
    waves: list[int]


async def come_back(waiting: int, addresses: int, **settings: object) -> tuple[Seen, Return]:
    """End a server with so many that wait, and start it anew at its port."""
    seen = Seen()
    settings |= {"TRUSTED_PROXIES": 1, "LOG": "off"}
    old, new = Server(**settings), Server(**settings)
    new.port = old.port
    old.__enter__()
    named = [
        f"198.51.{number % addresses // 250}.{number % addresses % 250 + 1}" for number in range(waiting)
    ]
    waiters = [asyncio.create_task(wait_on(old.port, seen, *each)) for each in enumerate(named)]
    try:
        await until_waiting(old, waiting)
        seen.replies.clear()
        started = time.monotonic()
        old.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(old.process.wait)
        await asyncio.to_thread(new.__enter__)
        listens = time.monotonic()
        await until_waiting(new, waiting)
        ended = time.monotonic()
    finally:
        await end(waiters)
        for each in (old, new):
            await asyncio.to_thread(each.__exit__, None, None, None)
    waves = Counter(int(moment - listens) for moment in seen.came if listens < moment < ended)
    return seen, Return(
        ended - started, listens - started, [waves[n] for n in range(int(ended - listens) + 1)]
    )


def draw(back: Return, waiting: int, path: str) -> None:
    """The requests in each second after the server was there again, for docs/reliability.md."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 3), layout="constrained")
    axes.bar(range(len(back.waves)), back.waves, color="#4878a8")
    axes.axhline(1.5 * SPREAD, color="#a84848", linestyle="--", label="1.5 × what the server asks for")
    axes.set_xlabel("seconds since the server listens again")
    axes.set_ylabel("requests")
    axes.set_title(f"{waiting} that waited come back after a restart")
    axes.set_xticks(range(len(back.waves)))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


async def until_waiting(server: Server, number: int) -> None:
    deadline = time.monotonic() + 120
    while (await asyncio.to_thread(server.statistics))["waiting"] < number:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("reloads", "crowd"))
    parser.add_argument("--reloads", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--waiting", type=int, default=200)
    parser.add_argument("--newcomers", type=float, default=200)
    parser.add_argument("--plot", help="a file for a picture")
    parser.add_argument("--addresses", type=int, default=500)
    parser.add_argument("--driver", choices=("callbacks", "wsgi"), default="callbacks")
    options = parser.parse_args()
    Server.driver = options.driver
    if options.what == "reloads":
        with Server(LOG="off") as server:
            seen = asyncio.run(
                under_reloads(server, options.reloads, options.seconds, options.waiting, options.newcomers)
            )
            done, stacks = server.log.count(RELOADED), server.log.count("Traceback")
        print(f"{done} reloads; replies: {dict(seen.replies)}; cut: {dict(seen.cut)};", end=" ")
        print(f"refused: {seen.refused}; stacks: {stacks}")
        return min(1, seen.cut.total() + seen.refused + stacks)
    more: dict[str, object] = {"HELD_PER_ADDRESS": ""} if options.addresses == 1 else {}
    seen, back = asyncio.run(come_back(options.waiting, options.addresses, **more))
    print(f"all wait again after {back.seconds:.1f} s, of which {back.away:.1f} nobody listened;", end=" ")
    print(f"requests in each second since: {back.waves}; replies {dict(seen.replies)}, cut {dict(seen.cut)}")
    if options.plot:
        draw(back, options.waiting, options.plot)
    return min(1, seen.cut.total())


if __name__ == "__main__":
    sys.exit(main())
