"""Sends the same bytes, cut into the same pieces, to two servers, and compares what they make of them.

    PYTHONPATH=. python tests/fuzz_framing.py               # this project's own worker beside stock gunicorn
    PYTHONPATH=. python tests/fuzz_framing.py --cases 200000 --seed 7
    PYTHONPATH=. python tests/fuzz_framing.py --only 7:123  # one case again, with both verdicts
    PYTHONPATH=. python tests/fuzz_framing.py --mutants     # does it notice a parser that is too lenient?

A verdict is the list of replies (status, headers, body, and by `X-Request-Id` the request that each belongs
to) and whether the connection was closed. So a difference means that the two do not agree on what a request
is, or on where the next one begins. A case whose verdicts differ is sent three times more, with longer
pauses. If they differ each time, it is made smaller and printed as bytes. framing_cases.py makes the cases.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import re
import secrets
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace

from framing_cases import Case, make, sentinel
from live import Server
from mutants import MUTANTS, Mutant

STOCK = "gevent"
"""gunicorn's own worker class."""

SETTINGS = {"REQUEST_TIMEOUT": 0.2, "TRUSTED_PROXIES": 1, "LOG": "off"}
"""A held request ends soon, and a request's own `X-Request-Id` comes back."""

AT_ONCE = 96
QUIET_SECONDS = 0.5
"""A server that has said nothing for so long waits for more."""

FLOOD = b"\r\n0\r\n\r\n" + b"".join(sentinel(number, last=number == 160) for number in range(100, 161))
"""Sent to a server that waits: the sentinel that it answers tells how many bytes it was waiting for."""

OWN_ID = re.compile(rb"^[0-9a-f]{12}-[0-9a-f]+$")


@dataclass(frozen=True)
class Reply:
    status: str
    request: str
    """The `X-Request-Id`, `own` if the server made it up, or empty."""
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def __str__(self) -> str:
        return f"{self.status} [{self.request}] {self.body[:160]!r} {dict(self.headers)}"


@dataclass(frozen=True)
class Verdict:
    replies: tuple[Reply, ...]
    end: str
    """`closed`, or `waits` for more bytes."""
    rest: bytes = b""

    @property
    def outline(self) -> str:
        return " ".join([*(f"{each.status[9:12]}[{each.request}]" for each in self.replies), self.end])

    def __str__(self) -> str:
        return "\n".join(
            [*(f"      {each}" for each in self.replies), f"      {self.end} {self.rest[:80]!r}".rstrip()]
        )


def verdict(received: bytes, end: str) -> Verdict:
    """Read the replies of a connection. What differs between two good servers is left out."""
    replies = []
    while received.startswith(b"HTTP/"):
        head, found, rest = received.partition(b"\r\n\r\n")
        if not found:
            break
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if rest.startswith(b"HTTP/") or not rest:
            length = 0  # to a HEAD
        if headers.get("transfer-encoding") == "chunked":
            length = rest.find(b"0\r\n\r\n") + 5
        body, received = rest[:length], rest[length:]
        given = headers.pop("x-request-id", "")
        request = "own" if OWN_ID.match(given.encode()) else given
        headers.pop("date", None)
        headers["allow"] = ",".join(sorted(headers.get("allow", "").split(", ")))  # a set, in any order
        if "retry-after" in headers:
            headers["retry-after"] = "some"
            body = re.sub(rb'"RETRY_AFTER":\d+', b'"RETRY_AFTER":0', body)
        replies.append(Reply(first, request, tuple(sorted(headers.items())), body))
    return Verdict(tuple(replies), end, received)


class Conversation:
    """One case with one server."""

    def __init__(self, case: Case, port: int, patience: float) -> None:
        self._pieces = list(reversed(case.pieces))
        self._closes = case.closes
        self._flooded = False
        self._received = bytearray()
        self._left = b""
        self._pause = case.pause_ms / 1000 * patience
        self._quiet = max(QUIET_SECONDS * patience, 8.0 if case.pause_ms > 500 else 0.0)
        self._heard = time.monotonic()
        self.end = ""
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BlockingIOError):
            self.socket.connect(("127.0.0.1", port))

    @property
    def verdict(self) -> Verdict:
        return verdict(bytes(self._received), self.end)

    def go_on(self, now: float) -> float:
        """Do what is due. Returns when to be called again."""
        if self._left or self._pieces:
            if not self._left:
                self._left = self._pieces.pop()
            self._send()
            self._heard = now
            if self._left:
                return now + 0.002
            return now + (self._pause if self._pieces else self._quiet)
        due = self._heard + self._quiet
        if now < due:
            return due
        if self._flooded:
            self.finish("waits")
        elif self._closes:
            self._flooded, self._heard = True, now
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
        else:
            self._flooded, self._left = True, FLOOD
            return self.go_on(now)
        return now + self._quiet

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    piece = self.socket.recv(65536)
                except ConnectionError:
                    piece = b""
                if not piece:
                    return self.finish("closed")
                self._received += piece
                self._heard = time.monotonic()
        return None

    def _send(self) -> None:
        try:
            self._left = self._left[self.socket.send(self._left) :]
        except BlockingIOError:
            pass
        except OSError:  # closed: what it said before is still to be read
            self._left, self._pieces = b"", []

    def finish(self, end: str) -> None:
        self.end = end
        self.socket.close()


def converse(
    jobs: Iterable[tuple[Case, int]], patience: float = 1.0, at_once: int = 2 * AT_ONCE
) -> Generator[tuple[int, Verdict]]:
    """Hold many conversations at once. Yields each job's number with its verdict, as they end."""
    waiting: list[tuple[float, int]] = []
    running: dict[int, Conversation] = {}
    by_fd: dict[int, int] = {}
    numbered = enumerate(jobs)
    more = True
    with select.epoll() as poll:
        try:
            while True:
                while more and len(running) < at_once:
                    number, job = next(numbered, (-1, None))
                    if job is None:
                        more = False
                        break
                    talk = running[number] = Conversation(*job, patience)
                    by_fd[talk.socket.fileno()] = number
                    poll.register(talk.socket, select.EPOLLIN | select.EPOLLRDHUP)
                    heapq.heappush(waiting, (time.monotonic(), number))
                if not running:
                    return
                pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.05
                ready = [by_fd[fd] for fd, _ in poll.poll(min(pause, 0.05))]
                for number in ready:
                    running[number].read()
                now = time.monotonic()
                while waiting and waiting[0][0] <= now:
                    _, number = heapq.heappop(waiting)
                    if number in running and not running[number].end:
                        heapq.heappush(waiting, (running[number].go_on(now), number))
                        ready.append(number)
                for number in ready:
                    if number in running and running[number].end:
                        yield number, running.pop(number).verdict
        finally:
            for talk in running.values():
                talk.socket.close()


@dataclass
class Fuzz:
    """Two servers that are compared.

    Attributes:
        ports: of the server that is judged, and of the one that it is measured by.
        accepted: how often each known difference was met, by its name.
        once: what differed and did not do so again: how, and how often.
        differences: cases that differ each time, with their seeds.
    """

    ports: tuple[int, int]
    ran: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    once: Counter[str] = field(default_factory=Counter)
    differences: list[tuple[str, Case]] = field(default_factory=list)

    def run(self, seeds: Iterable[str], enough: int = 5, progress: Callable[[], None] = lambda: None) -> None:
        """Run the cases of these seeds, until so many differ."""
        seeds = iter(seeds)
        while len(self.differences) < enough and (batch := list(itertools.islice(seeds, 2000))):
            cases = [make(seed) for seed in batch]
            found = self._verdicts(batch, cases)
            for seed, case, mine, theirs in found:
                self.ran += 1
                self.statuses.update(f"{each.status[9:12]}" for each in theirs.replies)
                if mine == theirs:
                    continue
                if name := known(case, mine, theirs):
                    self.accepted[name] += 1
                elif self.differs(case):
                    self.differences.append((seed, case))
                    if len(self.differences) >= enough:
                        break
                else:
                    self.once[f"{mine.outline} instead of {theirs.outline}"] += 1
            found.close()
            progress()

    def _verdicts(self, seeds: list[str], cases: list[Case]) -> Generator[tuple[str, Case, Verdict, Verdict]]:
        found: dict[int, Verdict] = {}
        jobs = [(case, port) for case in cases for port in self.ports]
        with contextlib.closing(converse(jobs)) as talks:
            for number, each in talks:
                other = found.pop(number ^ 1, None)
                if other is None:
                    found[number] = each
                else:
                    mine, theirs = (each, other) if number % 2 == 0 else (other, each)
                    yield seeds[number // 2], cases[number // 2], mine, theirs

    def differs(self, case: Case, times: int = 3) -> bool:
        """Does it differ each time, with longer pauses, and in no way that is known?"""
        for _ in range(times):
            mine, theirs = self.both(case)
            if mine == theirs or known(case, mine, theirs):
                return False
        return True

    def both(self, case: Case) -> tuple[Verdict, Verdict]:
        found = dict(converse([(case, port) for port in self.ports], patience=3.0))
        return found[0], found[1]

    def kinds(self) -> dict[str, list[tuple[str, Case]]]:
        """The differences, by what is different about them."""
        found: dict[str, list[tuple[str, Case]]] = {}
        for seed, case in self.differences:
            mine, theirs = self.both(case)
            found.setdefault(f"{mine.outline} instead of {theirs.outline}", []).append((seed, case))
        return found

    def shrink(self, case: Case, seconds: float = 45) -> Case:
        """A smaller case that differs, too."""
        until = time.monotonic() + seconds
        smaller = True
        while smaller and time.monotonic() < until:
            smaller = False
            for candidate in smaller_cases(case):
                if time.monotonic() > until:
                    break
                if self.differs(candidate, times=1):
                    case, smaller = candidate, True
                    break
        return case


def smaller_cases(case: Case) -> Iterator[Case]:
    """Fewer pieces, then fewer bytes."""
    if len(case.pieces) > 1:
        yield replace(case, pieces=[case.sent])
        for number in range(len(case.pieces) - 1):
            joined = case.pieces[number] + case.pieces[number + 1]
            yield replace(case, pieces=[*case.pieces[:number], joined, *case.pieces[number + 2 :]])
    sizes = [size for size in (4096, 1024, 256, 64, 16, 4, 1) if size < len(case.sent)]
    lines = re.compile(rb"[^\r\n]*\r?\n?")
    for number, piece in enumerate(case.pieces):
        spans = [match.span() for match in lines.finditer(piece) if match.end() > match.start()]
        for size in sizes:
            spans += (
                [(start, start + size) for start in range(0, len(piece), size)]
                if size > 1 or len(piece) < 300
                else []
            )
        for start, end in spans:
            kept = piece[:start] + piece[end:]
            pieces = [each for each in (*case.pieces[:number], kept, *case.pieces[number + 1 :]) if each]
            if pieces:
                yield replace(case, pieces=pieces)


# --- differences that are accepted -------------------------------------------------------------------------

Known = Callable[[Case, Verdict, Verdict], bool]

ACCEPTED: dict[str, tuple[str, Known]] = {}
"""By name: why it may be, and how it is told. Each one is a promise to look at it again when it changes."""


def known(case: Case, mine: Verdict, theirs: Verdict) -> str:
    """The name of the accepted difference that this is, or nothing."""
    return next((name for name, (_, is_it) in ACCEPTED.items() if is_it(case, mine, theirs)), "")


# --- as a program ------------------------------------------------------------------------------------------


def server(worker: str = "", mutant: Mutant | None = None) -> Server:
    """A server with this worker class; without one, with that of gunicorn.conf.py."""
    chosen = ("--worker-class", worker) if worker else ()
    return Server("--keep-alive", "3", *chosen, *(mutant.options if mutant else ()), **SETTINGS)


def compare(mine: str, theirs: str, cases: int, seed: int, *, enough: int = 5, quiet: bool = True) -> Fuzz:
    """Run so many cases against two workers, given by the names of their classes."""
    with server(mine) as judged, server(theirs) as measure:
        fuzz = Fuzz((judged.port, measure.port))
        started = time.monotonic()

        def progress() -> None:
            if not quiet:
                rate = fuzz.ran / (time.monotonic() - started)
                print(f"  {fuzz.ran} cases, {rate:.0f}/s, {len(fuzz.differences)} differ", flush=True)

        fuzz.run((f"{seed}:{number}" for number in range(cases)), enough, progress)
        if not quiet:
            for kind, found in fuzz.kinds().items():
                print(f"{len(found)} times: {kind}", flush=True)
                name, case = min(found, key=lambda each: len(each[1].sent))
                show(fuzz, name, fuzz.shrink(case))
    return fuzz


def show(fuzz: Fuzz, name: str, case: Case) -> None:
    mine, theirs = fuzz.both(case)
    pieces = ",\n        ".join(map(repr, case.pieces))
    print(
        f"DIFFERENT: seed {name}, pause {case.pause_ms} ms, closes {case.closes}, pieces:\n        {pieces}"
    )
    print(f"    judged:\n{mine}\n    measure:\n{theirs}", flush=True)


def try_mutants(cases: int, seed: int, names: list[str]) -> list[str]:
    """The mutants that were not noticed."""
    missed = []
    with server(STOCK) as measure:
        for name, mutant in MUTANTS.items():
            if names and name not in names:
                continue
            with mutant.planted(), server("" if mutant.is_ours else STOCK, mutant) as judged:
                fuzz = Fuzz((judged.port, measure.port))
                fuzz.run((f"{seed}:{number}" for number in range(cases)), enough=1)
            seen = bool(fuzz.differences)
            print(f"  {name:32} {'seen after' if seen else 'NOT SEEN in'} {fuzz.ran} cases", flush=True)
            missed += [] if seen else [name]
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--mine", default="", help="the worker class that is judged, else gunicorn.conf.py's")
    parser.add_argument("--theirs", default=STOCK, help="the worker class that it is measured by")
    parser.add_argument("--enough", type=int, default=5, help="stop after so many differences")
    parser.add_argument("--only", help="the seed of one case, such as 7:123, to be shown with both verdicts")
    parser.add_argument("--mutants", nargs="*", help="try these mutants, or all")
    options = parser.parse_args()
    if options.mutants is not None:
        return len(try_mutants(options.cases, options.seed, options.mutants))
    if options.only:
        with server(options.mine) as judged, server(options.theirs) as measure:
            show(Fuzz((judged.port, measure.port)), options.only, make(options.only))
        return 0
    print(f"seed {options.seed}: {options.mine or 'our worker'} beside {options.theirs}")
    fuzz = compare(
        options.mine, options.theirs, options.cases, options.seed, enough=options.enough, quiet=False
    )
    print(f"{fuzz.ran} cases; statuses {json.dumps(fuzz.statuses)}")
    print(f"accepted, by name: {dict(fuzz.accepted)}; differed once and not again: {fuzz.once.total()}")
    for kind, count in fuzz.once.most_common(20):
        print(f"    {count} times: {kind}")
    print(f"different: {len(fuzz.differences)}")
    return min(1, len(fuzz.differences))


if __name__ == "__main__":
    sys.exit(main())
