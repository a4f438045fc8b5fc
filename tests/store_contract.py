"""What every store promises, written once: `test_store_memory.py` and `test_store_redis.py` play it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from signal_server.matching.rules import Times
from signal_server.matching.stores.base import Outcome, PoolCounts, Store, pool_hash
from signal_server.messages import ANSWER, DELIVERED, DEMOTE, NO_PEER, Arrival, Delivery

TIMES = Times(request=15_000, answer=5_000, write=3_000, pair_memory=60_000)
SWEEP_MS = 20_000


class World:
    """A store with a clock that stands still, and peers that have only a name."""

    def __init__(self, make: Callable[[Callable[[], int]], Store]) -> None:
        self.now_ms = 1_000_000
        self.store = make(lambda: self.now_ms)
        self._numbers = itertools.count(1)

    def arrival(self, peer: str, signal: str = "", *, pool: str = "open:", waited_ms: int = 0) -> Arrival:
        ticket = f"{peer}-{next(self._numbers)}"
        return Arrival(
            ticket, pool, peer, f"of-{peer}", signal or f"signal of {peer}", f"d-{signal}", waited_ms
        )

    def connect(self, peer: str, *, may_wait: bool = True, pool: str = "open:", waited_ms: int = 0) -> Told:
        arrival = self.arrival(peer, pool=pool, waited_ms=waited_ms)
        return Told(arrival.ticket, self.store.connect(arrival, may_wait=may_wait))

    def answer(self, peer: str, nonce: str, signal: str = "answer", *, pool: str = "open:") -> Told:
        arrival = self.arrival(peer, signal, pool=pool)
        return Told(arrival.ticket, self.store.answer(arrival, nonce))

    def bounce(self, peer: str, nonce: str, *, may_wait: bool = True) -> Told:
        arrival = self.arrival(peer)
        return Told(arrival.ticket, self.store.bounce(arrival, nonce, may_wait=may_wait))

    def handover(self, initiator: str, responder: str) -> tuple[str, str]:
        """Let one offer and the other be demoted. Returns the initiator's ticket, and the nonce."""
        held = self.connect(initiator)
        assert held.outcome.deliveries == []
        demoted = self.connect(responder).own
        assert demoted.reply.type == DEMOTE
        return held.ticket, demoted.reply.nonce

    def pair(self, initiator: str, responder: str) -> None:
        _, nonce = self.handover(initiator, responder)
        self.answer(responder, nonce)
        assert self.store.claim(nonce).good
        assert self.store.settle(nonce, written=True).responder == responder

    def after(self, ms: int) -> list[Delivery]:
        self.now_ms += ms
        return self.store.expire().deliveries

    def counts(self) -> dict[str, int]:
        names = ("waiting", "offered", "handovers", "pairs")
        return {name: self.store.statistics()[name] for name in names}


class Told:
    """What an event decided, seen from the request that brought it."""

    def __init__(self, ticket: str, outcome: Outcome) -> None:
        self.ticket = ticket
        self.outcome = outcome

    @property
    def own(self) -> Delivery:
        (own,) = [each for each in self.outcome.deliveries if each.ticket == self.ticket]
        return own

    @property
    def types(self) -> list[str]:
        return [each.reply.type for each in self.outcome.deliveries]


class StoreContract:
    """The promises. A subclass for each store gives `world`."""

    def test_a_newcomer_gets_the_oldest_offer(self, world: World) -> None:
        # Three that have met each other wait side by side.
        for one, other in itertools.combinations(("ann", "ben", "cat"), 2):
            world.pair(one, other)
        for peer in ("ann", "ben", "cat"):
            assert world.connect(peer).outcome.deliveries == []
        assert [world.connect(peer).own.reply.signal for peer in ("dan", "eve")] == [
            "signal of ann",
            "signal of ben",
        ]

    def test_nobody_meets_himself(self, world: World) -> None:
        world.connect("ann")
        assert world.connect("ann").outcome.deliveries == []
        assert world.counts()["waiting"] == 2

    def test_who_may_not_wait_is_told_at_once(self, world: World) -> None:
        assert world.connect("ann", may_wait=False).types == [NO_PEER]
        assert world.counts()["waiting"] == 0

    def test_pools_never_mix(self, world: World) -> None:
        for pool in ("open:", "signed:", "open:chess", "signed:chess", "open: ", "open:!", "open:chess "):
            assert world.connect("ann", pool=pool).outcome.deliveries == []
        assert world.connect("ben", pool="signed:chess").types == [DEMOTE]

    def test_the_pools_are_counted_apart(self, world: World) -> None:
        world.pair("ann", "ben")
        world.handover("ann", "cat")
        world.connect("dan")
        world.connect("ann", pool="open:chess")
        world.connect("ann", pool="open:chess")
        assert sorted(world.store.pools(), key=lambda each: each.waiting) == [
            PoolCounts(pool_hash("open:"), waiting=1, offered=1, pairs=1),
            PoolCounts(pool_hash("open:chess"), waiting=2, offered=0, pairs=0),
        ]

    def test_an_offer_that_is_out_may_be_left_out(self, world: World) -> None:
        out, nonce = world.handover("ann", "ben")
        waits = world.connect("cat").ticket
        assert not world.store.withdraw(out, unless_offered=True).good
        assert world.store.withdraw(waits, unless_offered=True).good
        assert world.answer("ben", nonce).types == [ANSWER]

    def test_an_offer_is_handed_to_one_at_a_time(self, world: World) -> None:
        world.handover("ann", "ben")
        assert world.connect("cat").outcome.deliveries == []

    def test_signals_come_out_as_they_went_in(self, world: World) -> None:
        signal = 'v=0\r\n"\0\x01 ☎ \U0001f600 \\' + "x" * 60_000
        world.store.connect(world.arrival("ann", signal), may_wait=True)
        nonce = world.connect("ben").own
        assert nonce.reply.signal == signal
        (answer,) = world.answer("ben", nonce.reply.nonce, signal).outcome.deliveries
        assert answer.reply.signal == signal

    def test_an_answer_goes_the_whole_way(self, world: World) -> None:
        ticket, nonce = world.handover("ann", "ben")
        answered = world.answer("ben", nonce)
        assert [(each.ticket, each.reply.type, each.reply.nonce) for each in answered.outcome.deliveries] == [
            (ticket, ANSWER, nonce)
        ]
        assert not world.store.withdraw(ticket).good
        assert world.store.claim(nonce).good
        assert not world.store.claim(nonce).good
        settled = world.store.settle(nonce, written=True)
        assert [(each.ticket, each.reply.type) for each in settled.deliveries] == [
            (answered.ticket, DELIVERED)
        ]
        assert settled.responder == "ben"
        assert world.counts() == {"waiting": 0, "offered": 0, "handovers": 1, "pairs": 1}

    def test_a_repeat_is_delivered_again_and_nothing_is_sent_twice(self, world: World) -> None:
        _, nonce = world.handover("ann", "ben")
        first = world.answer("ben", nonce)
        second = world.answer("ben", nonce)
        assert second.outcome.good
        assert second.outcome.deliveries == []
        assert not world.answer("ben", nonce, "another").outcome.good
        world.store.claim(nonce)
        told = world.store.settle(nonce, written=True).deliveries
        assert [each.ticket for each in told] == [first.ticket, second.ticket]
        assert world.answer("ben", nonce).types == [DELIVERED]
        assert world.after(TIMES.answer) == []
        assert not world.answer("ben", nonce).outcome.good

    def test_a_nonce_is_good_in_its_pool_and_for_its_bearer_only(self, world: World) -> None:
        ticket, nonce = world.handover("ann", "ben")
        before = world.counts()
        assert not world.answer("cat", nonce).outcome.good
        assert not world.answer("ben", nonce, pool="open:chess").outcome.good
        assert not world.bounce("cat", nonce).outcome.good
        for bad in (
            "",
            "0",
            "0.",
            "nonsense",
            "63." + "0" * 40,
            "\0 ☎",
            nonce[:-1],
            nonce + "0",
            nonce.upper(),
        ):
            assert not world.answer("ben", bad).outcome.good
        assert world.counts() == before
        assert [each.ticket for each in world.answer("ben", nonce).outcome.deliveries] == [ticket]

    def test_an_unwritten_answer_sends_the_responder_on(self, world: World) -> None:
        _, nonce = world.handover("ann", "ben")
        answered = world.answer("ben", nonce)
        world.connect("cat")
        world.store.claim(nonce)
        (told,) = world.store.settle(nonce, written=False).deliveries
        assert (told.ticket, told.reply.type, told.reply.signal) == (answered.ticket, DEMOTE, "signal of cat")

    def test_an_answer_that_nobody_writes_is_lost_in_time(self, world: World) -> None:
        _, nonce = world.handover("ann", "ben")
        answered = world.answer("ben", nonce)
        assert world.after(TIMES.write - 1) == []
        assert [(each.ticket, each.reply.type) for each in world.after(1)] == [(answered.ticket, NO_PEER)]
        assert not world.store.claim(nonce).good
        assert world.store.settle(nonce, written=True) == world.store.settle("0-no", written=True)

    def test_an_initiator_that_left_sends_the_responder_on(self, world: World) -> None:
        ticket, nonce = world.handover("ann", "ben")
        assert world.store.withdraw(ticket).good
        assert not world.store.withdraw(ticket).good
        told = world.answer("ben", nonce)
        assert told.outcome.good
        assert told.types == [NO_PEER]

    def test_a_withdrawn_offer_is_never_handed_over(self, world: World) -> None:
        held = world.connect("ann")
        assert world.store.withdraw(held.ticket).good
        assert world.connect("ben").outcome.deliveries == []

    def test_a_bounced_offer_returns_to_its_place(self, world: World) -> None:
        _, nonce = world.handover("ann", "ben")
        assert world.bounce("ben", nonce).outcome.deliveries == []
        assert world.connect("ben").outcome.deliveries == [], "the two are remembered"
        assert world.connect("cat").own.reply.signal == "signal of ann"

    def test_a_bounce_that_may_not_wait_changes_nothing(self, world: World) -> None:
        _, nonce = world.handover("ann", "ben")
        told = world.bounce("ben", nonce, may_wait=False)
        assert told.outcome.good
        assert told.types == [NO_PEER]
        assert world.answer("ben", nonce).outcome.good
        _, nonce = world.handover("cat", "dan")
        world.connect("eve")
        assert world.bounce("dan", nonce, may_wait=False).own.reply.signal == "signal of eve"

    def test_a_released_offer_meets_who_waits_and_stays_the_initiator(self, world: World) -> None:
        _, nonce = world.handover("ann", "ben")
        younger = world.connect("cat")
        (told,) = world.store.release(nonce).deliveries
        assert (told.ticket, told.reply.type, told.reply.signal) == (younger.ticket, DEMOTE, "signal of ann")

    def test_no_answer_in_time_returns_the_offer(self, world: World) -> None:
        _, nonce = world.handover("ann", "ben")
        assert world.after(TIMES.answer) == []
        assert world.counts()["waiting"] == 1
        assert not world.answer("ben", nonce).outcome.good

    def test_waiting_ends_in_time_and_counts_from_the_receipt(self, world: World) -> None:
        held = world.connect("ann", waited_ms=400)
        assert world.after(TIMES.request - 401) == []
        assert [(each.ticket, each.reply.type) for each in world.after(1)] == [(held.ticket, NO_PEER)]
        assert not world.store.withdraw(held.ticket).good

    def test_an_offered_request_waits_for_its_answer_past_its_time(self, world: World) -> None:
        held = world.connect("ann")
        world.after(TIMES.request - 1)
        world.connect("ben")
        assert world.after(TIMES.answer - 1) == []
        assert [(each.ticket, each.reply.type) for each in world.after(1)] == [(held.ticket, NO_PEER)]

    def test_a_pair_is_remembered_and_forgotten(self, world: World) -> None:
        world.pair("ann", "ben")
        assert world.connect("ben").outcome.deliveries == []
        assert world.connect("ann").outcome.deliveries == []
        assert world.connect("ann", pool="open:chess").outcome.deliveries == []
        assert world.connect("ben", pool="open:chess").types == [DEMOTE]
        world.after(TIMES.pair_memory)
        world.connect("ann")
        assert world.connect("ben").types == [DEMOTE]

    def test_what_was_seen_is_seen_for_its_time(self, world: World) -> None:
        assert not world.store.remember_once("one", seconds=60)
        assert world.store.remember_once("one", seconds=60)
        assert not world.store.remember_once("another ☎", seconds=60)
        world.store.forget_once("one")
        world.store.forget_once("never seen")
        assert not world.store.remember_once("one", seconds=60)
        assert world.store.remember_once("one", seconds=60)

    def test_it_is_ready(self, world: World) -> None:
        assert world.store.is_ready()

    def test_nothing_is_left_after_all_deadlines(self, world: World) -> None:
        world.pair("ann", "ben")
        world.handover("cat", "dan")
        world.connect("eve")
        for _ in range(4):
            world.after(TIMES.pair_memory)
        assert world.counts() | {"pairs": 0} == {"waiting": 0, "offered": 0, "handovers": 0, "pairs": 0}
