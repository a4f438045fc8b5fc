"""What the limits count, shared by all processes."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from limits.storage import Storage

from ...errors import Unavailable
from ..limits import MemoryCounts
from .redis_client import Servers
from .redis_protocol import pack
from .redis_scripts import PREFIX, Script


class RedisCounts(Storage):
    """Counts in Redis; while that is away, in this process, rather than not at all."""

    STORAGE_SCHEME = ["spacerift+redis"]  # noqa: RUF012  named so by limits

    def __init__(self, servers: Servers) -> None:
        super().__init__()
        self._servers = servers
        self._own = MemoryCounts()
        self._count = Script(servers, "count")

    @property
    def base_exceptions(self) -> type[Exception]:
        return Unavailable

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        name = _name(key)
        try:
            return int(self._count.run(name, b"1", name, b"%d" % round(expiry * 1000), b"%d" % amount))
        except Unavailable:
            return self._own.incr(key, expiry, amount)

    def get(self, key: str) -> int:
        try:
            return int(self._call(b"GET", key) or 0)
        except Unavailable:
            return self._own.get(key)

    def get_expiry(self, key: str) -> float:
        """When the window ends, in seconds since 1970."""
        try:
            left_ms: int = self._call(b"PTTL", key)
            return time.time() + max(0, left_ms) / 1000
        except Unavailable:
            return self._own.get_expiry(key)

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        self._own.reset()
        return None

    def clear(self, key: str) -> None:
        self._own.clear(key)
        name = _name(key)
        with suppress(Unavailable):
            self._servers.send(name, pack(b"DEL", name))  # whatever is asked of this key next comes after it

    def _call(self, command: bytes, key: str) -> Any:
        name = _name(key)
        return self._servers.call(name, pack(command, name))


class RedisHeld:
    """The requests that wait, by address.

    Args:
        most: so many of an address may.
        lasts_ms: no request waits longer, so one whose process died is forgotten then.
    """

    def __init__(self, servers: Servers, most: int, lasts_ms: int) -> None:
        self._servers = servers
        self._most = b"%d" % most
        self._lasts_ms = b"%d" % lasts_ms
        self._hold = Script(servers, "hold")

    def hold(self, address: str, ticket: str) -> bool:
        name = _name(f"held:{address}")
        try:
            return bool(self._hold.run(name, b"1", name, self._lasts_ms, ticket.encode(), self._most))
        except Unavailable:
            return True  # each process keeps to its own count meanwhile

    def let_go(self, address: str, ticket: str) -> None:
        name = _name(f"held:{address}")
        with suppress(Unavailable):
            self._servers.send(name, pack(b"ZREM", name, ticket.encode()))


def _name(key: str) -> bytes:
    return f"{PREFIX}:limit:{key}".encode()
