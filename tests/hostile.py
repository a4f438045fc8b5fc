"""Clients that mean harm, and honest ones that look how much of it comes through.

    PYTHONPATH=. python tests/hostile.py                   # each body, for 5 s, by one connection
    PYTHONPATH=. python tests/hostile.py --connections 20 --driver wsgi

How long others are kept waiting is told in CPU time of the worker, too: what it does between a request and
its reply. That is the same on a busy machine.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from live import Call, Server


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


@dataclass
class Seen:
    """What became of it.

    Attributes:
        sent: bytes that a connection took before it was ended.
        lived: seconds that it took.
        waits: seconds that an honest request had to wait.
        work: CPU seconds of the worker in each of these.
        cut: honest requests without a reply.
    """

    sent: list[int] = field(default_factory=list)
    lived: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    work: list[float] = field(default_factory=list)
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
    """Pour this kind of body, while somebody honest asks."""
    seen, until = Seen(), time.monotonic() + seconds
    threads = [threading.Thread(target=watch, args=(server, until, seen))]
    for _ in range(connections):
        threads.append(threading.Thread(target=pour, args=(server.port, BODIES[kind], until, seen)))
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return seen


@contextlib.contextmanager
def driven_by(driver: str) -> Iterator[None]:
    before, Server.driver = Server.driver, driver
    try:
        yield
    finally:
        Server.driver = before


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--driver", choices=("callbacks", "wsgi"), default="callbacks")
    options = parser.parse_args()
    print(f"{'body':34} waits p50   p99    of them work p50   p99  | a connection takes, lives")
    with driven_by(options.driver):
        for kind in BODIES:
            with Server(LOG="off") as server:
                seen = attack(server, kind, options.seconds, options.connections)
            figures = [
                1000 * quantile(each, part) for each in (seen.waits, seen.work) for part in (0.5, 0.99)
            ]
            told = "{:8.1f} {:6.1f} {:15.1f} {:6.1f} ms".format(*figures)
            print(
                f"{kind:34} {told} | {max(seen.sent) / 1e6:.1f} MB {max(seen.lived):.1f} s, {seen.cut} cut",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
