"""Calls that are due at a time, made by one thread (a greenlet, under gevent)."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Timer:
    """A call that is due once. `rang` tells whether it was made; `cancel` says that it is not needed."""

    __slots__ = ("_call", "rang")

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call
        self.rang = False

    def cancel(self) -> None:
        self._call = None  # and what it holds: a cancelled timer stays in the heap until its time

    def ring(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            self.rang = True
            call()


class Timers:
    """Makes calls when they are due. The thread starts with the first timer, so after any fork.

    The calls must be short: all others wait for them.
    """

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._wakes_at: float | None = None  # None: no thread yet

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        timer = Timer(call)
        due = time.monotonic() + seconds
        with self._lock:
            heapq.heappush(self._due, (due, next(self._order), timer))
            started, sooner = self._wakes_at is not None, self._wakes_at is None or due < self._wakes_at
            if sooner:
                self._wakes_at = due
        if not started:
            threading.Thread(target=self._run, name="spacerift-timers", daemon=True).start()
        elif sooner:
            self._wake.set()
        return timer

    def _run(self) -> None:
        while True:
            for timer in self._take_due():
                try:
                    timer.ring()
                except Exception:
                    log.exception("an timer failed")
            self._wake.wait(self._pause())
            self._wake.clear()

    def _take_due(self) -> list[Timer]:
        due = []
        now = time.monotonic()
        with self._lock:
            while self._due and self._due[0][0] <= now:
                due.append(heapq.heappop(self._due)[2])
        return due

    def _pause(self) -> float | None:
        with self._lock:
            self._wakes_at = self._due[0][0] if self._due else float("inf")
            return max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
