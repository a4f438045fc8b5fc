"""What the limits count, shared by all processes."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from limits import RateLimitItem

from ...errors import RateLimited, Unavailable
from ...messages import Count
from ...settings import Settings
from ..limits import Limits, MemoryLimits
from ..tickets import Ticket
from .base import away
from .redis_client import Servers
from .redis_protocol import bulk, pack
from .redis_scripts import PREFIX, Script

MOST_LEFT: Final = 20_000
"""Places that were left while Redis was away, to be given back when it is there again."""

MOST_FULL: Final = 20_000
"""Addresses that have asked for too much, and need not be counted for a while."""

ANY: Final = 10**9
"""More hits than any window allows."""


class RedisLimits(Limits):
    """Counts in Redis; while that is away, in this process, rather than not at all.

    What is to be counted of a request is left in its `counts`, for the store to count it in the call of its
    event. Not in a cluster, where its keys may be on another server, or may not be in that call.

    Args:
        longest_ms: no request waits longer, so one whose process died is forgotten then.
    """

    def __init__(self, servers: Servers, settings: Settings, *, longest_ms: int) -> None:
        self._servers = servers
        self._address = _rate(settings.address_limit, "hit")
        self._request = _rate(settings.request_limit, "open")
        self._is_too_soon = _rate(settings.pair_limit, "look")
        self._pair = settings.pair_limit
        self._pair_is_new = b"".join(map(bulk, (b"1", b"PX", _ms(self._pair)))) if self._pair else b""
        self._held = settings.held_per_address
        self._places = None if self._held is None else b"%d %d hold" % (longest_ms, self._held)
        self._own = MemoryLimits(settings)
        self._address_seconds = settings.address_limit.get_expiry() if settings.address_limit else 0
        self._full: dict[bytes, float] = {}  # addresses, and until when, in seconds of the clock
        self._longest_ms = b"%d" % longest_ms
        self._left: deque[tuple[bytes, bytes]] = deque(maxlen=MOST_LEFT)
        servers.on_return(self._leave_again)
        self._hit = Script(servers, "counts", "hit")
        self._unhit, self._hold = Script(servers, "unhit"), Script(servers, "counts", "hold")

    def count_address(self, ticket: Ticket, *, may_be_later: bool = False) -> None:
        if self._address is not None:
            key = _name("address", ticket.address)
            if key in self._full:
                self._refuse_if_full(key)
            ticket.counts = (Count("address", key, self._address, self._is_full),)
            if self._servers.is_divided or not may_be_later:
                self.count_now(ticket)

    def _is_full(self, key: bytes, ms: int) -> None:
        """Until then Redis need not be asked again."""
        if len(self._full) >= MOST_FULL:
            self._full = {}
        self._full[key] = time.monotonic() + min(ms / 1000, self._address_seconds)

    def _refuse_if_full(self, key: bytes) -> None:
        left = self._full.get(key, 0.0) - time.monotonic()
        if left > 0:
            raise RateLimited(math.ceil(left), "address")
        self._full.pop(key, None)

    def count_connect(self, ticket: Ticket, *, may_wait: bool) -> None:
        counts = [*ticket.counts]
        if self._is_too_soon is not None:
            counts.append(Count("pair", _name("pair", ticket.peer), self._is_too_soon))
        if self._request is not None:
            counts.append(Count("request", _name("request", ticket.peer), self._request))
        ticket.counts = counts
        if self._servers.is_divided:
            self.count_now(ticket)
        elif may_wait and self._places is not None and not ticket.has_place:
            counts.append(Count("held", _name("held", ticket.address), self._places))
            ticket.has_place = True

    def count_now(self, ticket: Ticket) -> None:
        counts, ticket.counts = [each for each in ticket.counts if each.rate != self._places], ()
        if not counts:
            return
        try:
            self._count(counts)
        except Unavailable:
            if counts[0].limit == "address":
                self._own.count_address(ticket)
            if counts[-1].limit != "address":
                self._own.count_connect(ticket, may_wait=False)

    def _count(self, counts: Sequence[Count]) -> None:
        names, rates = [each.key for each in counts], b" ".join([each.rate for each in counts])
        if not names[0]:
            raise away()
        full = self._hit.run(names[0], b"%d" % len(names), *names, rates)
        if full:
            raise too_many(counts, *full)

    def uncount_connect(self, peer: bytes) -> None:
        if self._request is not None:
            name = _name("request", peer)
            with suppress(Unavailable):
                self._unhit.run(name, b"1", name)

    def count_pairing(self, peer: bytes) -> None:
        if self._pair is None:
            return
        self._own.count_pairing(peer)
        name = _name("pair", peer)
        with suppress(Unavailable):
            if self._pair.amount == 1:  # the window is of the last pairing
                self._servers.send(name, b"*5\r\n$3\r\nSET\r\n%b%b" % (bulk(name), self._pair_is_new))
            else:
                self._hit.run(name, b"1", name, b"%b %d hit" % (_ms(self._pair), ANY))

    def take_place(self, address: bytes, ticket: str) -> bool:
        if self._held is None:
            return True
        name = _name("held", address)
        try:
            return bool(
                self._hold.run(name, b"1", name, self._longest_ms, b"%d" % self._held, ticket.encode())
            )
        except Unavailable:
            return True  # each process keeps to its own count meanwhile

    def leave_place(self, address: bytes, ticket: str) -> None:
        self._leave(_name("held", address), ticket.encode())

    def _leave(self, name: bytes, ticket: bytes) -> None:
        try:
            self._servers.send(name, pack(b"ZREM", name, ticket))
        except Unavailable:
            self._left.append((name, ticket))

    def _leave_again(self) -> None:
        """The server is back, and has the places still that were left meanwhile, but maybe no counts."""
        self._full = {}
        left, self._left = self._left, deque(maxlen=MOST_LEFT)
        for name, ticket in left:
            self._leave(name, ticket)


def too_many(counts: Sequence[Count], number: int, left_ms: int) -> RateLimited:
    """What a request is told if this one of its counts is full for so long."""
    count = counts[number - 1]
    if count.full is not None:
        count.full(count.key, left_ms)
    return RateLimited(max(1, math.ceil(left_ms / 1000)), count.limit)


def _name(limit: str, key: bytes) -> bytes:
    """The key of a count. All of one peer are together in a cluster."""
    return f"{PREFIX}:limit:{{{key.hex()}}}:{limit}".encode()


def _rate(item: RateLimitItem | None, how: str) -> bytes | None:
    return None if item is None else b"%b %d %b" % (_ms(item), item.amount, how.encode())


def _ms(rate: RateLimitItem) -> bytes:
    return b"%d" % round(rate.get_expiry() * 1000)
