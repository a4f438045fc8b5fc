"""Who is linked with whom: the whole state of the server, and every decision about it.

    CONNECT ──► waiting ──► offered ──► answered ──► writing ──► delivered
                   ▲           │            │            │
                   └─ returns ─┘            └── lost ────┘

A request that waits is an *offer*. Handing it to a responder makes a *handover*, named by its nonce. The
offer ends when its handover is answered; it returns to its old place when the responder bounces it, says
nothing in time, or never got it.

Everything here is pure: the time and the nonces are arguments, and each event returns the replies that it
decides. There is no lock, no clock, no randomness and no logging in this file; a store adds the first and the
matcher the rest. Times are integer milliseconds of any one clock.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

from ..messages import ANSWER, DELIVERED, DEMOTE, NO_PEER, Arrival, Delivery, Reply
from .pairs import PairMemory

Nonces = Callable[[], str]
"""Gives a fresh nonce of at least 128 random bits at each call."""


@dataclass(frozen=True, slots=True)
class Times:
    """How long things last, in ms."""

    request: int
    answer: int
    write: int
    pair_memory: int


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of an answer.

    Attributes:
        deliveries: what the responder is told.
        responder: the peer whose answer was delivered, or None if it was not.
    """

    deliveries: list[Delivery]
    responder: str | None = None


@dataclass(slots=True)
class _Offer:
    arrival: Arrival
    place: int  # in the order of receipt, for good
    deadline_ms: int
    nonce: str | None = None  # of the handover that it is out with


class _Stage(Enum):
    OFFERED = 1
    ANSWERED = 2  # the answer is on its way to the initiator's connection
    WRITING = 3  # its bytes may be leaving
    DELIVERED = 4  # kept for repeats


@dataclass(slots=True)
class _Handover:
    pool: str
    initiator: str
    responder: str
    bearer: str
    deadline_ms: int
    offer: _Offer | None  # None: the initiator has left, or was answered
    stage: _Stage = _Stage.OFFERED
    digest: str = ""
    repliers: list[Arrival] = field(
        default_factory=list
    )  # the answer, and repeats of it while it is on its way


class _Pool:
    """The offers that wait in one pool, and who met whom there.

    `_heads` has one live entry for each peer: its oldest offer. So a search steps over the searching peer and
    the peers that it met, and over nothing else, however many wait. Entries that no longer hold are dropped
    when they surface.
    """

    __slots__ = ("_heads", "_offers", "_places", "pairs")

    def __init__(self) -> None:
        self.pairs = PairMemory()
        self._offers: dict[int, _Offer] = {}
        self._places: dict[str, list[int]] = {}  # of each peer's offers, a heap
        self._heads: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._offers)

    def is_empty(self) -> bool:
        return not self._offers and not self.pairs

    def add(self, offer: _Offer) -> None:
        places = self._places.setdefault(offer.arrival.peer, [])
        self._offers[offer.place] = offer
        heapq.heappush(places, offer.place)
        if places[0] == offer.place:
            heapq.heappush(self._heads, (offer.place, offer.arrival.peer))

    def remove(self, offer: _Offer) -> None:
        del self._offers[offer.place]
        peer = offer.arrival.peer
        places = self._places[peer]
        if places[0] != offer.place:
            return
        while places and places[0] not in self._offers:
            heapq.heappop(places)
        if places:
            heapq.heappush(self._heads, (places[0], peer))
        else:
            del self._places[peer]

    def oldest_for(self, peer: str, now_ms: int) -> _Offer | None:
        """The oldest waiting offer of another peer that `peer` has not met."""
        passed_over: list[tuple[int, str]] = []
        found = None
        while self._heads:
            place, owner = self._heads[0]
            offer = self._offers.get(place)
            if offer is None or self._places[owner][0] != place:
                heapq.heappop(self._heads)
            elif owner == peer or self.pairs.have_met(peer, owner, now_ms=now_ms):
                passed_over.append(heapq.heappop(self._heads))
            else:
                found = offer
                break
        for entry in passed_over:
            heapq.heappush(self._heads, entry)
        return found


class Rules:
    """The pools, the offers and the handovers of one server.

    Every event expects that `expire` was called with the same `now_ms` before it.
    """

    def __init__(self, times: Times) -> None:
        self._times = times
        self._pools: dict[str, _Pool] = {}
        self._offers: dict[str, _Offer] = {}  # by ticket
        self._handovers: dict[str, _Handover] = {}  # by nonce
        self._deadlines: list[tuple[int, str, bool]] = []  # (when, ticket or nonce, it is a nonce)
        self._next_place = 0

    # --- events --------------------------------------------------------------------------------------------

    def connect(self, arrival: Arrival, *, may_wait: bool, nonces: Nonces, now_ms: int) -> list[Delivery]:
        """Match a newcomer with the oldest offer that it may meet, or let it wait.

        Returns:
            Its `DEMOTE`; or nothing, if it waits; or its `NO_PEER`, if it may not.
        """
        found = self._pool(arrival.pool).oldest_for(arrival.peer, now_ms)
        if found is not None:
            self._pool(arrival.pool).remove(found)
            return [self._hand_over(found, arrival, nonces, now_ms)]
        if not may_wait:
            self._tidy(arrival.pool)
            return [Delivery(arrival.ticket, Reply(NO_PEER))]
        self._next_place += 1
        offer = _Offer(arrival, self._next_place, now_ms - arrival.waited_ms + self._times.request)
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
            del self._handovers[nonce]
            return self.connect(arrival, may_wait=False, nonces=nonces, now_ms=now_ms)
        del self._offers[offer.arrival.ticket]
        handover.stage, handover.digest = _Stage.ANSWERED, arrival.digest
        handover.repliers.append(arrival)
        self._set_deadline(nonce, handover, now_ms + self._times.write)
        return [Delivery(offer.arrival.ticket, Reply(ANSWER, nonce, arrival.signal))]

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
        if not may_wait and self._pool(arrival.pool).oldest_for(arrival.peer, now_ms) is None:
            self._tidy(arrival.pool)
            return [Delivery(arrival.ticket, Reply(NO_PEER))]
        del self._handovers[nonce]
        self._remember(handover, now_ms)
        if not may_wait:  # first, lest the returned offer takes the one that was found
            matched = self.connect(arrival, may_wait=False, nonces=nonces, now_ms=now_ms)
            return matched + self._return(handover.offer, nonces, now_ms)
        returned = self._return(handover.offer, nonces, now_ms)
        return returned + self.connect(arrival, may_wait=True, nonces=nonces, now_ms=now_ms)

    def release(self, nonce: str, *, nonces: Nonces, now_ms: int) -> list[Delivery]:
        """A `DEMOTE` could not be written: its offer returns at once."""
        handover = self._handovers.get(nonce)
        if handover is None or handover.stage is not _Stage.OFFERED:
            return []
        del self._handovers[nonce]
        return self._return(handover.offer, nonces, now_ms)

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
            return Settled(self._lose(nonce, handover, nonces, now_ms))
        self._remember(handover, now_ms)
        repliers, handover.repliers = handover.repliers, []
        handover.stage = _Stage.DELIVERED
        self._set_deadline(nonce, handover, now_ms + self._times.answer)
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
        del self._offers[ticket]
        if offer.nonce is None:
            self._pool(offer.arrival.pool).remove(offer)
            self._tidy(offer.arrival.pool)
        else:
            # The nonce stays a ticket past the limits until its time is over.
            self._handovers[offer.nonce].offer = None
        return True

    def expire(self, *, nonces: Nonces, now_ms: int) -> list[Delivery]:
        """End what has run out of time."""
        deliveries: list[Delivery] = []
        while self._deadlines and self._deadlines[0][0] <= now_ms:
            due_ms, name, is_nonce = heapq.heappop(self._deadlines)
            if is_nonce:
                deliveries += self._expire_handover(name, due_ms, nonces, now_ms)
            else:
                deliveries += self._expire_offer(name)
        return deliveries

    def sweep(self, *, now_ms: int) -> None:
        """Delete the pairs whose time has passed. Nothing depends on when this runs."""
        for name, pool in list(self._pools.items()):
            pool.pairs.sweep(now_ms)
            self._tidy(name)

    def next_deadline_ms(self) -> int | None:
        """When `expire` has something to do next."""
        while self._deadlines:
            due_ms, name, is_nonce = self._deadlines[0]
            alive = self._is_due(name, due_ms) if is_nonce else self._may_expire(name)
            if alive:
                return due_ms
            heapq.heappop(self._deadlines)
        return None

    def statistics(self) -> dict[str, int]:
        """Counts, for tests and operators."""
        return {
            "pools": len(self._pools),
            "waiting": sum(map(len, self._pools.values())),
            "offered": sum(each.nonce is not None for each in self._offers.values()),
            "handovers": len(self._handovers),
            "pairs": sum(len(pool.pairs) for pool in self._pools.values()),
        }

    def pools(self) -> dict[str, tuple[int, int, int]]:
        """By pool: how many wait, are offered, and are remembered as pairs."""
        offered = Counter(each.arrival.pool for each in self._offers.values() if each.nonce is not None)
        counts = {name: (len(pool), offered[name], len(pool.pairs)) for name, pool in self._pools.items()}
        return {name: (0, count, 0) for name, count in offered.items()} | counts

    # --- the parts of an event -----------------------------------------------------------------------------

    def _pool(self, name: str) -> _Pool:
        pool = self._pools.get(name)
        if pool is None:
            pool = self._pools[name] = _Pool()
        return pool

    def _tidy(self, name: str) -> None:
        if self._pool(name).is_empty():
            del self._pools[name]

    def _good(self, arrival: Arrival, nonce: str) -> _Handover | None:
        """The handover, if the nonce is presented in its own pool by whom it was given to."""
        handover = self._handovers.get(nonce)
        if handover is None or handover.pool != arrival.pool or handover.bearer != arrival.bearer:
            return None
        return handover

    def _wait(self, offer: _Offer) -> None:
        self._pool(offer.arrival.pool).add(offer)
        heapq.heappush(self._deadlines, (offer.deadline_ms, offer.arrival.ticket, False))

    def _hand_over(self, offer: _Offer, responder: Arrival, nonces: Nonces, now_ms: int) -> Delivery:
        """Offer a request to a responder, whose own request ends with it."""
        nonce = nonces()
        offer.nonce = nonce
        handover = _Handover(
            pool=responder.pool,
            initiator=offer.arrival.peer,
            responder=responder.peer,
            bearer=responder.bearer,
            deadline_ms=0,
            offer=offer,
        )
        self._handovers[nonce] = handover
        self._set_deadline(nonce, handover, now_ms + self._times.answer)
        return Delivery(responder.ticket, Reply(DEMOTE, nonce, offer.arrival.signal))

    def _return(self, offer: _Offer | None, nonces: Nonces, now_ms: int) -> list[Delivery]:
        """Put an offer back in its place, and match it at once with another that waits."""
        if offer is None:
            return []
        offer.nonce = None
        pool = self._pool(offer.arrival.pool)
        if offer.deadline_ms <= now_ms:
            return [self._end(offer)]
        other = pool.oldest_for(offer.arrival.peer, now_ms)
        if other is None:
            self._wait(offer)
            return []
        pool.remove(other)
        older, younger = sorted((offer, other), key=lambda each: each.place)
        del self._offers[younger.arrival.ticket]
        return [self._hand_over(older, younger.arrival, nonces, now_ms)]

    def _end(self, offer: _Offer) -> Delivery:
        del self._offers[offer.arrival.ticket]
        self._tidy(offer.arrival.pool)
        return Delivery(offer.arrival.ticket, Reply(NO_PEER))

    def _lose(self, nonce: str, handover: _Handover, nonces: Nonces, now_ms: int) -> list[Delivery]:
        """The initiator is gone: whoever answered it gets the next offer, or none."""
        del self._handovers[nonce]
        return [
            delivery
            for each in handover.repliers
            for delivery in self.connect(each, may_wait=False, nonces=nonces, now_ms=now_ms)
        ]

    def _remember(self, handover: _Handover, now_ms: int) -> None:
        until_ms = now_ms + self._times.pair_memory
        self._pool(handover.pool).pairs.remember(handover.initiator, handover.responder, until_ms=until_ms)

    # --- deadlines -----------------------------------------------------------------------------------------

    def _set_deadline(self, nonce: str, handover: _Handover, deadline_ms: int) -> None:
        handover.deadline_ms = deadline_ms
        heapq.heappush(self._deadlines, (deadline_ms, nonce, True))

    def _is_due(self, nonce: str, due_ms: int) -> bool:
        handover = self._handovers.get(nonce)
        return handover is not None and handover.deadline_ms == due_ms

    def _may_expire(self, ticket: str) -> bool:
        offer = self._offers.get(ticket)
        return offer is not None and offer.nonce is None

    def _expire_handover(self, nonce: str, due_ms: int, nonces: Nonces, now_ms: int) -> Iterable[Delivery]:
        if not self._is_due(nonce, due_ms):
            return []
        handover = self._handovers[nonce]
        if handover.stage in (_Stage.ANSWERED, _Stage.WRITING):
            return self._lose(nonce, handover, nonces, now_ms)
        del self._handovers[nonce]
        return self._return(handover.offer, nonces, now_ms)

    def _expire_offer(self, ticket: str) -> Iterable[Delivery]:
        if not self._may_expire(ticket):
            return []  # it has ended, or it is offered and ends when it returns
        offer = self._offers[ticket]
        self._pool(offer.arrival.pool).remove(offer)
        return [self._end(offer)]
