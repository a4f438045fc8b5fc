"""Who is linked with whom: the whole state of the server, and every decision about it.

    CONNECT ──► waiting ──► offered ──► answered ──► writing ──► delivered
                   ▲           │            │            │
                   └─ returns ─┘            └── lost ────┘

A request that waits is an *offer*. Handing it to a responder makes a *handover*, named by its nonce. The
offer ends when its handover is answered; it returns to its old place when the responder bounces it, does not
answer in time, or never got it. `docs/architecture.md` has the table of every event at every stage.

Everything here is pure: the time and the nonces are arguments, and each event returns the replies that it
decides. There is no lock, no clock, no randomness and no logging in this file; a store adds the first and the
matcher the rest. Times are integer milliseconds of any one clock. `stores/lua/rules.lua` is the same in Lua,
with the same names in the same order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from ..messages import ANSWER, DELIVERED, DEMOTE, NO_PEER, Arrival, Delivery, Reply
from . import deadlines
from .deadlines import Deadlines
from .pairs import Met, PairMemory
from .pool import Offer, Pool

Nonces = Callable[[], str]
"""Gives a fresh nonce of at least 128 random bits at each call."""


@dataclass(frozen=True, slots=True)
class Times:
    """How long things last, in ms.

    `request` is the longest that an arrival may ask for in its `wait_ms`; no rule reads it.
    """

    request: int
    answer: int
    write: int
    pair_memory: int


class Settled(NamedTuple):
    """The end of an answer.

    Attributes:
        deliveries: what the responder is told.
        responder: the peer whose answer was delivered, or None if it was not.
    """

    deliveries: list[Delivery]
    responder: bytes | None = None


class _Stage(Enum):
    OFFERED = 1
    ANSWERED = 2  # the answer is on its way to the initiator's connection
    WRITING = 3  # its bytes may be leaving
    DELIVERED = 4  # kept for repeats


@dataclass(slots=True, eq=False)
class _Handover:
    nonce: str
    pool: str
    initiator: bytes
    responder: bytes
    bearer: bytes
    offer: Offer | None  # None: the initiator has left, or was answered
    term: int = deadlines.ANSWER  # of its deadline
    stage: _Stage = _Stage.OFFERED
    digest: bytes = b""
    repliers: list[Arrival] = field(default_factory=list)  # the answer, and repeats while it is on its way


class Rules:
    """The pools, the offers and the handovers of one server.

    Every event expects that `expire` was called with the same `now_ms` before it, unless nothing was due.

    Attributes:
        deadlines: what runs out of time; `expire` has nothing to do before their `first_ms`.
    """

    def __init__(self, times: Times) -> None:
        self._times = times
        self._pools: dict[str, Pool] = {}
        self._offers: dict[str, Offer] = {}  # by ticket
        self._handovers: dict[str, _Handover] = {}  # by nonce
        self._pairs = PairMemory()
        self.deadlines = Deadlines()
        self._last_place = 0

    # --- events --------------------------------------------------------------------------------------------

    def connect(self, arrival: Arrival, *, may_wait: bool, nonces: Nonces, now_ms: int) -> list[Delivery]:
        """Match a newcomer with the oldest offer that it may meet, or let it wait.

        Returns:
            Its `DEMOTE`; or nothing, if it waits; or its `NO_PEER`, if it may not.
        """
        found = self._oldest_for(arrival, now_ms)
        if found is not None:
            self._stop_waiting(found)
            return [self._hand_over(found, arrival, nonces, now_ms)]
        if not may_wait:
            return [Delivery(arrival.ticket, Reply(NO_PEER))]
        self._last_place += 1
        offer = Offer(arrival, self._last_place, now_ms + arrival.wait_ms)
        self._offers[arrival.ticket] = offer
        self._wait(offer)
        return []

    def answer(self, arrival: Arrival, nonce: str, *, nonces: Nonces, now_ms: int) -> list[Delivery] | None:
        """Take the answer to the offer that was handed over under `nonce`.

        Returns:
            None if the nonce is not good: nothing was changed. Else the deliveries: `ANSWER` for the
            initiator (the responder's own reply comes from `settle` or `expire`), or the responder's next
            `DEMOTE` or `NO_PEER` if the initiator is gone, or `DELIVERED` for a repeat.
        """
        handover = self._good(arrival, nonce)
        if handover is None:
            return None
        if handover.stage is not _Stage.OFFERED:
            if handover.digest != arrival.digest:
                return None
            if handover.stage is _Stage.DELIVERED:
                return [Delivery(arrival.ticket, Reply(DELIVERED))]
            handover.repliers.append(arrival)
            return []
        offer, handover.offer = handover.offer, None
        if offer is None:
            self._delete(handover)
            return self.connect(arrival, may_wait=False, nonces=nonces, now_ms=now_ms)
        ticket = offer.arrival.ticket
        del self._offers[ticket]
        handover.stage, handover.digest = _Stage.ANSWERED, arrival.digest
        handover.repliers.append(arrival)
        self._set_deadline(handover, deadlines.WRITE, now_ms + self._times.write)
        return [Delivery(ticket, Reply(ANSWER, nonce, arrival.signal))]

    def bounce(
        self, arrival: Arrival, nonce: str, *, may_wait: bool, nonces: Nonces, now_ms: int
    ) -> list[Delivery] | None:
        """Give the offer of `nonce` back, remember the pair, and take the bouncing peer's own offer.

        Returns:
            None if the nonce is not good: nothing was changed. Else the deliveries, as of `connect`; but if
            the peer would have to wait and may not, nothing was changed either, and its nonce stays good.
        """
        handover = self._good(arrival, nonce)
        if handover is None or handover.stage is not _Stage.OFFERED:
            return None
        if not may_wait and self._oldest_for(arrival, now_ms, unwanted=handover.initiator) is None:
            return [Delivery(arrival.ticket, Reply(NO_PEER))]
        self._delete(handover)
        self._remember(handover, Met.BOUNCED, now_ms)
        if not may_wait:  # first, lest the returned offer takes the one that was found
            matched = self.connect(arrival, may_wait=False, nonces=nonces, now_ms=now_ms)
            return matched + self._give_back(handover.offer, nonces, now_ms)
        returned = self._give_back(handover.offer, nonces, now_ms)
        return returned + self.connect(arrival, may_wait=True, nonces=nonces, now_ms=now_ms)

    def release(self, nonce: str, *, nonces: Nonces, now_ms: int) -> list[Delivery]:
        """A `DEMOTE` could not be written: its offer returns at once."""
        handover = self._handovers.get(nonce)
        if handover is None or handover.stage is not _Stage.OFFERED:
            return []
        self._delete(handover)
        return self._give_back(handover.offer, nonces, now_ms)

    def claim(self, nonce: str) -> bool:
        """May the `ANSWER` of this handover be written now? True at most once."""
        handover = self._handovers.get(nonce)
        if handover is None or handover.stage is not _Stage.ANSWERED:
            return False
        handover.stage = _Stage.WRITING
        return True

    def settle(self, nonce: str, *, written: bool, nonces: Nonces, now_ms: int) -> Settled:
        """The `ANSWER` was written to the initiator's open connection, or could not be."""
        handover = self._handovers.get(nonce)
        if handover is None or handover.stage not in (_Stage.ANSWERED, _Stage.WRITING):
            return Settled([])  # too late: the responder was told that the initiator is gone
        if not written:
            return Settled(self._lose(handover, nonces, now_ms))
        self._remember(handover, Met.LINKED, now_ms)
        repliers, handover.repliers = handover.repliers, []
        handover.stage = _Stage.DELIVERED
        self._set_deadline(handover, deadlines.ANSWER, now_ms + self._times.answer)
        return Settled([Delivery(each.ticket, Reply(DELIVERED)) for each in repliers], handover.responder)

    def withdraw(self, ticket: str, *, unless_offered: bool = False) -> bool:
        """Take an offer out, for good.

        Args:
            unless_offered: leave it if it is out with a responder, whose answer may come.

        Returns:
            True if it was there: no reply will come. False if its reply is decided already, or may come.
        """
        offer = self._offers.get(ticket)
        if offer is None or (unless_offered and offer.nonce is not None):
            return False
        if offer.nonce is None:
            self._stop_waiting(offer)
        else:
            # The nonce stays a ticket past the limits until its time is over.
            self._handovers[offer.nonce].offer = None
        del self._offers[ticket]
        return True

    def expire(self, *, nonces: Nonces, now_ms: int) -> list[Delivery]:
        """End what has run out of time."""
        deliveries: list[Delivery] = []
        if now_ms < self.deadlines.first_ms:
            return deliveries
        for name in self.deadlines.take(now_ms):
            handover = self._handovers.get(name)
            if handover is not None:
                deliveries += self._expire_handover(handover, nonces, now_ms)
                continue
            offer = self._offers.get(name)
            if offer is not None and offer.nonce is None:  # else another one that returned just now met it
                self._stop_waiting(offer)
                deliveries.append(self._end(offer))
        return deliveries

    def sweep(self, *, now_ms: int) -> None:
        """Delete the pairs whose time has passed. Nothing depends on when this runs."""
        self._pairs.sweep(now_ms)

    def is_empty(self) -> bool:
        """Is there nothing that can run out of time?"""
        return not (self._offers or self._handovers or self._pairs)

    def statistics(self) -> dict[str, int]:
        """Counts, for tests and operators."""
        offered = [each.arrival.pool for each in self._offers.values() if each.nonce is not None]
        return {
            "pools": len({*self._pools, *offered}),
            "waiting": sum(map(len, self._pools.values())),
            "offered": len(offered),
            "handovers": len(self._handovers),
            "pairs": len(self._pairs),
        }

    def pools(self) -> dict[str, tuple[int, int, int]]:
        """By pool: how many wait, are offered, and are remembered as pairs."""
        offered = Counter(each.arrival.pool for each in self._offers.values() if each.nonce is not None)
        pairs = self._pairs.by_pool()
        names = {*self._pools, *offered, *pairs}
        return {name: (len(self._pools.get(name, ())), offered[name], pairs[name]) for name in names}

    # --- the parts of an event -----------------------------------------------------------------------------

    def _oldest_for(
        self, arrival: Arrival, now_ms: int, *, unwanted: bytes | None = None, returned: Offer | None = None
    ) -> Offer | None:
        """The offer that this arrival gets; not one of a peer that it is about to bounce.

        Or, if it is the arrival of an offer that has returned, the one that is matched with that.
        """
        pool = self._pools.get(arrival.pool)
        if pool is None:
            return None
        name = arrival.pool.encode()

        def met_by(other: bytes) -> Met | None:
            if other == unwanted:
                return Met.BOUNCED
            return self._pairs.met(name, arrival.peer, other, now_ms=now_ms)

        return pool.oldest_for(arrival, met_by, returned)

    def _wait(self, offer: Offer) -> None:
        name = offer.arrival.pool
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = Pool()
        pool.add(offer)
        self.deadlines.add(deadlines.WAIT, offer.arrival.ticket, offer.deadline_ms)

    def _stop_waiting(self, offer: Offer) -> None:
        self.deadlines.drop(deadlines.WAIT, offer.arrival.ticket)
        pool = self._pools[offer.arrival.pool]
        pool.remove(offer)
        if pool.is_empty():
            del self._pools[offer.arrival.pool]

    def _good(self, arrival: Arrival, nonce: str) -> _Handover | None:
        """The handover, if the nonce is presented in its own pool by whom it was given to."""
        handover = self._handovers.get(nonce)
        if handover is None or handover.pool != arrival.pool or handover.bearer != arrival.bearer:
            return None
        return handover

    def _hand_over(self, offer: Offer, responder: Arrival, nonces: Nonces, now_ms: int) -> Delivery:
        """Offer a request to a responder, whose own request ends with it."""
        nonce = nonces()
        offer.nonce = nonce
        handover = _Handover(
            nonce, responder.pool, offer.arrival.peer, responder.peer, responder.bearer, offer
        )
        self._handovers[nonce] = handover
        self.deadlines.add(deadlines.ANSWER, nonce, now_ms + self._times.answer)
        return Delivery(responder.ticket, Reply(DEMOTE, nonce, offer.arrival.signal))

    def _give_back(self, offer: Offer | None, nonces: Nonces, now_ms: int) -> list[Delivery]:
        """Put an offer back in its place, and match it at once with another that waits."""
        if offer is None:
            return []
        offer.nonce = None
        if offer.deadline_ms <= now_ms:
            return [self._end(offer)]
        other = self._oldest_for(offer.arrival, now_ms, returned=offer)
        if other is None:
            self._wait(offer)
            return []
        self._stop_waiting(other)
        older, younger = (offer, other) if offer.place < other.place else (other, offer)
        arrival = younger.arrival
        del self._offers[arrival.ticket]
        return [self._hand_over(older, arrival, nonces, now_ms)]

    def _end(self, offer: Offer) -> Delivery:
        ticket = offer.arrival.ticket
        del self._offers[ticket]
        return Delivery(ticket, Reply(NO_PEER))

    def _lose(self, handover: _Handover, nonces: Nonces, now_ms: int) -> list[Delivery]:
        """The initiator is gone: the peer that answered it gets the next offer, or none."""
        self._delete(handover)
        return [
            delivery
            for each in handover.repliers
            for delivery in self.connect(each, may_wait=False, nonces=nonces, now_ms=now_ms)
        ]

    def _remember(self, handover: _Handover, met: Met, now_ms: int) -> None:
        until_ms = now_ms + self._times.pair_memory
        self._pairs.remember(
            handover.pool.encode(),
            handover.initiator,
            handover.responder,
            met,
            until_ms=until_ms,
            now_ms=now_ms,
        )

    def _set_deadline(self, handover: _Handover, term: int, when_ms: int) -> None:
        self.deadlines.drop(handover.term, handover.nonce)
        self.deadlines.add(term, handover.nonce, when_ms)
        handover.term = term

    def _delete(self, handover: _Handover) -> None:
        del self._handovers[handover.nonce]
        self.deadlines.drop(handover.term, handover.nonce)

    def _expire_handover(self, handover: _Handover, nonces: Nonces, now_ms: int) -> list[Delivery]:
        if handover.stage in (_Stage.ANSWERED, _Stage.WRITING):
            return self._lose(handover, nonces, now_ms)
        self._delete(handover)
        if handover.offer is not None:
            handover.offer.lapsed += (handover.responder,)
        return self._give_back(handover.offer, nonces, now_ms)
