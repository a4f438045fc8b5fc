"""What is measured of the rules from inside: how a match's time grows, and what a remembered pair takes."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
import tracemalloc
from dataclasses import dataclass

from signal_server.matching.rules import Times
from signal_server.matching.stores.memory import MemoryStore
from signal_server.messages import DELIVERED, DEMOTE, Arrival

HOUR_MS = 3_600_000
TIMES = Times(request=HOUR_MS, answer=5_000, write=3_000, pair_memory=10 * HOUR_MS)
SIGNAL = "v=0 candidate " * 100


@dataclass(frozen=True)
class Inside:
    """What the rules and their store take in one process.

    Attributes:
        few_us: of a pair, from the newcomer's CONNECT to its DELIVERED, with 10 requests waiting.
        many_us: the same with 100,000 waiting in that pool.
        stranger_us, met_us: with 10 that have just come, for a newcomer that has met nobody, or 700 peers.
        pair_bytes: of memory for a remembered pair.
    """

    few_us: float
    many_us: float
    stranger_us: float
    met_us: float
    pair_bytes: float


class Pool:
    """One pool of a store, whose clock stands still unless it is moved."""

    def __init__(self) -> None:
        self._now_ms = 1_000_000
        self._store = MemoryStore(TIMES, sweep_ms=10**12, clock=lambda: self._now_ms)
        self._numbers = itertools.count(1)

    def arrival(self, peer: int | None = None) -> Arrival:
        number = next(self._numbers)
        name = (number if peer is None else peer).to_bytes(16, "big")
        return Arrival(str(number), "open:chess", name, name, SIGNAL, name, HOUR_MS)

    def wait(self, peer: int | None = None) -> str:
        """Let a request wait. Returns its ticket."""
        arrival = self.arrival(peer)
        assert not self._store.connect(arrival, may_wait=True).deliveries
        return arrival.ticket

    def link(self, newcomer: Arrival, answer: Arrival) -> None:
        """Link a newcomer with the oldest offer that it may meet."""
        (told,) = self._store.connect(newcomer, may_wait=True).deliveries
        assert told.reply.type == DEMOTE
        self._store.answer(answer, told.reply.nonce)
        assert self._store.claim(told.reply.nonce).good
        (last,) = self._store.settle(told.reply.nonce, written=True).deliveries
        assert last.reply.type == DELIVERED

    def meet(self, peer: int | None = None) -> float:
        """Link one newcomer. Returns how long it took, in µs."""
        newcomer = self.arrival(peer)
        answer = self.arrival(int.from_bytes(newcomer.peer, "big"))
        started = time.perf_counter_ns()
        self.link(newcomer, answer)
        return (time.perf_counter_ns() - started) / 1000

    def forget_handovers(self) -> None:
        """Let the time pass in which an answer may be repeated."""
        self._now_ms += 10_000
        self._store.expire()

    def among(self, waiting: int, newcomer: int | None = None) -> float:
        """Link a newcomer with the oldest of so many requests of one peer, and take the others out again.

        They are of one peer, because requests of two peers would not wait side by side. Returns µs.
        """
        peer = next(self._numbers) + 2**80
        tickets = [self.wait(peer) for _ in range(waiting)]
        took = self.meet(newcomer)
        for ticket in tickets[1:]:
            assert self._store.withdraw(ticket).good
        self.forget_handovers()
        return took

    def matched(self) -> float:
        """Link a newcomer with a request of CROWD, and let another one wait for it. Returns µs."""
        took = self.meet()
        self.wait(CROWD)
        self.forget_handovers()
        return took


ONE = 2**100
"""A peer that meets many."""

CROWD = 2**101
"""A peer with many requests."""


def pair_bytes(count: int) -> float:
    """Bytes for each of so many pairs that are remembered."""
    pool = Pool()
    pool.among(1)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(count):
        pool.among(1)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return (after - before) / count


def measure(*, quick: bool) -> Inside:
    """Measure all of it, in turns, because other programs may take a part of the time."""
    rounds, many, met = (10, 2_000, 100) if quick else (400, 100_000, 700)
    empty, known, small, crowded = Pool(), Pool(), Pool(), Pool()
    for _ in range(met):
        known.among(1, ONE)
    for _ in range(10):
        small.wait(CROWD)
    for _ in range(many):
        crowded.wait(CROWD)
    few, lots, strangers, acquainted = [], [], [], []
    for _ in range(rounds):
        strangers.append(empty.among(10))
        acquainted.append(known.among(10, ONE))
        few.append(small.matched())
        lots.append(crowded.matched())
    return Inside(
        few_us=statistics.median(few),
        many_us=statistics.median(lots),
        stranger_us=statistics.median(strangers),
        met_us=statistics.median(acquainted),
        pair_bytes=pair_bytes(2_000 if quick else 100_000),
    )
