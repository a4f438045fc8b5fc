"""The store of a single process: the rules behind a lock."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable

from ...messages import Arrival, Delivery
from ..rules import Rules, Times
from .base import Outcome, PoolCounts, Store, pool_hash


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def new_nonce() -> str:
    """22 URL-safe characters, 128 random bits."""
    return secrets.token_urlsafe(16)


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
        nonces: Callable[[], str] = new_nonce,
    ) -> None:
        self._rules = Rules(times)
        self._lock = threading.Lock()
        self._clock = clock
        self._nonces = nonces
        self._sweep_ms = sweep_ms
        self._next_sweep_ms = clock() + sweep_ms
        self._seen: dict[str, int] = {}
        self._seen_order: deque[tuple[int, str]] = deque()

    def start(self, apply: Callable[[Outcome], object]) -> None:
        pass  # there is no other process

    def connect(self, arrival: Arrival, *, may_wait: bool) -> Outcome:
        with self._lock:
            now_ms, expired = self._expire()
            deliveries = self._rules.connect(arrival, may_wait=may_wait, nonces=self._nonces, now_ms=now_ms)
            return self._outcome(now_ms, expired + deliveries)

    def answer(self, arrival: Arrival, nonce: str) -> Outcome:
        with self._lock:
            now_ms, expired = self._expire()
            deliveries = self._rules.answer(arrival, nonce, nonces=self._nonces, now_ms=now_ms)
            return self._outcome(now_ms, expired + (deliveries or []), good=deliveries is not None)

    def bounce(self, arrival: Arrival, nonce: str, *, may_wait: bool) -> Outcome:
        with self._lock:
            now_ms, expired = self._expire()
            deliveries = self._rules.bounce(
                arrival, nonce, may_wait=may_wait, nonces=self._nonces, now_ms=now_ms
            )
            return self._outcome(now_ms, expired + (deliveries or []), good=deliveries is not None)

    def release(self, nonce: str) -> Outcome:
        with self._lock:
            now_ms, expired = self._expire()
            deliveries = self._rules.release(nonce, nonces=self._nonces, now_ms=now_ms)
            return self._outcome(now_ms, expired + deliveries)

    def claim(self, nonce: str) -> Outcome:
        with self._lock:
            now_ms, expired = self._expire()
            return self._outcome(now_ms, expired, good=self._rules.claim(nonce))

    def settle(self, nonce: str, *, written: bool) -> Outcome:
        with self._lock:
            now_ms, expired = self._expire()
            settled = self._rules.settle(nonce, written=written, nonces=self._nonces, now_ms=now_ms)
            return self._outcome(now_ms, expired + settled.deliveries, responder=settled.responder)

    def withdraw(self, ticket: str, *, unless_offered: bool = False) -> Outcome:
        with self._lock:
            now_ms, expired = self._expire()
            withdrawn = self._rules.withdraw(ticket, unless_offered=unless_offered)
            return self._outcome(now_ms, expired, good=withdrawn)

    def expire(self) -> Outcome:
        with self._lock:
            now_ms, expired = self._expire()
            return self._outcome(now_ms, expired)

    def remember_once(self, key: str, *, seconds: float) -> bool:
        with self._lock:
            now_ms = self._clock()
            while self._seen_order and self._seen_order[0][0] <= now_ms:
                until_ms, old = self._seen_order.popleft()
                if self._seen.get(old) == until_ms:
                    del self._seen[old]
            if self._seen.get(key, 0) > now_ms:
                return True
            until_ms = now_ms + round(seconds * 1000)
            self._seen[key] = until_ms
            self._seen_order.append((until_ms, key))
            return False

    def forget_once(self, key: str) -> None:
        with self._lock:
            self._seen.pop(key, None)

    def statistics(self) -> dict[str, int]:
        with self._lock:
            return self._rules.statistics()

    def pools(self) -> list[PoolCounts]:
        with self._lock:
            return [PoolCounts(pool_hash(name), *counts) for name, counts in self._rules.pools().items()]

    def is_ready(self) -> bool:
        return True

    def _expire(self) -> tuple[int, list[Delivery]]:
        """What every event begins with, so that no decision depends on when an timer rang."""
        now_ms = self._clock()
        if now_ms >= self._next_sweep_ms:
            self._next_sweep_ms = now_ms + self._sweep_ms
            self._rules.sweep(now_ms=now_ms)
        return now_ms, self._rules.expire(nonces=self._nonces, now_ms=now_ms)

    def _outcome(
        self, now_ms: int, deliveries: list[Delivery], *, good: bool = True, responder: str | None = None
    ) -> Outcome:
        due_ms = self._rules.next_deadline_ms()
        if due_ms is None or self._next_sweep_ms < due_ms:
            due_ms = self._next_sweep_ms
        return Outcome(deliveries, good, responder, max(0, due_ms - now_ms))
