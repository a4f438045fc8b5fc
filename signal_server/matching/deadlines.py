"""What runs out of time, and when."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any, Final, Protocol

WAIT: Final = 0
ANSWER: Final = 1
WRITE: Final = 2

NEVER: Final = 1 << 62


class Expiring(Protocol):
    """What has a deadline.

    Attributes:
        due: the number of the only entry that counts for it; 0 if none does.
    """

    due: int


Due = tuple[int, int, Any]
"""When in ms, a number that counts up and is above 0, and an `Expiring`."""


class Deadlines:
    """Entries in the order of (when, number).

    Almost all come in that order by themselves, for each of the three terms apart, because a term is as long
    for all. One that does not (a request whose body was slow, or whose proxy is impatient) goes to a heap.

    Attributes:
        first_ms: before this nothing is due.
    """

    __slots__ = ("_early", "_queues", "first_ms")

    def __init__(self) -> None:
        self._queues: tuple[deque[Due], ...] = (deque(), deque(), deque())
        self._early: list[Due] = []
        self.first_ms = NEVER

    def add(self, term: int, when_ms: int, number: int, it: Expiring) -> None:
        """Add an entry, which is the one that counts for `it` from now on."""
        it.due = number
        queue = self._queues[term]
        if queue and queue[-1][0] > when_ms:
            heapq.heappush(self._early, (when_ms, number, it))
        else:
            queue.append((when_ms, number, it))
        if when_ms < self.first_ms:
            self.first_ms = when_ms

    def take(self, now_ms: int) -> Any:
        """Take out what is due first, or return None. Entries before it that do not count are dropped."""
        first: deque[Due] | None = None
        later = NEVER
        for queue in self._queues:
            while queue:
                due = queue[0]
                if due[0] > now_ms:
                    later = min(later, due[0])
                    break
                if due[2].due == due[1]:
                    if first is None or due[:2] < first[0][:2]:
                        first = queue
                    break
                queue.popleft()
        while self._early:
            due = self._early[0]
            if due[0] > now_ms:
                later = min(later, due[0])
                break
            if first is not None and first[0][:2] < due[:2]:
                break
            heapq.heappop(self._early)
            if due[2].due == due[1]:
                return due[2]
        if first is not None:
            return first.popleft()[2]
        self.first_ms = later
        return None
