"""What runs out of time, and when."""

from __future__ import annotations

import heapq
from collections import deque
from typing import Final

Due = tuple[int, int, str]
"""When in ms, a number that counts up, and a ticket or a nonce."""

WAIT: Final = 0
ANSWER: Final = 1
WRITE: Final = 2

NEVER: Final = 1 << 62


class Deadlines:
    """Entries in the order of (when, number).

    Almost all come in that order by themselves, for each of the three terms apart, because a term is as long
    for all. One that does not (a request whose body was slow, or whose proxy is impatient) goes to a heap.

    Most entries do not count any more when their time comes. They hold a name and nothing else, so that what
    has ended is free at once: thousands that ended in the last seconds would cost more than those that live.

    Attributes:
        first_ms: before this nothing is due.
    """

    __slots__ = ("_early", "_queues", "first_ms")

    def __init__(self) -> None:
        self._queues: tuple[deque[Due], ...] = (deque(), deque(), deque())
        self._early: list[Due] = []
        self.first_ms = NEVER

    def add(self, term: int, due: Due) -> None:
        queue = self._queues[term]
        if queue and queue[-1][0] > due[0]:
            heapq.heappush(self._early, due)
        else:
            queue.append(due)
        if due[0] < self.first_ms:
            self.first_ms = due[0]

    def take(self, now_ms: int) -> list[Due]:
        """Take out all that is due, in its order; whether it still counts is not known here."""
        taken: list[Due] = []
        first_ms = NEVER
        for queue in self._queues:
            while queue and queue[0][0] <= now_ms:
                taken.append(queue.popleft())
            if queue:
                first_ms = min(first_ms, queue[0][0])
        while self._early and self._early[0][0] <= now_ms:
            taken.append(heapq.heappop(self._early))
        if self._early:
            first_ms = min(first_ms, self._early[0][0])
        self.first_ms = first_ms
        taken.sort()
        return taken
