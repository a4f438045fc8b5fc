"""What the limits count, shared by all processes."""

from __future__ import annotations

import hashlib
import math
from contextlib import suppress
from typing import Any, Final

from limits import RateLimitItem

from ...errors import RateLimited, Unavailable
from ...settings import Settings
from ..limits import Limits, MemoryLimits
from .redis import FOLDER
from .redis_client import Servers, pack

PREFIX: Final = "spacerift1:limit:"


class RedisLimits(Limits):
    """Counts in Redis; while that is away, in this process, rather than not at all.

    Args:
        longest_ms: no request waits longer, so one whose process died is forgotten then.
    """

    def __init__(self, servers: Servers, settings: Settings, *, longest_ms: int) -> None:
        self._servers = servers
        self._settings = settings
        self._own = MemoryLimits(settings)
        self._longest_ms = b"%d" % longest_ms
        self._scripts = {name: (FOLDER / f"{name}.lua").read_bytes() for name in ("count", "hold")}

    def count_address(self, address: bytes) -> None:
        try:
            self._hit(self._settings.address_limit, "address", address)
        except Unavailable:
            self._own.count_address(address)

    def count_connect(self, peer: bytes) -> None:
        pair = self._settings.pair_limit
        try:
            if pair is not None and int(self._call(b"GET", _name("pair", peer)) or 0) >= pair.amount:
                raise self._refusal("pair", peer)
            self._hit(self._settings.request_limit, "request", peer)
        except Unavailable:
            self._own.count_connect(peer)

    def uncount_connect(self, peer: bytes) -> None:
        if self._settings.request_limit is not None:
            with suppress(Unavailable):
                self._incr(self._settings.request_limit, "request", peer, -1)

    def count_pairing(self, peer: bytes) -> None:
        self._own.count_pairing(peer)
        pair, name = self._settings.pair_limit, _name("pair", peer)
        if pair is None:
            return
        with suppress(Unavailable):
            if pair.amount == 1:
                self._servers.send(name, pack(b"DEL", name))  # what is asked of this key next comes after it
            self._incr(pair, "pair", peer)

    def take_place(self, address: bytes, ticket: str) -> bool:
        most = self._settings.held_per_address
        if most is None:
            return True
        name = _name("held", address)
        try:
            return bool(self._run("hold", name, self._longest_ms, ticket.encode(), b"%d" % most))
        except Unavailable:
            return True  # each process keeps to its own count meanwhile

    def leave_place(self, address: bytes, ticket: str) -> None:
        name = _name("held", address)
        with suppress(Unavailable):
            self._servers.send(name, pack(b"ZREM", name, ticket.encode()))

    def _hit(self, rate: RateLimitItem | None, limit: str, key: bytes) -> None:
        if rate is not None and self._incr(rate, limit, key) > rate.amount:
            raise self._refusal(limit, key)

    def _incr(self, rate: RateLimitItem, limit: str, key: bytes, amount: int = 1) -> int:
        words = b"%d" % round(rate.get_expiry() * 1000), b"%d" % amount
        return int(self._run("count", _name(limit, key), *words))

    def _refusal(self, limit: str, key: bytes) -> RateLimited:
        left_ms = int(self._call(b"PTTL", _name(limit, key)))
        return RateLimited(max(1, math.ceil(left_ms / 1000)), limit)

    def _run(self, script: str, name: bytes, *words: bytes) -> Any:
        source = self._scripts[script]
        digest = hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
        return self._servers.run(name, source, pack(b"EVALSHA", digest, b"1", name, *words))

    def _call(self, command: bytes, name: bytes) -> Any:
        return self._servers.call(name, pack(command, name))


def _name(limit: str, key: bytes) -> bytes:
    return f"{PREFIX}{limit}:{key.hex()}".encode()
