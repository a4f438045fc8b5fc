"""One request, from the decision to the reply; the same for every store.

    open a ticket ─► decide (atomic) ─► deliver ─► wait ─► begin to write ─► finish

A reply that names a handover (`DEMOTE`, `ANSWER`) is not done when it is decided: what could not be written
goes back to the store, and only what was written lets the other peer hear `DELIVERED`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Final, Protocol

from ..errors import HungUp, RateLimited, SignalError, Unavailable, Untrusted
from ..messages import ANSWER, BOUNCE, DEMOTE, NO_PEER, Arrival, Reply, Request
from .identity import Caller
from .limits import Limits
from .stores.base import Outcome, Store, away
from .tickets import OpenTickets, Ticket
from .timers import Timers

DRAIN_SECONDS: Final = 2.0
"""How long a process that ends waits for the answers to the offers that it has out."""


AT_ONCE: Final = 64
"""So many requests are turned away at a time."""


class Connection(Protocol):
    """The client's connection, as far as matching must know of it."""

    def is_open(self) -> bool: ...

    def watch(self, call: Callable[[], None]) -> Callable[[], None]: ...

    def hear_others(self) -> None: ...

    def stop_reading(self) -> None: ...


class Observer(Protocol):
    """Whoever wants to count."""

    def paired(self) -> None:
        """An answer was delivered."""

    def answer_lost(self) -> None:
        """An answer could not be delivered."""

    def ghost(self) -> None:
        """An offer was handed to a peer that had left."""


class Matcher:
    """Links the requests of this process with those of all that share its store."""

    def __init__(
        self, store: Store, tickets: OpenTickets, limits: Limits, timers: Timers, observer: Observer
    ) -> None:
        self._store = store
        self._tickets = tickets
        self._limits = limits
        self._timers = timers
        self._observer = observer
        self._wakes_at: float | None = None
        store.start(self._apply)

    def exchange(self, request: Request, caller: Caller, connection: Connection, *, waited: float) -> Reply:
        """Take a request and hold it until its reply is decided.

        Args:
            waited: seconds since the request came in.

        Raises:
            SignalError: it is refused.
            HungUp: the client left.
        """
        connection.hear_others()  # who left before this request came in is not matched with it
        ticket = self._tickets.open(caller, is_answer=request.is_answer)
        try:
            refusal = self._decide(request, ticket, waited)
            if ticket.result is None and not request.is_answer:
                self._hold(ticket)
            self._wait(ticket, connection)
        finally:
            self._tickets.close(ticket)
            if ticket.has_place:
                self._limits.let_go(caller.address, ticket.id)
        if isinstance(ticket.result, Reply):
            if refusal is not None and ticket.result.type == NO_PEER:
                self._uncount(ticket)
                raise refusal
            return ticket.result
        assert ticket.result is not None
        raise ticket.result

    def begin(self, reply: Reply, caller: Caller, connection: Connection) -> Reply:
        """Just before a reply is written: take what is written indeed."""
        hands_over = reply.type in (ANSWER, DEMOTE)
        is_open = hands_over and connection.is_open()
        if self._tickets.is_shut:
            connection.stop_reading()  # it looks as a hang-up does, so not before we asked
        if not hands_over:
            return reply
        if not is_open:
            self.finish(reply, written=False)
            return Reply(NO_PEER)
        if reply.type == ANSWER:
            if not self._apply(self._store.claim(reply.nonce)).good:
                self._observer.answer_lost()
                return Reply(NO_PEER)  # too late: the responder was told that we are gone
            # Before the write, after which the initiator may be back before we know that it was done.
            self._limits.count_pairing(caller.peer)
        return reply

    def finish(self, reply: Reply, *, written: bool) -> None:
        """The reply that `begin` gave was written to an open connection, or could not be.

        If the store is away it hears nothing of that, and takes it for lost when the time for it is over.
        """
        with suppress(Unavailable):
            self._finish(reply, written)

    def _finish(self, reply: Reply, written: bool) -> None:
        if reply.type == ANSWER:
            outcome = self._store.settle(reply.nonce, written=written)
            if outcome.responder is not None:
                self._limits.count_pairing(outcome.responder)
                self._observer.paired()
            else:
                self._observer.answer_lost()
            self._apply(outcome)
        elif reply.type == DEMOTE and not written:
            self._observer.ghost()
            self._apply(self._store.release(reply.nonce))

    def check_open(self) -> None:
        """Raise Unavailable if the process takes no more."""
        if self._tickets.is_shut:
            raise Unavailable("shutting down")

    def shutdown(self, *, drain_seconds: float = DRAIN_SECONDS) -> None:
        """Answer every held request now, and take no more.

        One whose offer is out with a responder has `drain_seconds` more, in which it may get its answer: so a
        restart does not part two peers that have found each other.
        """
        self._tickets.shut()
        self._turn_all_away(unless_offered=True)
        until = time.monotonic() + drain_seconds
        while len(self._tickets) and time.monotonic() < until:
            time.sleep(0.02)
        self._turn_all_away(unless_offered=False)

    # --- the parts of an exchange --------------------------------------------------------------------------

    def _decide(self, request: Request, ticket: Ticket, waited: float) -> SignalError | None:
        """Ask the store. Returns what a `NO_PEER` means instead, where the request may not wait."""
        arrival = Arrival(
            ticket=ticket.id,
            pool=request.pool,
            peer=ticket.caller.peer,
            bearer=ticket.caller.bearer,
            signal=request.payload,
            digest=request.digest,
            waited_ms=round(waited * 1000),
        )
        refusal = None if request.is_answer else self._tickets.refusal(ticket)
        if refusal is None and request.type == BOUNCE:
            refusal = self._take_place(ticket)  # before, for what it does cannot be undone
        if request.nonce is not None:
            if request.type == BOUNCE:
                outcome = self._store.bounce(arrival, request.nonce, may_wait=refusal is None)
            else:
                outcome = self._store.answer(arrival, request.nonce)
            if self._apply(outcome).good:
                return refusal
        if request.is_replay:
            raise Untrusted("replay")
        self._limits.count_connect(ticket.caller.peer)
        ticket.is_counted = True
        may_wait = refusal is None and not request.is_answer
        self._apply(self._store.connect(arrival, may_wait=may_wait))
        return refusal

    def _hold(self, ticket: Ticket) -> None:
        """It has to wait, but it may not if too many of its address do, in whatever process."""
        refusal = self._take_place(ticket)
        if refusal is not None and self._apply(self._store.withdraw(ticket.id)).good:
            self._uncount(ticket)
            raise refusal

    def _take_place(self, ticket: Ticket) -> RateLimited | None:
        if not ticket.has_place:
            try:
                self._limits.hold(ticket.caller.address, ticket.id)
            except RateLimited as refusal:
                return refusal
            ticket.has_place = True
        return None

    def _uncount(self, ticket: Ticket) -> None:
        """There was no place for it to wait in, so it may ask for one again at once."""
        if ticket.is_counted:
            self._limits.uncount_connect(ticket.caller.peer)

    def _wait(self, ticket: Ticket, connection: Connection) -> None:
        if ticket.result is not None:
            return
        if self._tickets.is_shut:
            self._turn_away(ticket, unless_offered=True)
        unwatch = connection.watch(lambda: self._leave(ticket, connection))
        try:
            ticket.wait()
        finally:
            unwatch()

    def _leave(self, ticket: Ticket, connection: Connection) -> None:
        """The client hung up. If its reply is decided already, `begin` will find the connection closed."""
        if connection.is_open():
            return  # the notice was for an older connection with the same descriptor
        try:
            pending = self._apply(self._store.withdraw(ticket.id)).good
        except Unavailable:
            pending = True  # the store drops it when its time is over
        if pending:
            ticket.resolve(HungUp())
            # Here too, and not only when its own thread wakes, for the newcomer may need its place.
            self._tickets.close(ticket)
            self._limits.let_go(ticket.caller.address, ticket.id)

    def _turn_all_away(self, *, unless_offered: bool) -> None:
        """Many at a time: one after the other would take too long where the store is elsewhere."""
        tickets = iter(self._tickets.tickets())

        def turn_some_away() -> None:
            for ticket in tickets:  # which the threads share
                self._turn_away(ticket, unless_offered=unless_offered)

        threads = [Thread(target=turn_some_away) for _ in range(AT_ONCE)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()

    def _turn_away(self, ticket: Ticket, *, unless_offered: bool = False) -> None:
        try:
            pending = self._apply(self._store.withdraw(ticket.id, unless_offered=unless_offered)).good
        except Unavailable:
            pending = True  # see _leave
        if pending:
            ticket.resolve(Unavailable("shutting down"))

    def _apply(self, outcome: Outcome) -> Outcome:
        """Hand out what was decided. The store's lock is free by now."""
        for delivery in outcome.deliveries:
            if not self._tickets.resolve(delivery.ticket, delivery.reply):
                self.finish(delivery.reply, written=False)
        for ticket in outcome.lost:
            self._tickets.resolve(ticket, away())
        self._arm(outcome.next_ms)
        return outcome

    def _arm(self, next_ms: int | None) -> None:
        """Let `expire` run when something runs out of time."""
        if next_ms is None:
            return
        due = time.monotonic() + next_ms / 1000
        if self._wakes_at is None or due < self._wakes_at:
            self._wakes_at = due
            self._timers.after(next_ms / 1000, self._expire)

    def _expire(self) -> None:
        self._wakes_at = None
        self._apply(self._store.expire())
