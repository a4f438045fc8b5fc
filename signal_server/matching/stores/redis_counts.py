"""What the limits count, shared by all processes."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Final

from limits import RateLimitItem

from ...errors import RateLimited, Unavailable
from ...settings import Settings
from ..limits import Limits, MemoryLimits
from .redis_client import Servers
from .redis_protocol import pack
from .redis_scripts import PREFIX, Script

HIT: Final = b"1"
LOOK: Final = b"0"

Count = tuple[str, bytes, RateLimitItem, bytes]
"""Of which limit, its key, the rate, and whether it is hit or only looked at."""


class RedisLimits(Limits):
    """Counts in Redis; while that is away, in this process, rather than not at all.

    Args:
        longest_ms: no request waits longer, so one whose process died is forgotten then.
    """

    def __init__(self, servers: Servers, settings: Settings, *, longest_ms: int) -> None:
        self._servers = servers
        self._address = settings.address_limit
        self._request = settings.request_limit
        self._pair = settings.pair_limit
        self._held = settings.held_per_address
        self._own = MemoryLimits(settings)
        self._longest_ms = b"%d" % longest_ms
        self._hit, self._unhit, self._hold = (Script(servers, name) for name in ("hit", "unhit", "hold"))

    def count_address(self, address: bytes) -> None:
        if self._address is not None:
            try:
                self._count(("address", _name("address", address), self._address, HIT))
            except Unavailable:
                self._own.count_address(address)

    def count_connect(self, peer: bytes) -> None:
        counts: list[Count] = []
        if self._pair is not None:
            counts.append(("pair", _name("pair", peer), self._pair, LOOK))
        if self._request is not None:
            counts.append(("request", _name("request", peer), self._request, HIT))
        if counts:
            try:
                self._count(*counts)
            except Unavailable:
                self._own.count_connect(peer)

    def uncount_connect(self, peer: bytes) -> None:
        if self._request is not None:
            name = _name("request", peer)
            with suppress(Unavailable):
                self._unhit.run(name, b"1", name)

    def count_pairing(self, peer: bytes) -> None:
        if self._pair is None:
            return
        self._own.count_pairing(peer)
        name, lasts = _name("pair", peer), _ms(self._pair)
        with suppress(Unavailable):
            if self._pair.amount == 1:  # the window is of the last pairing
                self._servers.send(name, pack(b"SET", name, b"1", b"PX", lasts))
            else:
                self._hit.run(name, b"1", name, lasts, b"%d" % 10**9, HIT)

    def take_place(self, address: bytes, ticket: str) -> bool:
        if self._held is None:
            return True
        name = _name("held", address)
        try:
            return bool(
                self._hold.run(name, b"1", name, self._longest_ms, ticket.encode(), b"%d" % self._held)
            )
        except Unavailable:
            return True  # each process keeps to its own count meanwhile

    def leave_place(self, address: bytes, ticket: str) -> None:
        name = _name("held", address)
        with suppress(Unavailable):
            self._servers.send(name, pack(b"ZREM", name, ticket.encode()))

    def _count(self, *counts: Count) -> None:
        """Count all, or none after the first that is full. Their keys are on one server.

        Raises:
            RateLimited: one is full.
        """
        names = [name for _, name, _, _ in counts]
        words = [word for _, _, rate, how in counts for word in (_ms(rate), b"%d" % rate.amount, how)]
        full = self._hit.run(names[0], b"%d" % len(names), *names, *words)
        if full:
            number, left_ms = full
            raise RateLimited(max(1, math.ceil(left_ms / 1000)), counts[number - 1][0])


def _name(limit: str, key: bytes) -> bytes:
    """The key of a count. All of one peer are together in a cluster."""
    return f"{PREFIX}:limit:{{{key.hex()}}}:{limit}".encode()


def _ms(rate: RateLimitItem) -> bytes:
    return b"%d" % round(rate.get_expiry() * 1000)
