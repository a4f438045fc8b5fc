"""Greenlets for what may wait for another process, kept for the next such step.

CPython maps memory for the frames of each new greenlet, and unmaps it at its end. With Redis that took a
fifth of a pair.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from gevent import get_hub
from greenlet import getcurrent, greenlet

MOST_IDLE: Final = 256

log = logging.getLogger(__name__)


class Steps:
    """Runs steps, each in a greenlet, in the order in which they were begun."""

    def __init__(self) -> None:
        self._hub = get_hub()
        self._loop = self._hub.loop
        self._idle: list[Any] = []

    def begin(self, step: Callable[..., object], *args: Any) -> None:
        """Take a step in the next turn of the loop. It may wait; its exception is logged."""
        own = self._idle.pop() if self._idle else greenlet(self._go_on, self._hub)
        self._loop.run_callback(own.switch, [(step, args)])

    def _go_on(self, told: list[Any]) -> None:
        own, hub, idle = getcurrent(), self._hub, self._idle
        while True:
            step, args = told.pop()  # a greenlet keeps for good what it was begun with
            try:
                step(*args)
            except Exception:
                log.exception("a step failed")
            if len(idle) >= MOST_IDLE:
                return
            idle.append(own)
            del step, args
            told = []
            while not isinstance(told, list) or not told:  # whatever else may wake it
                told = hub.switch()
