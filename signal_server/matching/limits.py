"""How often a client may ask.

This is `limits`, the engine of Flask-Limiter, without Flask-Limiter's wrapper: its hooks alone cost as much
as an empty view, even on a route that it does not limit, and a limit that it checks twice that (see
docs/performance.md). The memory storage of `limits` has a timer that walks every key each 10 ms while
requests come in; `MemoryCounts` keeps the same counts and looks at old ones only.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from typing import Any, Protocol

from limits import RateLimitItem
from limits.storage import Storage
from limits.strategies import RateLimiter

from ..errors import RateLimited
from ..settings import Settings


class Held(Protocol):
    """The requests of all processes that wait, by address."""

    def hold(self, address: str, ticket: str) -> bool:
        """Add one. Returns False if that is one too many: it was not added."""

    def let_go(self, address: str, ticket: str) -> None:
        """It waits no longer."""


class Limits:
    """The rates of the protocol, and how many requests of an address may wait over all processes.

    Args:
        limiter: counts hits.
        settings: the rates, each None if it is off.
        held: None where there is one process, whose `OpenTickets` knows what waits.
    """

    def __init__(self, limiter: RateLimiter, settings: Settings, held: Held | None = None) -> None:
        self._limiter = limiter
        self._held = held
        self._request = settings.request_limit
        self._pair = settings.pair_limit
        self._address = settings.address_limit

    def count_address(self, address: str) -> None:
        """Count a request of this address.

        Raises:
            RateLimited: it is one too many.
        """
        self._hit(self._address, "address", address)

    def count_connect(self, peer: str) -> None:
        """Count a new connect of this peer, which must not follow too soon on a pairing of its own.

        Raises:
            RateLimited: it is one too many. If a pairing is the reason, it was not counted.
        """
        if self._pair is not None and not self._limiter.test(self._pair, "pair", peer):
            raise self._refusal(self._pair, "pair", peer)
        self._hit(self._request, "request", peer)

    def uncount_connect(self, peer: str) -> None:
        """A connect that was counted was refused for another reason, and so does not count."""
        if self._request is not None:
            key = self._request.key_for("request", peer)
            self._limiter.storage.incr(key, self._request.get_expiry(), -1)

    def count_pairing(self, peer: str) -> None:
        if self._pair is None:
            return
        if self._pair.amount == 1:
            self._limiter.clear(self._pair, "pair", peer)  # the window is of the last pairing, not the first
        self._limiter.hit(self._pair, "pair", peer)

    def hold(self, address: str, ticket: str) -> None:
        """Count a request that waits, until `let_go`.

        Raises:
            RateLimited: it is one too many.
        """
        if self._held is not None and not self._held.hold(address, ticket):
            raise RateLimited(1, "held")

    def let_go(self, address: str, ticket: str) -> None:
        if self._held is not None:
            self._held.let_go(address, ticket)

    def _hit(self, rate: RateLimitItem | None, *key: str) -> None:
        if rate is not None and not self._limiter.hit(rate, *key):
            raise self._refusal(rate, *key)

    def _refusal(self, rate: RateLimitItem, *key: str) -> RateLimited:
        left = self._limiter.get_window_stats(rate, *key).reset_time - time.time()
        return RateLimited(max(1, math.ceil(left)), key[0])


class MemoryCounts(Storage):
    """Counts in this process. A window begins with its first hit; those of one length end in order."""

    STORAGE_SCHEME = ["spacerift+memory"]  # noqa: RUF012  named so by limits

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, **options: Any) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions, **options)
        self._lock = threading.Lock()
        self.reset()

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        now = time.monotonic()
        with self._lock:
            self._forget(expiry, now)
            window = self._windows.get(key)
            if window is None or window[1] <= now:
                window = self._windows[key] = [0, now + expiry]
                self._ends.setdefault(expiry, deque()).append((window[1], key))
            window[0] += amount
            return int(window[0])

    def get(self, key: str) -> int:
        window = self._windows.get(key)
        return int(window[0]) if window is not None and window[1] > time.monotonic() else 0

    def get_expiry(self, key: str) -> float:
        """When the window ends, in seconds since 1970."""
        window = self._windows.get(key)
        left = window[1] - time.monotonic() if window is not None else 0.0
        return time.time() + max(0.0, left)

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        self._windows: dict[str, list[float]] = {}  # key: [hits, end]
        self._ends: dict[float, deque[tuple[float, str]]] = {}  # by length of window, in the order of ending
        return None

    def clear(self, key: str) -> None:
        self._windows.pop(key, None)

    def _forget(self, expiry: float, now: float) -> None:
        ends = self._ends.get(expiry)
        while ends and ends[0][0] <= now:
            end, key = ends.popleft()
            window = self._windows.get(key)
            if window is not None and window[1] == end:
                del self._windows[key]
