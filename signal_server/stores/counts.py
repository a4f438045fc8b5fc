"""The counts of the limits, shared by all processes."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any, Final

from limits.storage import Storage

from ..errors import Unavailable
from ..limits import MemoryCounts
from .link import Servers, pack

PREFIX: Final = "spacerift1:limit:"


class RedisCounts(Storage):
    """Counts in Redis; while that is away, in this process, rather than not at all."""

    STORAGE_SCHEME = ["spacerift+redis"]  # noqa: RUF012  named so by limits

    def __init__(self, servers: Servers) -> None:
        super().__init__()
        self._servers = servers
        self._own = MemoryCounts()
        self._source = (Path(__file__).parent / "lua" / "count.lua").read_bytes()
        self._digest = hashlib.sha1(self._source, usedforsecurity=False).hexdigest().encode()

    @property
    def base_exceptions(self) -> type[Exception]:
        return Unavailable

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        name = _name(key)
        words = self._digest, b"1", name, b"%d" % round(expiry * 1000), b"%d" % amount
        try:
            return int(self._servers.run(name, self._source, pack(b"EVALSHA", *words)))
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
        self._call(b"DEL", key)

    def _call(self, command: bytes, key: str) -> Any:
        name = _name(key)
        return self._servers.call(name, pack(command, name))


def _name(key: str) -> bytes:
    return (PREFIX + key).encode()
