"""Clients that mean harm, and honest ones that look how much of it comes through.

    PYTHONPATH=. python tests/hostile.py bodies             # each, for 5 s, by one connection
    PYTHONPATH=. python tests/hostile.py bodies --count 20 --driver wsgi
    PYTHONPATH=. python tests/hostile.py forgeries --count 500 --seconds 60 --pairs 10
    PYTHONPATH=. python tests/hostile.py slow --count 2000 --seconds 60
    PYTHONPATH=. python tests/hostile.py held --count 10000 --seconds 60 --set HELD_PER_ADDRESS=20000

How long others are kept waiting is told in CPU time of the worker, too: what it does between a request and
its reply, and in the longest turn of any of its greenlets. That is the same on a busy machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import gevent

import floods
import forgeries
from forgeries import under_forgeries
from honest import Fared, link_plain, quantile
from live import Call, Server
from wire import Wire, head

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


# --- floods ------------------------------------------------------------------------------------------------

SETTINGS: dict[str, dict[str, object]] = {
    "guesses": {"ADDRESS_LIMIT": "", "ANSWER_TIMEOUT": 900, "REQUEST_TIMEOUT": 900},
    "leaves": {"ADDRESS_LIMIT": ""},
}
"""What makes a flood worse than the defaults would let it be."""

VICTIMS = 20


@dataclass
class Flooded:
    """What a flood did.

    Attributes:
        fared: honest pairs, meanwhile.
        took: what became of the flood's requests and connections; see floods.py.
        memory: MiB of the worker before it, at most, and after a rest.
        victims: pairs whose nonces were guessed at, and that were linked after that.
    """

    fared: Fared
    took: dict[str, int]
    memory: list[float]
    victims: int = 0

    def __str__(self) -> str:
        before, most, after = self.memory
        memory = f"memory {before:.0f}, {most:.0f} at most, {after:.0f} MiB after"
        return f"{self.fared}; the flood: {self.took}; {memory}; victims linked: {self.victims}"


def flood(server: Server, kind: str, count: int, seconds: float, pairs: int, rest: float = 3) -> Flooded:
    """So many do what floods.py says, while others link."""
    fared, memory = Fared(), [server.memory_mib()] * 3
    victims = [Victim(server, number) for number in range(VICTIMS if kind == "guesses" else 0)]
    words = [sys.executable, floods.__file__, kind, *map(str, (server.port, count, int(seconds) + 1))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + seconds
        peers = [gevent.spawn(link_plain, server.port, number, until, fared) for number in range(pairs)]
        while time.monotonic() < until or not all(each.ready() for each in peers):
            memory[1] = max(memory[1], server.memory_mib())
            gevent.sleep(0.3)
        told = process.communicate()[0]
    linked = sum(each.is_unharmed() for each in victims)
    gevent.sleep(rest)
    memory[2] = server.memory_mib()
    return Flooded(fared, json.loads(told), memory, linked)


class Victim:
    """Two peers, of which one has the other's offer and takes its time."""

    def __init__(self, server: Server, number: int) -> None:
        self._alice, self._bob = (Wire(server.port, f"127.8.{half}.{number + 1}") for half in range(2))
        self._said = {"TYPE": "CONNECT", "NAMESPACE": floods.VICTIMS, "FINGERPRINT": f"bob {number}"}
        name = f"alice {number}"
        self._alice.send(**self._said | {"FINGERPRINT": name, "SIGNAL": name, "REQUEST": f"{number:022}"})
        server.until(waiting=1)
        _, told = self._bob.ask(**self._said, SIGNAL="another offer")
        assert told["SIGNAL"] == name
        self._bob.close()  # so long the server would not keep it
        self._said["NONCE"] = told["NONCE"]

    def is_unharmed(self) -> bool:
        """Do they link at last?"""
        with self._alice, self._bob:
            _, told = self._bob.ask(**self._said, SIGNAL="an answer")
            _, given = self._alice.reply()
        return (told["TYPE"], given["TYPE"], given["SIGNAL"]) == ("DELIVERED", "ANSWER", "an answer")


def pour_each(driver: str, seconds: float, connections: int) -> None:
    """Every kind of body, and what an honest request had to wait."""
    print(
        f"{'body':34} waits p50   p99    of them work p50   p99     longest turn | a connection takes, lives"
    )
    for kind in BODIES:
        with Server(app=TURNS, LOG="off") as server:
            seen = attack(server, kind, seconds, connections)
        figures = [1000 * quantile(each, part) for each in (seen.waits, seen.work) for part in (0.5, 0.99)]
        told = "{:8.1f} {:6.1f} {:15.1f} {:6.1f} {:10.1f} ms".format(*figures, 1000 * seen.longest)
        ended = f"{max(seen.sent) / 1e6:.1f} MB {max(seen.lived):.1f} s, {seen.cut} cut"
        print(f"{kind:34} {told} | {ended}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("bodies", "forgeries", *floods.KINDS))
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--count", type=int, default=1, help="of hostile ones; of forgeries, in a second")
    parser.add_argument("--pairs", type=int, default=50, help="honest ones")
    parser.add_argument("--driver", choices=("callbacks", "wsgi"), default="callbacks")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="of the server")
    options = parser.parse_args()
    Server.driver = options.driver
    settings = SETTINGS.get(options.what, {}) | dict(each.split("=", 1) for each in options.set)
    if options.what == "bodies":
        pour_each(options.driver, options.seconds, options.count)
    elif options.what == "forgeries":
        with Server(LOG="off", **forgeries.SETTINGS | settings) as server:
            told = under_forgeries(server.port, options.count, options.seconds, options.pairs)
        print(f"{told[0]}; to forgeries: {dict(told[1])}")
    else:
        with Server(limits=True, LOG="off", **settings) as server:
            print(flood(server, options.what, options.count, options.seconds, options.pairs))
            print(f"stacks: {server.log.count('Traceback')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
