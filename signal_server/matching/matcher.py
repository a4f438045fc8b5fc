"""Takes a request to the store, and hands out what the store decides; the same for every store.

ticket ─► may it wait? ─► its nonce, or a new connect ─► the store decides ─► deliveries ─► tickets
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from ..errors import BadRequest, RateLimited, SignalError, Unavailable, Untrusted
from ..messages import ANSWER, DEMOTE, NO_PEER, Reply
from .limits import Limits
from .stores.base import Name, Outcome, Store, away
from .tickets import OpenTickets, Result, Ticket


class Observer(Protocol):
    """Is told of what matching counts."""

    def paired(self) -> None:
        """An answer was delivered."""

    def answer_lost(self) -> None:
        """An answer could not be delivered."""

    def ghost(self) -> None:
        """An offer was handed to a peer that had left."""


class Matcher:
    """Links the requests of this process with those of all that share its store."""

    def __init__(self, store: Store, tickets: OpenTickets, limits: Limits, observer: Observer) -> None:
        self._store = store
        self._tickets = tickets
        self._limits = limits
        self._observer = observer
        store.start(self.apply)

    # --- a request comes -----------------------------------------------------------------------------------

    def decide(self, ticket: Ticket) -> None:
        """Ask the store about a request, whose ticket is open. It has a result then, or waits for one.

        Raises:
            SignalError: it is refused.
        """
        if ticket.name and not self._take_name(ticket):
            return
        nonce = ticket.nonce
        if nonce is None or ticket.is_bounce:
            ticket.refusal = self._tickets.refusal(ticket)
            if ticket.is_bounce and ticket.refusal is None:
                ticket.refusal = self._take_place(ticket)  # before, for what it does cannot be undone
        if nonce is None or not self._present(nonce, ticket):
            self._connect(ticket)
        if ticket.result is None and self._limits.has_places and not ticket.is_answer:
            self._hold(ticket)

    def _take_name(self, ticket: Ticket) -> bool:
        """Returns False if the request has ended, as by a LEAVE that came before it."""
        taken = self._store.take_name(ticket.name, ticket.leaver, ticket.ticket, ticket.pool)
        if taken is not Name.TAKEN:
            ticket.name = ""  # not this one's to drop
        if taken is Name.IN_USE:
            raise BadRequest("REQUEST is the name of another request that is open")
        if taken is Name.LEFT:
            self.resolve(ticket, Reply(NO_PEER))
        return ticket.result is None  # it may have ended while the store was asked

    def _present(self, nonce: str, ticket: Ticket) -> bool:
        """Answer or bounce the offer of this nonce. Returns False if it is not good."""
        if ticket.is_bounce:
            return self._bring(
                ticket, self._store.bounce(ticket, nonce, may_wait=ticket.refusal is None)
            ).good
        return self.apply(self._store.answer(ticket, nonce)).good

    def _connect(self, ticket: Ticket) -> None:
        if ticket.is_replay:
            raise Untrusted("replay")
        may_wait = ticket.refusal is None and (ticket.nonce is None or ticket.is_bounce)
        had_place = ticket.has_place
        self._limits.count_connect(ticket, may_wait=may_wait)
        ticket.is_counted = True
        try:
            outcome = self._store.connect(ticket, may_wait=may_wait)
        except RateLimited:
            ticket.has_place = had_place
            raise
        if outcome.is_crowded or any(id == ticket.ticket for id, _ in outcome.deliveries):
            ticket.has_place = had_place  # it does not wait, so it took none
        self._bring(ticket, outcome)
        if outcome.is_crowded:
            self._uncount(ticket)
            raise RateLimited(1, "held")

    def _bring(self, ticket: Ticket, outcome: Outcome) -> Outcome:
        """Hand out what became of a request that may wait in the store now."""
        has_ended = ticket.result is not None  # while the store was asked, as in a process that was stopped
        self.apply(outcome)
        if has_ended:
            with suppress(Unavailable):  # the store drops it when its time is over
                self.apply(self._store.withdraw(ticket.ticket))
            if ticket.has_place:
                self._limits.leave_place(ticket.address, ticket.ticket)
        return outcome

    def _hold(self, ticket: Ticket) -> None:
        """The request has to wait, but it may not if too many of its address do, in whatever process."""
        refusal = self._take_place(ticket)
        if refusal is not None and self.apply(self._store.withdraw(ticket.ticket)).good:
            self._uncount(ticket)
            self.resolve(ticket, refusal)

    def _take_place(self, ticket: Ticket) -> RateLimited | None:
        if self._limits.has_places and not ticket.has_place:
            ticket.has_place = True  # before, for it may end meanwhile, and leaves its place then
            if not self._limits.take_place(ticket.address, ticket.ticket):
                ticket.has_place = False
                return RateLimited(1, "held")
        return None

    def _uncount(self, ticket: Ticket) -> None:
        """There was no place for it to wait in, so its peer may ask for one again at once."""
        if ticket.is_counted:
            self._limits.uncount_connect(ticket.peer)

    # --- a reply goes --------------------------------------------------------------------------------------

    def begin(self, ticket: Ticket, is_open: Callable[[], bool]) -> Reply:
        """Take the result of a ticket, just before it is written; what is returned is written.

        Args:
            is_open: tells whether the client's connection is, as of now.

        Raises:
            SignalError: the request is refused.
            HungUp: the client has left; there is nothing to write.
        """
        reply = ticket.result
        if not isinstance(reply, Reply):
            assert reply is not None
            raise reply
        if reply.type not in (ANSWER, DEMOTE):
            return reply
        if not is_open():
            self.finish(reply, written=False)
            return Reply(NO_PEER)
        if reply.type == ANSWER:
            if not self.apply(self._store.claim(reply.nonce)).good:
                self._observer.answer_lost()
                return Reply(NO_PEER)  # too late: the responder was told that this peer is gone
            # Before the write, after which the initiator may be back before we know that it was done.
            self._limits.count_pairing(ticket.peer)
        return reply

    def finish(self, reply: Reply, *, written: bool) -> None:
        """Say whether a reply that `begin` gave was written to an open connection. Once for each.

        If the store is away it hears nothing of that, and takes it for lost when the time for it is over.
        """
        try:
            outcome = self._finish(reply, written)
        except Unavailable:
            return
        if outcome is not None:
            self.apply(outcome)

    def _finish(self, reply: Reply, written: bool) -> Outcome | None:
        if reply.type == ANSWER:
            outcome = self._store.settle(reply.nonce, written=written)
            if outcome.responder is None:
                self._observer.answer_lost()
            else:
                self._limits.count_pairing(outcome.responder)
                self._observer.paired()
            return outcome
        if reply.type == DEMOTE and not written:
            self._observer.ghost()
            return self._store.release(reply.nonce)
        return None

    # --- a request goes ------------------------------------------------------------------------------------

    def withdraw(self, ticket: Ticket, result: SignalError | Result, *, unless_offered: bool = False) -> None:
        """Take a request out of the store, and end it with `result`, unless its reply is decided already."""
        try:
            pending = self.apply(self._store.withdraw(ticket.ticket, unless_offered=unless_offered)).good
        except Unavailable:
            pending = True  # the store drops it when its time is over
        if pending:
            self.resolve(ticket, result)

    def leave(self, name: str, leaver: bytes) -> None:
        """End the request of this name, wherever it waits, as if its client had hung up."""
        self.apply(self._store.leave(name, leaver))

    def expire(self) -> None:
        """End what has run out of time."""
        self.apply(self._store.expire())

    def close(self, ticket: Ticket) -> None:
        """The request is over: its place and its name are free."""
        if self._tickets.close(ticket):
            if ticket.has_place:
                self._limits.leave_place(ticket.address, ticket.ticket)
            if ticket.name:
                self._store.drop_name(ticket.name)

    # --- what was decided ----------------------------------------------------------------------------------

    def apply(self, outcome: Outcome) -> Outcome:
        """Hand out what was decided. The store's lock is free by now.

        What reaches nobody goes back to the store, which decides anew: in a loop, however many are gone.
        """
        unheard, by_id = [], self._tickets.by_id
        for id, reply in outcome.deliveries:
            ticket = by_id.get(id)
            if ticket is None or not self.resolve(ticket, reply):
                unheard.append(reply)
        if unheard or outcome.lost:
            self._give_back(deque(unheard), [*outcome.lost])
        return outcome

    def _give_back(self, unheard: deque[Reply], lost: list[str]) -> None:
        """Let the store decide anew on replies that reached nobody. What it has lost gets a refusal."""
        while unheard:
            with suppress(Unavailable):
                again = self._finish(unheard.popleft(), written=False)
                for id, reply in again.deliveries if again is not None else ():
                    ticket = self._tickets.by_id.get(id)
                    if ticket is None or not self.resolve(ticket, reply):
                        unheard.append(reply)
                lost += again.lost if again is not None else ()
        for id in lost:
            ticket = self._tickets.by_id.get(id)
            if ticket is not None:
                self.resolve(ticket, away())

    def resolve(self, ticket: Ticket, result: Result) -> bool:
        """End a request. Returns False if it has ended."""
        if ticket.result is not None:
            return False
        self.close(ticket)
        if ticket.refusal is not None and type(result) is Reply and result.type == NO_PEER:
            self._uncount(ticket)
            result = ticket.refusal
        ticket.result = result
        if ticket.callback is not None:
            ticket.callback()
        return True
