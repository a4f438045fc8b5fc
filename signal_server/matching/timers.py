"""Calls that are due after a while, made by one thread (a greenlet, under gevent)."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

TICK_SECONDS: Final = 0.05
"""The thread looks so often for what is due. What must be true to the millisecond does not wait for it."""

log = logging.getLogger(__name__)


class Timer:
    """A call that is due once. `fired` tells whether it was made; `cancel` says that it is not needed."""

    __slots__ = ("_call", "due", "fired")

    def __init__(self, due: float, call: Callable[[], object]) -> None:
        self._call: Callable[[], object] | None = call
        self.due = due
        self.fired = False

    @property
    def is_cancelled(self) -> bool:
        return self._call is None

    def cancel(self) -> None:
        self._call = None  # and what it holds: a cancelled timer stays in its queue for a while

    def fire(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            self.fired = True
            call()


class Timers:
    """Makes calls when they are due. The thread starts with the first of them, so after any fork.

    There are a few lengths of time and many calls of each, which are due in the order in which they were
    asked for: so a queue for each length, and nothing is sorted. The calls must be short: all others wait.
    """

    def __init__(self) -> None:
        self._queues: dict[float, deque[Timer]] = {}
        self._ticks: list[tuple[Callable[[], object], Callable[[], bool]]] = []
        self._awake = threading.Event()
        self._lock = threading.Lock()
        self._started = False
        self._sleeps = True

    def after(self, seconds: float, call: Callable[[], object]) -> Timer:
        timer = Timer(time.monotonic() + seconds, call)
        queue = self._queues.get(seconds)
        if queue is None:
            queue = self._queues.setdefault(seconds, deque())
        while queue and queue[0].is_cancelled:
            try:
                queue.popleft()
            except IndexError:  # another thread took it
                break
        queue.append(timer)
        self.wake()
        return timer

    def every_tick(self, call: Callable[[], object], *, unless: Callable[[], bool]) -> None:
        """Make a call at each tick. The thread may sleep while `unless` says so, until `wake`."""
        self._ticks.append((call, unless))

    def wake(self) -> None:
        """There may be something to do again."""
        if self._sleeps:
            self._sleeps = False
            self._awake.set()
            if not self._started:
                self._start()

    def drive(self) -> None:
        """Somebody else calls `tick`, so no thread is needed."""
        self._started, self._sleeps = True, False

    def _start(self) -> None:
        with self._lock:
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="spacerift-timers", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._awake.wait()
            self._awake.clear()
            while not self._sleeps:
                time.sleep(TICK_SECONDS)
                self.tick()
                self._sleeps = True  # before we look, so that who comes meanwhile wakes us
                self._sleeps = self._is_idle()

    def tick(self) -> None:
        """Make the calls that are due."""
        now = time.monotonic()
        for queue in list(self._queues.values()):
            while queue and (queue[0].due <= now or queue[0].is_cancelled):
                _guarded(queue.popleft().fire)
        for call, unless in self._ticks:
            if not unless():
                _guarded(call)

    def _is_idle(self) -> bool:
        return not any(self._queues.values()) and all(unless() for _, unless in self._ticks)


def _guarded(call: Callable[[], object]) -> None:
    try:
        call()
    except Exception:
        log.exception("a timer failed")
