"""What every store promises, written once: `test_store_memory.py` and `test_store_redis.py` play it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from hashlib import blake2b

import offer_life
from signal_server.matching.rules import Times
from signal_server.matching.stores.base import LEAVE_SECONDS, Name, Outcome, PoolCounts, Store, pool_hash
from signal_server.messages import ANSWER, DELIVERED, DEMOTE, NO_PEER, Arrival, Delivery

TIMES = Times(request=15_000, answer=5_000, write=3_000, pair_memory=60_000)
SWEEP_MS = 20_000


def peer_of(name: str) -> bytes:
    return name.encode().ljust(16, b".")


def leaver_of(name: str) -> bytes:
    return f"{name} leaves".encode().ljust(16, b".")


class World:
    """A store with a clock that stands still, and peers that have only a name."""

    def __init__(self, make: Callable[[Callable[[], int]], Store]) -> None:
        self.now_ms = 1_000_000
        self.store = make(lambda: self.now_ms)
        self._numbers = itertools.count(1)

    def arrival(
        self,
        peer: str,
        signal: str = "",
        *,
        pool: str = "open:",
        wait_ms: int = TIMES.request,
        rematch: bool = False,
        name: str = "",
    ) -> Arrival:
        return Arrival(
            ticket=f"{peer}-{next(self._numbers)}",
            pool=pool,
            peer=peer_of(peer),
            bearer=f"of {peer}".encode().ljust(16, b"."),
            signal=signal or f"signal of {peer}",
            digest=blake2b(signal.encode(), digest_size=16).digest(),
            wait_ms=wait_ms,
            rematch=rematch,
            name=name,
            leaver=leaver_of(peer) if name else b"",
        )

    def connect(
        self,
        peer: str,
        *,
        may_wait: bool = True,
        pool: str = "open:",
        wait_ms: int = TIMES.request,
        rematch: bool = False,
    ) -> Told:
        arrival = self.arrival(peer, pool=pool, wait_ms=wait_ms, rematch=rematch)
        return Told(arrival.ticket, self.store.connect(arrival, may_wait=may_wait))

    def named(self, peer: str, name: str) -> Arrival:
        """A request with a name, which is taken already."""
        arrival = self.arrival(peer, name=name)
        assert self.take_name(arrival) is Name.TAKEN
        return arrival

    def take_name(self, arrival: Arrival) -> Name:
        return self.store.take_name(arrival.name, arrival.leaver, arrival.ticket, arrival.pool)

    def answer(self, peer: str, nonce: str, signal: str = "answer", *, pool: str = "open:") -> Told:
        arrival = self.arrival(peer, signal, pool=pool)
        return Told(arrival.ticket, self.store.answer(arrival, nonce))

    def bounce(self, peer: str, nonce: str, *, may_wait: bool = True, rematch: bool = False) -> Told:
        arrival = self.arrival(peer, rematch=rematch)
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
        self.link(responder, nonce)

    def link(self, responder: str, nonce: str) -> None:
        self.answer(responder, nonce)
        assert self.store.claim(nonce).good
        assert self.store.settle(nonce, written=True).responder == peer_of(responder)

    def bounced(self, initiator: str, responder: str) -> None:
        """The two are a bounced pair, and neither waits."""
        ticket, nonce = self.handover(initiator, responder)
        bounced = self.bounce(responder, nonce)
        assert bounced.outcome.deliveries == []
        for each in (ticket, bounced.ticket):
            assert self.store.withdraw(each).good

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
        assert settled.responder == peer_of("ben")
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
        held = world.connect("ann", wait_ms=TIMES.request - 400)
        assert world.after(TIMES.request - 401) == []
        assert [(each.ticket, each.reply.type) for each in world.after(1)] == [(held.ticket, NO_PEER)]
        assert not world.store.withdraw(held.ticket).good

    def test_an_offered_request_waits_for_its_answer_past_its_time(self, world: World) -> None:
        held = world.connect("ann")
        world.after(TIMES.request - 1)
        world.connect("ben")
        assert world.after(TIMES.answer - 1) == []
        assert [(each.ticket, each.reply.type) for each in world.after(1)] == [(held.ticket, NO_PEER)]

    def test_an_offer_that_returns_at_the_end_of_its_time_meets_nobody(self, world: World) -> None:
        held = world.connect("ann", wait_ms=TIMES.answer)
        world.connect("ben")
        world.connect("cat")
        (told,) = world.after(TIMES.answer)
        assert (told.ticket, told.reply.type) == (held.ticket, NO_PEER)

    def test_a_pair_is_remembered_and_forgotten(self, world: World) -> None:
        world.pair("ann", "ben")
        assert world.connect("ben").outcome.deliveries == []
        assert world.connect("ann").outcome.deliveries == []
        assert world.connect("ann", pool="open:chess").outcome.deliveries == []
        assert world.connect("ben", pool="open:chess").types == [DEMOTE]
        world.after(TIMES.pair_memory)
        world.connect("ann")
        assert world.connect("ben").types == [DEMOTE]

    def test_two_that_were_linked_meet_again_if_both_say_rematch(self, world: World) -> None:
        world.pair("ann", "ben")
        first = world.connect("ann", rematch=True)
        assert world.connect("ben").outcome.deliveries == [], "only one of them says so"
        told = world.connect("ben", rematch=True)
        assert told.own.reply.signal == "signal of ann"
        world.link("ben", told.own.reply.nonce)
        assert not world.store.withdraw(first.ticket).good

    def test_somebody_new_comes_before_a_rematch(self, world: World) -> None:
        world.pair("ann", "ben")
        world.pair("zoe", "ben")
        world.pair("ann", "cat")
        world.pair("ben", "cat")
        world.pair("zoe", "cat")
        world.connect("cat")
        world.connect("ben", rematch=True)
        world.connect("zoe")
        assert world.connect("ann", rematch=True).own.reply.signal == "signal of zoe", "she is new"
        assert world.connect("ann", rematch=True).own.reply.signal == "signal of ben", "cat does not say so"
        assert world.connect("ann", rematch=True).outcome.deliveries == []
        assert world.connect("ann", pool="open:chess", rematch=True).outcome.deliveries == []

    def test_the_second_offer_of_a_peer_may_say_rematch(self, world: World) -> None:
        world.pair("ann", "ben")
        world.connect("ann", rematch=False)
        second = world.arrival("ann", "the second", rematch=True)
        world.store.connect(second, may_wait=True)
        told = world.connect("ben", rematch=True)
        assert told.own.reply.signal == "the second"
        world.store.release(told.own.reply.nonce)
        world.store.withdraw(second.ticket)
        assert world.connect("ben", rematch=True).outcome.deliveries == []

    def test_a_bounced_pair_stays_apart_for_its_time(self, world: World) -> None:
        held = world.arrival("ann", rematch=True)
        world.store.connect(held, may_wait=True)
        nonce = world.connect("ben", rematch=True).own.reply.nonce
        assert world.bounce("ben", nonce, rematch=True).outcome.deliveries == []
        assert world.connect("ben", rematch=True).outcome.deliveries == []
        world.after(TIMES.pair_memory)
        world.connect("ann", rematch=True)
        assert world.connect("ben", rematch=True).types == [DEMOTE]

    def test_a_linked_pair_that_bounces_stays_apart(self, world: World) -> None:
        world.pair("ann", "ben")
        world.connect("ann", rematch=True)
        nonce = world.connect("ben", rematch=True).own.reply.nonce
        world.bounce("ben", nonce, rematch=True)
        assert world.counts()["pairs"] == 1
        assert world.connect("ben", rematch=True).outcome.deliveries == []

    def test_a_link_does_not_make_a_bounce_a_link(self, world: World) -> None:
        _, linking = world.handover("ann", "ben")
        world.connect("ben")
        bouncing = world.connect("ann").own.reply.nonce
        world.bounce("ann", bouncing, rematch=True)
        world.link("ben", linking)
        assert world.counts()["pairs"] == 1
        world.connect("ann", rematch=True)
        assert world.connect("ben", rematch=True).outcome.deliveries == []

    def test_a_returned_offer_meets_again_who_waits(self, world: World) -> None:
        world.pair("ann", "ben")
        world.connect("ann", rematch=True)
        nonce = world.connect("cat").own.reply.nonce
        waits = world.connect("ben", rematch=True)
        (told,) = world.store.release(nonce).deliveries
        assert (told.ticket, told.reply.signal) == (waits.ticket, "signal of ann")

    def test_what_a_peer_let_lapse_it_gets_again_only_if_nobody_else_waits(self, world: World) -> None:
        world.bounced("ann", "cat")
        world.connect("ann")
        world.connect("cat")
        assert world.connect("ben").own.reply.signal == "signal of ann"
        assert world.after(TIMES.answer) == []
        assert world.connect("ben").own.reply.signal == "signal of cat", "ann is older, but he had her"
        assert world.connect("ben").own.reply.signal == "signal of ann", "cat is out, and two must link"
        assert world.after(TIMES.answer) == []
        assert world.connect("ben").own.reply.signal == "signal of ann", "both lapsed, and she is the older"

    def test_the_same_peer_has_other_offers(self, world: World) -> None:
        for text in ("first", "second", "third"):
            world.store.connect(world.arrival("ann", text), may_wait=True)
        for text in ("first", "second"):
            assert world.connect("ben").own.reply.signal == text
            world.after(TIMES.answer)
        assert world.connect("ben").own.reply.signal == "third"
        assert [world.connect(peer).own.reply.signal for peer in ("cat", "dan")] == ["first", "second"]

    def test_what_lapsed_returns_to_somebody_else_who_waits(self, world: World) -> None:
        world.bounced("ben", "cat")
        world.handover("ann", "ben")
        slow, other = world.connect("ben").ticket, world.connect("cat").ticket
        (told,) = world.after(TIMES.answer)
        assert (told.ticket, told.reply.signal) == (other, "signal of ann"), "ben is older, but had her"
        (told,) = world.after(TIMES.answer)
        assert (told.ticket, told.reply.signal) == (slow, "signal of ann"), "nobody else is there"

    def test_who_let_an_offer_lapse_still_offers_its_own(self, world: World) -> None:
        world.bounced("ben", "cat")
        _, out = world.handover("ben", "dan")
        world.handover("ann", "ben")
        world.store.release(out)
        world.connect("cat")
        (told,) = world.after(TIMES.answer)
        assert (told.reply.type, told.reply.signal) == (DEMOTE, "signal of ben"), (
            "it is older, and another one"
        )

    def test_a_friend_comes_before_what_lapsed(self, world: World) -> None:
        world.bounced("ann", "cat")
        world.bounced("ann", "dan")
        world.bounced("cat", "dan")
        world.pair("cat", "ben")
        world.pair("dan", "ben")
        for peer in ("ann", "cat", "dan"):
            world.connect(peer, rematch=True)
        told = []
        for ms in (TIMES.answer, TIMES.answer, 0, 0):
            told.append(world.connect("ben", rematch=True).own.reply.signal)
            world.after(ms)
        assert told == [f"signal of {peer}" for peer in ("ann", "cat", "dan", "ann")]

    def test_of_what_lapsed_a_friend_comes_last(self, world: World) -> None:
        world.bounced("ann", "cat")
        world.pair("ann", "ben")
        world.connect("ann", rematch=True)
        assert world.connect("ben", rematch=True).own.reply.signal == "signal of ann"
        world.connect("cat", rematch=True)
        assert world.connect("ben", rematch=True).own.reply.signal == "signal of cat"
        world.after(TIMES.answer)
        assert world.connect("ben", rematch=True).own.reply.signal == "signal of cat"

    def test_what_was_not_written_or_bounced_did_not_lapse(self, world: World) -> None:
        world.bounced("ann", "cat")
        _, nonce = world.handover("ann", "ben")
        world.connect("cat")
        world.store.release(nonce)
        assert world.connect("ben").own.reply.signal == "signal of ann"

    def test_a_leave_ends_the_request_of_its_name(self, world: World) -> None:
        held = world.named("ann", "a name")
        world.store.connect(held, may_wait=True)
        (told,) = world.store.leave("a name", leaver_of("ann")).deliveries
        assert (told.ticket, told.reply.type) == (held.ticket, NO_PEER)
        assert world.counts()["waiting"] == 0
        world.store.drop_name("a name")
        assert world.connect("ben").outcome.deliveries == []

    def test_a_leave_of_another_ends_nothing(self, world: World) -> None:
        world.store.connect(world.named("ann", "a name"), may_wait=True)
        assert world.store.leave("a name", leaver_of("ben")).deliveries == []
        assert world.store.leave("another name", leaver_of("ann")).deliveries == []
        assert world.connect("ben").types == [DEMOTE]

    def test_a_leave_ends_an_offer_that_is_out(self, world: World) -> None:
        held = world.named("ann", "a name")
        world.store.connect(held, may_wait=True)
        nonce = world.connect("ben").own.reply.nonce
        (told,) = world.store.leave("a name", leaver_of("ann")).deliveries
        assert told.ticket == held.ticket
        assert world.answer("ben", nonce).types == [NO_PEER]

    def test_a_name_in_use_is_refused(self, world: World) -> None:
        world.named("ann", "a name")
        assert world.take_name(world.arrival("ben", name="a name")) is Name.IN_USE
        assert world.take_name(world.arrival("ann", name="a name")) is Name.IN_USE
        world.store.drop_name("a name")
        assert world.take_name(world.arrival("ben", name="a name")) is Name.TAKEN

    def test_a_leave_that_comes_first_ends_its_request(self, world: World) -> None:
        assert world.store.leave("a name", leaver_of("ann")).deliveries == []
        assert world.take_name(world.arrival("ben", name="a name")) is Name.TAKEN, "it is not ben's"
        world.store.drop_name("a name")
        world.store.leave("another name", leaver_of("ann"))
        assert world.take_name(world.arrival("ann", name="another name")) is Name.LEFT

    def test_a_leave_of_another_before_it_hides_no_leave_that_comes_first(self, world: World) -> None:
        for who in ("ben", "ann", "cat"):
            world.store.leave("a name", leaver_of(who))
        assert world.take_name(world.arrival("ann", name="a name")) is Name.LEFT

    def test_a_leave_that_comes_with_its_request_ends_it(self, world: World) -> None:
        late, soon = world.named("ann", "a name"), world.named("cat", "another name")
        world.connect("ben")
        world.store.leave("a name", leaver_of("ann"))
        world.store.leave("another name", leaver_of("cat"))
        (told,) = world.store.connect(soon, may_wait=True).deliveries
        assert (told.ticket, told.reply.type) == (soon.ticket, NO_PEER), "not even with ben, who waits"
        world.after(round(LEAVE_SECONDS * 1000))
        assert [each.reply.type for each in world.store.connect(late, may_wait=True).deliveries] == [DEMOTE]

    def test_a_leave_after_the_answer_is_too_late(self, world: World) -> None:
        held = world.named("ann", "a name")
        world.store.connect(held, may_wait=True)
        nonce = world.connect("ben").own.reply.nonce
        world.answer("ben", nonce)
        assert world.store.leave("a name", leaver_of("ann")).deliveries == []
        assert world.store.claim(nonce).good

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

    def test_a_bounce_that_may_not_wait_does_not_count_on_the_peer_that_it_bounces(
        self, world: World
    ) -> None:
        ticket, nonce = world.handover("ann", "ben")
        world.connect("ann")
        before = world.counts()
        assert world.bounce("ben", nonce, may_wait=False).types == [NO_PEER]
        assert world.counts() == before
        assert [each.ticket for each in world.answer("ben", nonce).outcome.deliveries] == [ticket]

    def test_a_friend_is_found_behind_its_own_older_offer_that_does_not_say_so(self, world: World) -> None:
        world.pair("friend", "me")
        older = world.connect("friend")
        for text in ("second", "third"):
            world.store.connect(world.arrival("friend", text, rematch=True), may_wait=True)
        told = [world.connect("me", rematch=True).own.reply.signal for _ in range(2)]
        assert told == ["second", "third"]
        assert world.connect("me", rematch=True, may_wait=False).types == [NO_PEER]
        assert world.store.withdraw(older.ticket).good

    def test_a_friends_offer_that_returns_meets_who_waits(self, world: World) -> None:
        world.pair("ann", "ben")
        world.connect("ann", rematch=True)
        nonce = world.connect("cat").own.reply.nonce
        waits = world.connect("ben", rematch=True)
        assert waits.outcome.deliveries == []
        (told,) = world.store.release(nonce).deliveries
        assert (told.ticket, told.reply.type, told.reply.signal) == (waits.ticket, DEMOTE, "signal of ann")

    def test_of_two_friends_the_older_offer_comes_first(self, world: World) -> None:
        world.bounced("ann", "ben")
        world.pair("ann", "me")
        world.pair("ben", "me")
        world.connect("ben", rematch=True)
        world.connect("ann", rematch=True)
        told = [world.connect("me", rematch=True).own.reply.signal for _ in range(2)]
        assert told == ["signal of ben", "signal of ann"]

    def test_requests_end_in_the_order_of_their_times(self, world: World) -> None:
        waits = (900, 300, 1200, 600)
        held = [
            world.connect("ann", pool=f"open:{number}", wait_ms=wait) for number, wait in enumerate(waits)
        ]
        told = [[each.ticket for each in world.after(300)] for _ in range(4)]
        assert told == [[held[1].ticket], [held[3].ticket], [held[0].ticket], [held[2].ticket]]

    def test_every_event_at_every_stage_is_as_the_table_says(self, world: World) -> None:
        assert offer_life.table(world) in offer_life.ARCHITECTURE.read_text()

    def test_nothing_is_left_after_all_deadlines(self, world: World) -> None:
        world.pair("ann", "ben")
        world.handover("cat", "dan")
        world.connect("eve")
        for _ in range(4):
            world.after(TIMES.pair_memory)
        assert world.counts() | {"pairs": 0} == {"waiting": 0, "offered": 0, "handovers": 0, "pairs": 0}
