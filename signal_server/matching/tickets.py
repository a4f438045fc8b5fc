"""The open requests of this process, and how each learns its reply.

A ticket is *resolved*, once, with a reply or a refusal. The thread that holds the request sleeps on the
ticket's event, which is one way of noticing; nothing in the rules or the stores knows of it.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter

from ..errors import Full, HungUp, RateLimited, SignalError, Unavailable
from ..messages import Reply
from .identity import Caller

Result = Reply | SignalError | HungUp


class Ticket:
    """One open request.

    Attributes:
        id: unique over all processes.
        caller: who asks.
        result: the reply or refusal, once it is decided.
        is_counted: as a new connect of its peer.
        has_place: it is counted among those of its address that wait.
    """

    __slots__ = ("_event", "caller", "has_place", "id", "is_counted", "result")

    def __init__(self, caller: Caller) -> None:
        self.id = secrets.token_urlsafe(12)
        self.caller = caller
        self.result: Result | None = None
        self.is_counted = False
        self.has_place = False
        self._event = threading.Event()

    def resolve(self, result: Result) -> bool:
        """Give it its result. Returns False if it has one."""
        if self.result is not None:
            return False
        self.result = result
        self._event.set()
        return True

    def wait(self) -> None:
        """Sleep until there is a result."""
        self._event.wait()


class OpenTickets:
    """The tickets of this process.

    Args:
        held_per_address: requests of one address that may wait at once; None for any number.
        max_waiting: requests that may wait at once in this process; None for any number.
    """

    def __init__(self, *, held_per_address: int | None, max_waiting: int | None) -> None:
        self._held_per_address = held_per_address
        self._max_waiting = max_waiting
        self._tickets: dict[str, Ticket] = {}
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tickets)

    def open(self, caller: Caller, *, is_answer: bool) -> Ticket:
        """Open a ticket.

        Raises:
            Unavailable: the process is shutting down, and finishes only what is under way.
        """
        ticket = Ticket(caller)
        with self._lock:
            if self._closed and not is_answer:
                raise Unavailable("shutting down")
            self._tickets[ticket.id] = ticket
            self._held[caller.address] += 1
        return ticket

    def close(self, ticket: Ticket) -> None:
        with self._lock:
            if self._tickets.pop(ticket.id, None) is not None:
                self._held[ticket.caller.address] -= 1
                if not self._held[ticket.caller.address]:
                    del self._held[ticket.caller.address]

    def refusal(self, ticket: Ticket) -> SignalError | None:
        """Why this ticket, which is open, may not wait; None if it may."""
        if self._held_per_address is not None and self._held[ticket.caller.address] > self._held_per_address:
            return RateLimited(1, "held")
        if self._max_waiting is not None and len(self._tickets) > self._max_waiting:
            return Full()
        return None

    def resolve(self, ticket: str, result: Result) -> bool:
        """Give an open request its reply, or its refusal.

        Returns:
            False if the request is not open here any more: the reply reaches nobody.
        """
        found = self._tickets.get(ticket)
        return found is not None and found.resolve(result)

    def shut(self) -> None:
        """Open no more tickets but those of answers."""
        with self._lock:
            self._closed = True

    def tickets(self) -> list[Ticket]:
        """Those that are open."""
        with self._lock:
            return list(self._tickets.values())

    @property
    def is_shut(self) -> bool:
        return self._closed
