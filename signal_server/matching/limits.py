"""How often a client may ask, and how much it may hold.

A rate such as `1 per 5 seconds` is read by `limits`, the engine of Flask-Limiter, and means what it means
there with fixed windows: a window begins with its first hit and ends `5 seconds` later. The three counts of
each request are kept here, for a process of its own; `limits` would take longer for them than all the rest of
the request (see docs/performance.md). `redis_counts` has the same for all processes together.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from gevent.monkey import get_original
from limits import RateLimitItem

from ..errors import RateLimited
from ..settings import Settings
from .tickets import Ticket

_new_lock: Any = get_original("threading", "Lock")  # see stores/memory


class Limits(ABC):
    """The rates of the protocol, and how many requests of an address may wait.

    Attributes:
        has_places: requests that wait are counted over several processes: see `take_place`.
    """

    has_places = True

    @abstractmethod
    def count_address(self, ticket: Ticket, *, may_be_later: bool = False) -> None:
        """Count a request of this address.

        Args:
            may_be_later: it may be left in `counts`, if whoever has the ticket calls `count_now` for what
                no event has counted.

        Raises:
            RateLimited: it is one too many.
        """

    @abstractmethod
    def count_connect(self, ticket: Ticket, *, may_wait: bool) -> None:
        """Count a new connect of this peer, which must not follow too soon on a pairing of its own.

        Now, or with its event, for which it is left in `counts`. So is the place that it takes then if it has
        to wait; `has_place` says so from now on, since it may end meanwhile.

        Args:
            may_wait: else it needs none.

        Raises:
            RateLimited: it is one too many. If a pairing is the reason, it was not counted.
        """

    @abstractmethod
    def count_now(self, ticket: Ticket) -> None:
        """Count what was left for later.

        Raises:
            RateLimited: it is one too many.
        """

    @abstractmethod
    def uncount_connect(self, peer: bytes) -> None:
        """A connect that was counted was refused for another reason, and so does not count."""

    @abstractmethod
    def count_pairing(self, peer: bytes) -> None:
        """Count a pairing of this peer."""

    @abstractmethod
    def take_place(self, address: bytes, ticket: str) -> bool:
        """Count a request that waits. Returns False if it is one too many of its address in all processes."""

    @abstractmethod
    def leave_place(self, address: bytes, ticket: str) -> None:
        """It waits no longer."""


class MemoryLimits(Limits):
    """The limits of a single process, whose `OpenTickets` knows what waits.

    Args:
        settings: the rates, each None if it is off.
        clock: seconds, of any clock that does not jump.
    """

    has_places = False

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = _windows(settings.address_limit, "address", clock)
        self._request = _windows(settings.request_limit, "request", clock)
        self._pair = _windows(settings.pair_limit, "pair", clock)

    def count_address(self, ticket: Ticket, *, may_be_later: bool = False) -> None:
        if self._address is not None:
            self._address.hit(ticket.address)

    def count_connect(self, ticket: Ticket, *, may_wait: bool) -> None:
        if self._pair is not None:
            self._pair.check(ticket.peer)
        if self._request is not None:
            self._request.hit(ticket.peer)

    def count_now(self, ticket: Ticket) -> None:
        pass  # nothing is left

    def uncount_connect(self, peer: bytes) -> None:
        if self._request is not None:
            self._request.take_back(peer)

    def count_pairing(self, peer: bytes) -> None:
        if self._pair is not None:
            self._pair.restart(peer)

    def take_place(self, address: bytes, ticket: str) -> bool:
        return True

    def leave_place(self, address: bytes, ticket: str) -> None:
        pass


class Windows:
    """Counts by key. A window begins with its first hit; all are as long.

    Those of the last such length of time are in one dictionary, and those of the one before it in another,
    which is dropped whole: to delete each window by itself takes longer than all its hits.

    Args:
        amount: so many hits are allowed in a window.
        seconds: its length.
        name: of the limit, for the log.
    """

    __slots__ = ("_amount", "_clock", "_length_ms", "_lock", "_name", "_old", "_turn_ms", "_young")

    def __init__(self, amount: int, seconds: float, name: str, clock: Callable[[], float]) -> None:
        self._amount = amount
        self._length_ms = round(seconds * 1000)
        self._name = name
        self._clock = clock
        # When it ends in ms, and in the last bits its hits: one number, which is no work for the collector.
        self._young: dict[bytes, int] = {}
        self._old: dict[bytes, int] = {}
        self._turn_ms = 0
        self._lock = _new_lock()

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def hit(self, key: bytes) -> None:
        """Raise RateLimited if it is one too many."""
        now_ms = int(self._clock() * 1000)
        with self._lock:
            if now_ms >= self._turn_ms:
                self._turn(now_ms)
            window = self._young.get(key) or self._old.get(key, 0)
            if window >> _HIT_BITS > now_ms:
                window += 1
            else:
                window = ((now_ms + self._length_ms) << _HIT_BITS) + 1
            self._young[key] = window
        if window & _HITS > self._amount:
            raise self._refusal(window, now_ms)

    def check(self, key: bytes) -> None:
        """Raise RateLimited if one more would be too many."""
        window = self._young.get(key) or self._old.get(key, 0)
        if window & _HITS >= self._amount:
            now_ms = int(self._clock() * 1000)
            if window >> _HIT_BITS > now_ms:
                raise self._refusal(window, now_ms)

    def restart(self, key: bytes) -> None:
        """Hit. If one is all that a window allows, it is of the last hit and not of the first."""
        if self._amount > 1:
            with suppress(RateLimited):
                self.hit(key)
            return
        now_ms = int(self._clock() * 1000)
        with self._lock:
            if now_ms >= self._turn_ms:
                self._turn(now_ms)
            self._young[key] = ((now_ms + self._length_ms) << _HIT_BITS) + 1

    def take_back(self, key: bytes) -> None:
        """Undo a hit."""
        with self._lock:
            window = self._young.get(key) or self._old.get(key, 0)
            if window & _HITS:
                self._young[key] = window - 1

    def _turn(self, now_ms: int) -> None:
        """Forget what has ended by now. After a pause longer than a window that is all of them."""
        self._old = self._young if now_ms < self._turn_ms + self._length_ms else {}
        self._young = {}
        self._turn_ms = now_ms + self._length_ms

    def _refusal(self, window: int, now_ms: int) -> RateLimited:
        return RateLimited(max(1, -(-((window >> _HIT_BITS) - now_ms) // 1000)), self._name)


_HIT_BITS: Final = 32
_HITS: Final = (1 << _HIT_BITS) - 1


def _windows(rate: RateLimitItem | None, name: str, clock: Callable[[], float]) -> Windows | None:
    return None if rate is None else Windows(rate.amount, rate.get_expiry(), name, clock)
