"""When the shards of a process are polled: when a notice comes, when something runs out of time, and twice a
second in any case."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import gevent
from gevent.monkey import get_original

from .base import Outcome
from .redis_client import Notices

POLL_SECONDS: Final = 0.5
"""The pause between two signs of life."""

UNEASY_SECONDS: Final = 0.1
"""The same while no notices come, so that nobody waits longer for what another process decided, and while it
is not known what became of a call."""

GRID_SECONDS: Final = 0.1
"""What runs out of time is looked after at multiples of this, many at once."""

_new_lock: Any = get_original("threading", "Lock")  # see memory

log = logging.getLogger(__name__)


class Polled(Protocol):
    """What a heartbeat needs of the store."""

    @property
    def is_in_hub(self) -> bool: ...

    @property
    def shards(self) -> list[int]: ...

    @property
    def is_uneasy(self) -> bool: ...

    def poll(self, shard: int) -> Outcome: ...

    def take_open(self, name: str) -> bool: ...

    def listen(self, heard: Callable[[bytes | None], None]) -> Notices: ...


class Heartbeat:
    """Polls the shards of a store, each on a thread (a greenlet, under gevent) of its own, and never one
    twice at a time.

    Attributes:
        apply: hands an outcome out. Without it there is no heartbeat, and somebody else must poll.
    """

    def __init__(self, store: Polled) -> None:
        self._store = store
        self.apply: Callable[[Outcome], object] | None = None
        self._notices: Notices | None = None
        self._begins = threading.Lock()
        self._lock = _new_lock()
        self._wake = threading.Event()
        self._wakes_at = 0.0
        self._polled: dict[int, bool] = {}  # shards that are being polled, and whether they must be once more
        self._due: list[tuple[int, int]] = []  # a heap of (multiple of GRID_SECONDS, shard)
        self._planned: dict[tuple[int, int], list[str]] = {}  # and what each of them is for

    def begin(self) -> None:
        # With the first call and not before, because neither a thread nor a connection survives a fork.
        if self._notices is not None or self.apply is None:
            return
        with self._begins:
            if self._notices is not None:
                return
            self._notices = self._store.listen(self._hear)
        # Not under the lock, for which the hub could not wait.
        threading.Thread(target=self._run, name="spacerift-heartbeat", daemon=True).start()

    def poll_at(self, shard: int, seconds: float, name: str) -> None:
        """Poll a shard after so many seconds, if this ticket or nonce is open still."""
        if self.apply is None:
            return
        due = time.monotonic() + max(0.0, seconds)
        entry = int(due / GRID_SECONDS) + 1, shard
        with self._lock:
            planned = self._planned.get(entry)
            if planned is not None:
                planned.append(name)
                return
            self._planned[entry] = [name]
            heapq.heappush(self._due, entry)
        if due < self._wakes_at:
            self._wake.set()

    def _hear(self, notice: bytes | None) -> None:
        """Under gevent this is called in the hub, where nothing may block."""
        for shard in self._store.shards if notice is None else [int(notice)]:
            self.poll_soon(shard)

    def _run(self) -> None:
        polled = time.monotonic()
        while True:
            now = time.monotonic()
            is_deaf = self._notices is None or not self._notices.is_listening
            pause = UNEASY_SECONDS if is_deaf or self._store.is_uneasy else POLL_SECONDS
            shards = self._take_due(now)
            if now >= polled + pause:
                shards, polled = set(self._store.shards), now
            for shard in shards:
                self.poll_soon(shard)
            self._wait(polled + pause)

    def _take_due(self, now: float) -> set[int]:
        shards = set()
        with self._lock:
            while self._due and self._due[0][0] * GRID_SECONDS <= now:
                entry = heapq.heappop(self._due)
                if [name for name in self._planned.pop(entry) if self._store.take_open(name)]:
                    shards.add(entry[1])
        return shards

    def poll_soon(self, shard: int) -> None:
        """Poll a shard; one that is being polled, once more."""
        if self.apply is None:
            return
        with self._lock:
            if shard in self._polled:
                self._polled[shard] = True  # what it found may be older than this
                return
            self._polled[shard] = False
        if self._store.is_in_hub:
            gevent.spawn(self._poll, shard)
        else:
            threading.Thread(target=self._poll, args=(shard,), daemon=True).start()

    def _poll(self, shard: int) -> None:
        is_needed = True
        while is_needed:
            try:
                outcome = self._store.poll(shard)
                if self.apply is not None:
                    self.apply(outcome)
            except Exception:
                log.exception("polling failed")
            with self._lock:
                is_needed = self._polled[shard]
                if is_needed:
                    self._polled[shard] = False
                else:
                    del self._polled[shard]

    def _wait(self, until: float) -> None:
        with self._lock:
            if self._due:
                until = min(until, self._due[0][0] * GRID_SECONDS)
            self._wakes_at = until
        self._wake.wait(max(0.0, until - time.monotonic()))
        self._wake.clear()
