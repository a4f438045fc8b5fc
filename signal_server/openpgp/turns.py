"""Who verifies next, if more want to than can: each address in turn.

An address has at most a quarter of the queue. If the queue is full all the same, the newest of the address
that has most in it makes room for one that has less. So no address keeps another out, whatever it sends.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import Unavailable


class _Waiter:
    __slots__ = ("awake", "has_turn")

    def __init__(self) -> None:
        self.awake = threading.Event()
        self.has_turn = False


class Turns:
    """Lets so many at once, and lets others wait.

    Args:
        at_once: how many may have a turn at the same time.
        most_waiting: how many may wait for theirs.
        patience_seconds: how long one waits.
    """

    def __init__(self, at_once: int, most_waiting: int, patience_seconds: float) -> None:
        self._free = at_once
        self._most_waiting = most_waiting
        self._most_each = max(1, most_waiting // 4)
        self._patience_seconds = patience_seconds
        self._waiting: OrderedDict[bytes, deque[_Waiter]] = OrderedDict()  # the next address first
        self._lock = threading.Lock()

    def check(self, who: bytes) -> None:
        """Raise Unavailable if there is no room for one more of this address."""
        with self._lock:
            if len(self._waiting.get(who, ())) >= self._most_each:
                raise _too_much()

    @contextmanager
    def turn(self, who: bytes) -> Iterator[None]:
        """Wait for a turn, and have it.

        Raises:
            Unavailable: there is no room, or others needed it more, or it took too long.
        """
        waiter = self._enter(who)
        try:
            if waiter is not None:
                waiter.awake.wait(self._patience_seconds)
                if not waiter.has_turn:
                    raise _too_much()
            yield
        finally:  # also if a thread is ended while it waits
            self._leave(who, waiter)

    def _enter(self, who: bytes) -> _Waiter | None:
        """None: it has its turn at once."""
        with self._lock:
            if self._free:
                self._free -= 1
                return None
            mine = len(self._waiting.get(who, ()))
            if mine >= self._most_each:
                raise _too_much()
            if sum(map(len, self._waiting.values())) >= self._most_waiting:
                busiest, most = max(self._waiting.items(), key=lambda each: len(each[1]))
                if len(most) <= mine + 1:
                    raise _too_much()
                most[-1].awake.set()  # without a turn
                self._remove(busiest, most[-1])
            waiter = _Waiter()
            self._waiting.setdefault(who, deque()).append(waiter)
            return waiter

    def _leave(self, who: bytes, waiter: _Waiter | None) -> None:
        with self._lock:
            if waiter is not None and not waiter.has_turn:
                self._remove(who, waiter)
                return
            if not self._waiting:
                self._free += 1
                return
            address, waiting = self._waiting.popitem(last=False)
            following = waiting.popleft()
            if waiting:
                self._waiting[address] = waiting
            following.has_turn = True
            following.awake.set()

    def _remove(self, who: bytes, waiter: _Waiter) -> None:
        waiting = self._waiting.get(who)
        if waiting is not None and waiter in waiting:
            waiting.remove(waiter)
            if not waiting:
                del self._waiting[who]


def _too_much() -> Unavailable:
    return Unavailable("there is too much to verify")
