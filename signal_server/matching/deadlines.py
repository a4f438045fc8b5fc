"""What runs out of time, and when."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Final

Due = tuple[int, int, str]
"""When in ms, a number that counts up, and a ticket or a nonce."""

WAIT: Final = 0
ANSWER: Final = 1
WRITE: Final = 2


class Deadlines:
    """Entries in the order of (when, number).

    Almost all come in that order by themselves, for each of the three terms apart, because a term is as long
    for all. One that does not (a request whose body was slow, or whose proxy is impatient) goes to a heap.
    """

    __slots__ = ("_early", "_queues")

    def __init__(self) -> None:
        self._queues: tuple[deque[Due], ...] = (deque(), deque(), deque())
        self._early: list[Due] = []

    def add(self, term: int, due: Due) -> None:
        queue = self._queues[term]
        if queue and queue[-1] > due:
            heapq.heappush(self._early, due)
        else:
            queue.append(due)

    def take(self, now_ms: int, counts: Callable[[Due], bool]) -> Due | None:
        """Take out the first entry that is due and still counts; drop those before it that do not."""
        first: deque[Due] | None = None
        for queue in self._queues:
            while queue and queue[0][0] <= now_ms:
                if counts(queue[0]):
                    if first is None or queue[0] < first[0]:
                        first = queue
                    break
                queue.popleft()
        while self._early and self._early[0][0] <= now_ms:
            if first is not None and first[0] < self._early[0]:
                break
            due = heapq.heappop(self._early)
            if counts(due):
                return due
        return None if first is None else first.popleft()
