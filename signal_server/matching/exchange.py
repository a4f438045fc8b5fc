"""The life of one request, for whatever carries it:

    exchange.start(ticket, …)        it is decided, or waits
    ticket.wait()                    a thread sleeps until it has its result; or
    ticket.on_result(callback)       a callback is made then
    reply = exchange.begin(…)        just before the reply is written: what is written indeed
    exchange.finish(reply, …)        it was written to an open connection, or could not be

A reply that names a handover (`DEMOTE`, `ANSWER`) is not done when it is decided: what could not be written
goes back to the store, and only what was written lets the other peer hear `DELIVERED`. So `finish` is called
exactly once for each reply that `begin` gave.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from ..errors import HungUp, SignalError, Unavailable
from ..messages import Reply
from .limits import Limits
from .matcher import Matcher, Observer
from .stores.base import Store, away
from .tickets import OpenTickets, Ticket
from .timers import Timers

DRAIN_SECONDS: Final = 2.0
"""How long a process that ends waits for the answers to the offers that it has out."""

AT_ONCE: Final = 64
"""So many requests are turned away at a time, where the store is elsewhere."""

SPREAD: Final = 500
"""So many of the requests that are turned away come back in one second."""

MOST_RETRY_SECONDS: Final = 15


class Exchange:
    """Carries requests through the matcher, for two drivers: threads that sleep, and callbacks.

    Args:
        request_seconds: how long a request may wait.
        longest_seconds: after that it ends, whatever the store says of it, or has forgotten.
        timers: look for what has run out of time.
    """

    def __init__(
        self,
        store: Store,
        tickets: OpenTickets,
        limits: Limits,
        timers: Timers,
        observer: Observer,
        *,
        request_seconds: float,
        longest_seconds: float,
    ) -> None:
        self._store = store
        self._tickets = tickets
        self._timers = timers
        self._request_seconds = request_seconds
        self._longest_seconds = longest_seconds
        self._matcher = Matcher(store, tickets, limits, observer)
        self._retry_seconds: Iterator[int] = itertools.repeat(1)
        timers.every_tick(self._matcher.expire, unless=store.is_idle)
        timers.every_tick(self._end_overdue, unless=lambda: not len(tickets))
        self.begin: Callable[[Ticket, Callable[[], bool]], Reply] = self._matcher.begin
        self.finish: Callable[..., None] = self._matcher.finish
        self.leave: Callable[[str, bytes], None] = self._matcher.leave

    def start(self, ticket: Ticket, received: float, hold_seconds: float | None) -> None:
        """Take a request. Its ticket has a result then, or will have one.

        Args:
            received: when it came in, by the monotonic clock.
            hold_seconds: how long its proxy lets it wait, if it says so.

        Raises:
            SignalError: it is refused.
        """
        seconds = self._request_seconds
        if hold_seconds is not None:
            seconds = min(hold_seconds, seconds)
        ticket.until = received + self._longest_seconds
        ticket.wait_ms = int((received + seconds - time.monotonic()) * 1000 + 0.5)
        if self._tickets.is_shut and not ticket.is_answer:
            raise self._shutting_down()
        self._tickets.open(ticket)
        try:
            self._matcher.decide(ticket)
        except BaseException:
            self._matcher.close(ticket)
            raise
        if ticket.result is None:
            self._timers.wake()
            if self._tickets.is_shut and not ticket.is_answer:
                self._turn_away(ticket, unless_offered=True)

    def hang_up(self, ticket: Ticket) -> None:
        """The client has left. If its reply is decided already, `begin` will find the connection closed."""
        self._matcher.withdraw(ticket, HungUp())

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for ticket in self._tickets.oldest():
            if ticket.until > now:
                break
            self._store.abandon(ticket.ticket)
            if not self._matcher.resolve(ticket, away()):
                self._matcher.close(ticket)

    def refusal_at_the_end(self) -> SignalError | None:
        """What a request is refused with because the process ends; None while it does not."""
        return self._shutting_down() if self._tickets.is_shut else None

    @property
    def is_shut(self) -> bool:
        """The process ends, and takes no more requests."""
        return self._tickets.is_shut

    # --- the end -------------------------------------------------------------------------------------------

    def shutdown(self, *, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Answer every held request now, and take no more.

        One whose offer is out with a responder has `drain_seconds` more, in which it may get its answer: so a
        restart does not part two peers that have found each other.
        """
        most = min(len(self._tickets) // SPREAD + 1, MOST_RETRY_SECONDS)
        self._retry_seconds = itertools.cycle(range(1, most + 1))
        self._tickets.shut()
        self._turn_all_away(unless_offered=True)
        until = time.monotonic() + drain_seconds
        while len(self._tickets) and time.monotonic() < until:
            time.sleep(0.02)
        self._turn_all_away(unless_offered=False)

    def _turn_all_away(self, *, unless_offered: bool) -> None:
        tickets = iter(self._tickets.all())

        def turn_some_away() -> None:
            for ticket in tickets:  # which the threads share
                self._turn_away(ticket, unless_offered=unless_offered)

        if not self._store.blocks:
            turn_some_away()
            return
        threads = [threading.Thread(target=turn_some_away) for _ in range(AT_ONCE)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    def _turn_away(self, ticket: Ticket, *, unless_offered: bool) -> None:
        self._matcher.withdraw(ticket, self._shutting_down(), unless_offered=unless_offered)

    def _shutting_down(self) -> SignalError:
        return Unavailable("shutting down", next(self._retry_seconds))
