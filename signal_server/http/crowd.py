"""How many connections each address has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gevent.monkey import get_original

_new_lock: Any = get_original("threading", "Lock")  # see matching/stores/memory

REFUSAL: Final = (
    b"HTTP/1.1 297 Rate Limit\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nCache-Control: no-store\r\n"
    b"Access-Control-Allow-Origin: *\r\nRetry-After: 1\r\nContent-Length: 37\r\n\r\n"
    b'{"TYPE":"RATE_LIMIT","RETRY_AFTER":1}'
)


class Crowd:
    """Counts the connections of each address.

    What an address may hold and ask is bounded elsewhere, once its requests are there. This is for those on
    which there is none yet.

    Args:
        most: connections of an address in this process; None for any number.
        name: of an address: those with the same are one.
        refused: is called for each that is one too many.
    """

    def __init__(self, most: int | None, name: Callable[[str], bytes], refused: Callable[[], None]) -> None:
        self._most = most
        self._name = name
        self._refused = refused
        self._counts: dict[bytes, int] = {}
        self._lock = _new_lock()

    def enter(self, remote: str) -> bool:
        """Count a new connection. Returns False if it is one too many, and not counted."""
        if self._most is None:
            return True
        name = self._name(remote)
        with self._lock:
            count = self._counts.get(name, 0)
            if count < self._most:
                self._counts[name] = count + 1
                return True
        self._refused()
        return False

    def leave(self, remote: str) -> None:
        """A connection that was counted is over."""
        if self._most is None:
            return
        name = self._name(remote)
        with self._lock:
            count = self._counts[name] - 1
            if count:
                self._counts[name] = count
            else:
                del self._counts[name]
