"""Signs that a proxy before us hides what the server must know: who asks, and when a client leaves.

They cost an ordinary request nothing: one is met where the header is not as it should be, the other is looked
for once an hour in what is counted anyway.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from typing import Final

from .metrics import REQUEST_BUCKETS, Metrics
from .request_log import HUNG_UP

HOUR_SECONDS: Final = 3600.0

MANY_WAITS: Final = 100
"""Of so many clients that waited for more than a second, one at least leaves before its time is over."""

WAITED: Final = bisect_left(REQUEST_BUCKETS, 1.0) + 1
"""The first bucket of what took more than a second."""

SEE: Final = "see docs/proxies.md, and ask `flask --app signal_server spacerift doctor --url …`"

log = logging.getLogger(__name__)


class ProxySigns:
    """Counts the signs, and tells the log of them."""

    def __init__(self, metrics: Metrics, *, trusted_proxies: int) -> None:
        self._metrics = metrics
        self._trusted_proxies = trusted_proxies
        self._is_told = False
        self._next = time.monotonic() + HOUR_SECONDS
        self._before = (0, 0)

    def unnamed(self) -> None:
        """A request's X-Forwarded-For has fewer addresses than proxies are trusted."""
        self._metrics.totals["unnamed_requests"] += 1
        if not self._is_told:
            self._is_told = True
            log.warning(
                "a request has fewer addresses in X-Forwarded-For than SPACERIFT_TRUSTED_PROXIES=%d: if it "
                "came through your proxy, that does not add the client's, and anybody may claim any; %s",
                self._trusted_proxies,
                SEE,
            )

    def look(self, now: float | None = None) -> None:
        """Once an hour: have many waited to the end, and has nobody ever left?

        Args:
            now: by the monotonic clock.
        """
        now = time.monotonic() if now is None else now
        if now < self._next:
            return
        self._next = now + HOUR_SECONDS
        waits, hang_ups = self._counts()
        waits_before, hang_ups_before = self._before
        self._before = (waits, hang_ups)
        if waits - waits_before >= MANY_WAITS and hang_ups == hang_ups_before:
            self._metrics.totals["hours_without_hang_ups"] += 1
            log.warning(
                "within an hour %d requests waited in vain, and not one client hung up: what stands before "
                "the server seems not to pass hang-ups on, so DELIVERED may be false; %s",
                waits - waits_before,
                SEE,
            )

    def _counts(self) -> tuple[int, int]:
        """Of this process so far: requests that waited until nobody came, and those whose client left."""
        rows = self._metrics.counts()["requests"]
        in_vain = [row for ended, row in rows.items() if ended.startswith(("NO_PEER", "NO_NAMESPACE_PEER"))]
        left = [row for ended, row in rows.items() if ended.startswith(HUNG_UP)]
        waits = sum(sum(row[WAITED:-1]) for row in in_vain)
        return int(waits), int(sum(sum(row[:-1]) for row in left))
