"""The store of a single process: the rules behind a lock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from gevent.monkey import get_original

from ...messages import NO_PEER, Arrival, Delivery, Reply
from ..rules import Rules, Times
from .base import LEAVE_SECONDS, Name, Nonces, Outcome, PoolCounts, Store, pool_hash

# The interpreter's own lock, under gevent too: nothing here waits or switches while it is held, and gevent's
# costs as much as a whole decision.
_new_lock: Any = get_original("threading", "Lock")


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class MemoryStore(Store):
    """Keeps everything in this process.

    Args:
        times: how long things last.
        sweep_ms: how often old pairs are deleted.
        clock: the time in ms, any that does not jump.
        nonces: makes a nonce.
    """

    def __init__(
        self,
        times: Times,
        *,
        sweep_ms: int,
        clock: Callable[[], int] = monotonic_ms,
        nonces: Callable[[], str] | None = None,
    ) -> None:
        self._rules = Rules(times)
        self._deadlines = self._rules.deadlines
        self._lock = _new_lock()
        self._clock = clock
        self._nonces = nonces or Nonces()
        self._sweep_ms = sweep_ms
        self._next_sweep_ms = clock() + sweep_ms
        self._once = _Once(clock)
        self._names: dict[str, tuple[bytes, str]] = {}
        self._left = _Once(clock)

    def start(self, apply: Callable[[Outcome], object]) -> None:
        pass  # there is no other process

    def connect(self, arrival: Arrival, *, may_wait: bool) -> Outcome:
        with self._lock:
            now_ms, expired = self._expire()
            if arrival.name and self._has_left(arrival.name, arrival.leaver):
                decided = [Delivery(arrival.ticket, Reply(NO_PEER))]
            else:
                decided = self._rules.connect(arrival, may_wait=may_wait, nonces=self._nonces, now_ms=now_ms)
            return Outcome(expired + decided if expired else decided, True, None, [])

    def answer(self, arrival: Arrival, nonce: str) -> Outcome:
        with self._lock:
            now_ms, expired = self._expire()
            decided = self._rules.answer(arrival, nonce, nonces=self._nonces, now_ms=now_ms)
            if decided is None:
                return Outcome(expired, False)
            return Outcome(expired + decided if expired else decided, True, None, [])

    def bounce(self, arrival: Arrival, nonce: str, *, may_wait: bool) -> Outcome:
        with self._lock:
            now_ms, expired = self._expire()
            decided = self._rules.bounce(
                arrival, nonce, may_wait=may_wait, nonces=self._nonces, now_ms=now_ms
            )
            return Outcome(expired + (decided or []), decided is not None)

    def release(self, nonce: str) -> Outcome:
        with self._lock:
            now_ms, expired = self._expire()
            return Outcome(expired + self._rules.release(nonce, nonces=self._nonces, now_ms=now_ms))

    def claim(self, nonce: str) -> Outcome:
        with self._lock:
            _, expired = self._expire()
            return Outcome(expired, self._rules.claim(nonce), None, [])

    def settle(self, nonce: str, *, written: bool) -> Outcome:
        with self._lock:
            now_ms, expired = self._expire()
            settled = self._rules.settle(nonce, written=written, nonces=self._nonces, now_ms=now_ms)
            deliveries = expired + settled.deliveries if expired else settled.deliveries
            return Outcome(deliveries, True, settled.responder, [])

    def withdraw(self, ticket: str, *, unless_offered: bool = False) -> Outcome:
        with self._lock:
            _, expired = self._expire()
            return Outcome(expired, self._rules.withdraw(ticket, unless_offered=unless_offered))

    def abandon(self, ticket: str) -> None:
        with self._lock:
            self._rules.withdraw(ticket, unless_offered=False)

    def take_name(self, name: str, leaver: bytes, ticket: str, pool: str) -> Name:
        with self._lock:
            if self._has_left(name, leaver):
                return Name.LEFT
            if self._names.setdefault(name, (leaver, ticket))[1] != ticket:
                return Name.IN_USE
            return Name.TAKEN

    def drop_name(self, name: str) -> None:
        with self._lock:
            self._names.pop(name, None)

    def leave(self, name: str, leaver: bytes) -> Outcome:
        with self._lock:
            _, expired = self._expire()
            owner, ticket = self._names.get(name, (leaver, ""))
            if owner != leaver:
                return Outcome(expired, False)
            if not self._rules.withdraw(ticket):
                key = _left_key(name, leaver)
                self._left.forget(key)  # its time counts from the last LEAVE
                self._left.remember(key, LEAVE_SECONDS)
                return Outcome(expired, False)
            return Outcome([*expired, Delivery(ticket, Reply(NO_PEER))])

    def expire(self) -> Outcome:
        with self._lock:
            return Outcome(self._expire()[1])

    def is_idle(self) -> bool:
        return self._rules.is_empty()

    def remember_once(self, key: str, *, seconds: float) -> bool:
        with self._lock:
            return self._once.remember(key, seconds)

    def forget_once(self, key: str) -> None:
        with self._lock:
            self._once.forget(key)

    def statistics(self) -> dict[str, int]:
        with self._lock:
            return self._rules.statistics()

    def pools(self) -> list[PoolCounts]:
        with self._lock:
            return [PoolCounts(pool_hash(name), *counts) for name, counts in self._rules.pools().items()]

    def is_ready(self) -> bool:
        return True

    def _expire(self) -> tuple[int, list[Delivery]]:
        """What every event begins with, so that no decision depends on when a timer fired."""
        now_ms = self._clock()
        if now_ms >= self._next_sweep_ms:
            self._next_sweep_ms = now_ms + self._sweep_ms
            self._rules.sweep(now_ms=now_ms)
        if now_ms < self._deadlines.first_ms:
            return now_ms, []
        return now_ms, self._rules.expire(nonces=self._nonces, now_ms=now_ms)

    def _has_left(self, name: str, leaver: bytes) -> bool:
        return self._left.knows(_left_key(name, leaver))


class _Once:
    """Keys, each remembered for a while."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._until: dict[str, int] = {}
        self._order: deque[tuple[int, str]] = deque()

    def knows(self, key: str) -> bool:
        return self._until.get(key, 0) > self._clock()

    def remember(self, key: str, seconds: float) -> bool:
        """Returns whether it was remembered already."""
        now_ms = self._clock()
        while self._order and self._order[0][0] <= now_ms:
            until_ms, old = self._order.popleft()
            if self._until.get(old) == until_ms:
                del self._until[old]
        if self._until.get(key, 0) > now_ms:
            return True
        until_ms = now_ms + round(seconds * 1000)
        self._until[key] = until_ms
        self._order.append((until_ms, key))
        return False

    def forget(self, key: str) -> None:
        self._until.pop(key, None)


def _left_key(name: str, leaver: bytes) -> str:
    return name + leaver.hex()
