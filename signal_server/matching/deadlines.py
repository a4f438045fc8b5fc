"""What runs out of time, and when."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from operator import itemgetter
from typing import Final

WAIT: Final = 0
ANSWER: Final = 1
WRITE: Final = 2

NEVER: Final = 1 << 62


class Deadlines:
    """Tickets and nonces, in the order in which their time ends.

    Almost all come in that order by themselves, for each of the three terms apart, because a term is as long
    for all. One that does not (an offer that returned, a request whose body was slow or whose proxy is
    impatient) goes to a heap.

    Most are dropped long before their time. That is done at once, while they are in the processor's cache:
    to step over thousands of them seconds later costs more than all that was done with them.

    Attributes:
        first_ms: before this nothing is due.
    """

    __slots__ = ("_early", "_heap", "_last_ms", "_queues", "first_ms")

    def __init__(self) -> None:
        self._queues: tuple[OrderedDict[str, int], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        self._last_ms = [0, 0, 0]
        self._early: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []  # of all that were early; one counts if `_early` has it so
        self.first_ms = NEVER

    def __len__(self) -> int:
        return sum(map(len, self._queues)) + len(self._early)

    def add(self, term: int, name: str, when_ms: int) -> None:
        """Let the time of a name end at `when_ms`, which may be nearer than `term` is long."""
        if when_ms >= self._last_ms[term]:
            self._last_ms[term] = when_ms
            self._queues[term][name] = when_ms
        else:
            self._early[name] = when_ms
            heapq.heappush(self._heap, (when_ms, name))
        if when_ms < self.first_ms:
            self.first_ms = when_ms

    def drop(self, term: int, name: str) -> None:
        """It is needed no more, if it was there at all."""
        if self._queues[term].pop(name, None) is None:
            self._early.pop(name, None)

    def take(self, now_ms: int) -> list[str]:
        """Take out the names whose time has ended, in that order."""
        taken: list[tuple[int, str]] = []
        first_ms = NEVER
        for queue in self._queues:
            while queue:
                name, when_ms = next(iter(queue.items()))
                if when_ms > now_ms:
                    first_ms = min(first_ms, when_ms)
                    break
                del queue[name]
                taken.append((when_ms, name))
        while self._heap:
            when_ms, name = self._heap[0]
            if when_ms > now_ms:
                first_ms = min(first_ms, when_ms)
                break
            heapq.heappop(self._heap)
            if self._early.get(name) == when_ms:
                del self._early[name]
                taken.append((when_ms, name))
        self.first_ms = first_ms
        taken.sort(key=itemgetter(0))
        return [name for _, name in taken]
