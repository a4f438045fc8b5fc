"""The offers that wait in one pool, in the order of their receipt."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from ..messages import Arrival
from .pairs import Met


@dataclass(slots=True, eq=False)
class Offer:
    """A request that waits, or is out with a responder.

    Attributes:
        place: in the order of receipt, for good.
        nonce: of the handover that it is out with.
        lapsed: peers that had it and did not answer in time. Each of them took `ANSWER_TIMEOUT` of the
            offer's own time, so they are few. It changes while the offer is out, and not while it waits.
    """

    arrival: Arrival
    place: int
    deadline_ms: int
    nonce: str | None = None
    lapsed: tuple[bytes, ...] = ()


MetBy = Callable[[bytes], Met | None]
"""How the searching peer met another one."""


def _would_lapse_again(offer: Offer, arrival: Arrival, returned: Offer | None) -> bool:
    """Would the responder get what it let lapse before? The older of two requests is the offer."""
    if returned is None or offer.place < returned.place:
        return arrival.peer in offer.lapsed
    return offer.arrival.peer in returned.lapsed


class _Heads:
    """The offers of a pool in which several wait, so that a search is quick however many they are.

    `_heads` has one live entry for each peer: its oldest offer. So a search steps over the searching peer and
    the peers that it met, and over nothing else. Entries that no longer hold are dropped when they surface.
    Whether two *linked* peers may meet again is said by each offer and not by its peer, so those that say
    REMATCH have an order of their own. An offer that somebody let lapse is not for all alike either, so each
    of them has an entry of its own, and hides no other one of its peer.
    """

    __slots__ = ("_heads", "_places", "_rematch", "offers")

    def __init__(self) -> None:
        self.offers: dict[int, Offer] = {}
        self._heads: list[int] = []
        self._places: dict[bytes, list[int]] = {}  # of each peer's offers that nobody let lapse, a heap
        self._rematch: dict[bytes, list[int]] = {}  # the same of those that say REMATCH

    def add(self, offer: Offer) -> None:
        place, peer = offer.place, offer.arrival.peer
        self.offers[place] = offer
        if offer.lapsed:
            heapq.heappush(self._heads, place)
            return
        places = self._places.setdefault(peer, [])
        heapq.heappush(places, place)
        if places[0] == place:
            heapq.heappush(self._heads, place)
        if offer.arrival.rematch:
            heapq.heappush(self._rematch.setdefault(peer, []), place)

    def remove(self, offer: Offer) -> None:
        del self.offers[offer.place]
        if offer.lapsed:
            return
        peer = offer.arrival.peer
        was_head = self._places[peer][0] == offer.place
        if self._drop_gone(self._places, peer) and was_head:
            heapq.heappush(self._heads, self._places[peer][0])
        if offer.arrival.rematch:
            self._drop_gone(self._rematch, peer)

    def oldest_for(self, arrival: Arrival, met_by: MetBy, returned: Offer | None) -> Offer | None:
        heads, peer = self._heads, arrival.peer
        passed_over: list[int] = []
        others: list[tuple[bool, bool, int]] = []  # lapsed, linked, place: the least of them comes first
        found = None
        while heads and found is None:
            place = heads[0]
            offer = self.offers.get(place)
            if offer is None or not (offer.lapsed or self._places[offer.arrival.peer][0] == place):
                heapq.heappop(heads)
                continue
            owner = offer.arrival.peer
            met = Met.BOUNCED if owner == peer else met_by(owner)
            if met is None and not _would_lapse_again(offer, arrival, returned):
                found = offer
                continue
            passed_over.append(heapq.heappop(heads))
            if met is Met.LINKED:
                offer = self._that_rematches(offer) if arrival.rematch else None
            if offer is not None and met is not Met.BOUNCED:
                lapsed = _would_lapse_again(offer, arrival, returned)
                others.append((lapsed, met is Met.LINKED, offer.place))
        for place in passed_over:
            heapq.heappush(heads, place)
        if found is None and others:
            return self.offers[min(others)[-1]]
        return found

    def _that_rematches(self, head: Offer) -> Offer | None:
        """The oldest offer that says REMATCH of those that this head stands for."""
        if head.lapsed:
            return head if head.arrival.rematch else None
        peer = head.arrival.peer
        return self.offers[self._rematch[peer][0]] if peer in self._rematch else None

    def _drop_gone(self, heaps: dict[bytes, list[int]], peer: bytes) -> bool:
        """Let the top of a peer's heap be an offer that is there. Returns False if it has none."""
        places = heaps[peer]
        while places and ((offer := self.offers.get(places[0])) is None or offer.lapsed):
            heapq.heappop(places)
        if not places:
            del heaps[peer]
        return bool(places)


class Pool:
    """The offers that wait in one pool. Most pools hold one at a time; those need no tables."""

    __slots__ = ("_heads", "_only")

    def __init__(self) -> None:
        self._only: Offer | None = None
        self._heads: _Heads | None = None

    def __len__(self) -> int:
        return len(self._heads.offers) if self._heads is not None else int(self._only is not None)

    def is_empty(self) -> bool:
        return self._only is None and self._heads is None

    def add(self, offer: Offer) -> None:
        if self._heads is None:
            if self._only is None:
                self._only = offer
                return
            self._heads = _Heads()
            self._heads.add(self._only)
            self._only = None
        self._heads.add(offer)

    def remove(self, offer: Offer) -> None:
        if self._heads is None:
            assert self._only is offer
            self._only = None
            return
        self._heads.remove(offer)
        if not self._heads.offers:
            self._heads = None

    def oldest_for(self, arrival: Arrival, met_by: MetBy, returned: Offer | None = None) -> Offer | None:
        """The oldest waiting offer of another peer that this one may meet.

        That is one that it has not met; else, if both say REMATCH, one that it was linked with. What a peer
        let lapse, because it did not answer in time, it gets again only if there is no other.

        Args:
            arrival: of who searches.
            met_by: how it met others.
            returned: its offer, if that has come back from a responder, and does not wait yet.
        """
        if self._heads is not None:
            return self._heads.oldest_for(arrival, met_by, returned)
        offer = self._only
        if offer is None or offer.arrival.peer == arrival.peer:
            return None
        met = met_by(offer.arrival.peer)
        if met is None or (met is Met.LINKED and arrival.rematch and offer.arrival.rematch):
            return offer
        return None
