"""What every store promises, written once: `test_store_memory.py` and `test_store_redis.py` play it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from signal_server.matching.rules import Times
from signal_server.matching.stores.base import LEAVE_SECONDS, Name, Outcome, PoolCounts, Store, pool_hash
from signal_server.messages import ANSWER, DELIVERED, DEMOTE, NO_PEER, Arrival, Delivery

TIMES = Times(request=15_000, answer=5_000, write=3_000, pair_memory=60_000)
SWEEP_MS = 20_000

NAME = "name-of-one-request-22"


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
        ticket = f"{peer}-{next(self._numbers)}"
        return Arrival(
            ticket,
            pool,
            hashed(peer),
            hashed(f"of {peer}"),
            signal or f"signal of {peer}",
            f"digest {signal}".encode(),
            wait_ms,
            rematch,
            name,
            hashed(f"left by {peer}") if name else b"",
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

    def named(self, peer: str, name: str) -> tuple[Name, Told | None]:
        """A request with a name. It is not connected if the name is not to be had."""
        arrival = self.arrival(peer, name=name)
        taken = self.store.take_name(name, arrival.leaver, arrival.ticket)
        if taken is not Name.TAKEN:
            return taken, None
        return taken, Told(arrival.ticket, self.store.connect(arrival, may_wait=True))

    def leave(self, peer: str, name: str) -> list[Delivery]:
        return self.store.leave(name, hashed(f"left by {peer}")).deliveries

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
        assert self.store.settle(nonce, written=True).responder == hashed(responder)

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


def hashed(name: str) -> bytes:
    """A name, as long as a hash."""
    hashed = name.encode().ljust(16, b".")
    assert len(hashed) == 16
    return hashed


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
        assert settled.responder == hashed("ben")
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

    def test_a_bounce_that_may_not_wait_does_not_count_on_the_peer_that_it_bounces(
        self, world: World
    ) -> None:
        ticket, nonce = world.handover("ann", "ben")
        world.connect("ann")
        before = world.counts()
        assert world.bounce("ben", nonce, may_wait=False).types == [NO_PEER]
        assert world.counts() == before
        assert [each.ticket for each in world.answer("ben", nonce).outcome.deliveries] == [ticket]

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
        held = world.connect("ann", wait_ms=TIMES.request - 400)  # its body was slow
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

    def test_linked_peers_meet_again_if_both_say_so(self, world: World) -> None:
        world.pair("ann", "ben")
        world.connect("ann", rematch=True)
        assert world.connect("ben", rematch=False).outcome.deliveries == []
        assert world.connect("ben", rematch=True).own.reply.signal == "signal of ann"

    def test_a_bounced_pair_stays_apart_for_its_time(self, world: World) -> None:
        world.bounced("ann", "ben")
        world.connect("ann", rematch=True, wait_ms=TIMES.pair_memory + 10)
        world.after(TIMES.pair_memory - 1)
        assert world.connect("ben", rematch=True, may_wait=False).types == [NO_PEER]
        world.after(1)
        assert world.connect("ben", rematch=True).types == [DEMOTE]

    def test_a_link_does_not_make_a_bounce_a_link(self, world: World) -> None:
        """Two peers may hold an offer of each other: one bounces, and the other's answer is delivered."""
        first, nonce = world.handover("ann", "ben")
        _, other = world.handover("ben", "ann")
        own = world.bounce("ben", nonce).ticket
        world.answer("ann", other)
        assert world.store.claim(other).good
        assert world.store.settle(other, written=True).responder == hashed("ann")
        for each in (first, own):
            assert world.store.withdraw(each).good
        world.connect("ann", rematch=True)
        assert world.connect("ben", rematch=True).outcome.deliveries == []

    def test_somebody_new_comes_before_an_older_friend(self, world: World) -> None:
        world.pair("friend", "me")
        world.pair("friend", "new")
        world.connect("friend", rematch=True)
        world.connect("new")
        told = [world.connect("me", rematch=True).own.reply.signal for _ in range(2)]
        assert told == ["signal of new", "signal of friend"]

    def test_a_friend_is_found_behind_its_own_older_offer_that_does_not_say_so(self, world: World) -> None:
        world.pair("friend", "me")
        older = world.connect("friend")
        for text in ("second", "third"):
            world.store.connect(world.arrival("friend", text, rematch=True), may_wait=True)
        told = [world.connect("me", rematch=True).own.reply.signal for _ in range(2)]
        assert told == ["second", "third"]
        assert world.connect("me", rematch=True, may_wait=False).types == [NO_PEER]
        assert world.store.withdraw(older.ticket).good

    def test_of_two_friends_the_older_offer_comes_first(self, world: World) -> None:
        world.bounced("ann", "ben")
        world.pair("ann", "me")
        world.pair("ben", "me")
        world.connect("ben", rematch=True)
        world.connect("ann", rematch=True)
        told = [world.connect("me", rematch=True).own.reply.signal for _ in range(2)]
        assert told == ["signal of ben", "signal of ann"]

    def test_a_friends_offer_that_returns_meets_who_waits(self, world: World) -> None:
        world.pair("ann", "ben")
        world.connect("ann", rematch=True)
        nonce = world.connect("cat").own.reply.nonce
        waits = world.connect("ben", rematch=True)
        assert waits.outcome.deliveries == []
        (told,) = world.store.release(nonce).deliveries
        assert (told.ticket, told.reply.type, told.reply.signal) == (waits.ticket, DEMOTE, "signal of ann")

    def test_requests_end_in_the_order_of_their_times(self, world: World) -> None:
        waits = (900, 300, 1200, 600)
        held = [
            world.connect("ann", pool=f"open:{number}", wait_ms=wait) for number, wait in enumerate(waits)
        ]
        told = [[each.ticket for each in world.after(300)] for _ in range(4)]
        assert told == [[held[1].ticket], [held[3].ticket], [held[0].ticket], [held[2].ticket]]

    # --- LEAVE ---------------------------------------------------------------------------------------------

    def test_a_leave_ends_the_request_of_its_name(self, world: World) -> None:
        taken, told = world.named("ann", NAME)
        assert taken is Name.TAKEN
        assert told is not None
        (ended,) = world.leave("ann", NAME)
        assert (ended.ticket, ended.reply.type) == (told.ticket, NO_PEER)
        assert not world.store.withdraw(told.ticket).good
        assert world.counts()["waiting"] == 0
        assert world.connect("ben").outcome.deliveries == []

    def test_a_leave_ends_an_offer_that_is_out_and_its_nonce_stays_a_ticket(self, world: World) -> None:
        _, told = world.named("ann", NAME)
        assert told is not None
        nonce = world.connect("ben").own.reply.nonce
        (ended,) = world.leave("ann", NAME)
        assert (ended.ticket, ended.reply.type) == (told.ticket, NO_PEER)
        world.connect("cat")
        assert world.answer("ben", nonce).own.reply.signal == "signal of cat"

    def test_a_leave_comes_too_late_for_a_reply_that_is_decided(self, world: World) -> None:
        world.named("ann", NAME)
        nonce = world.connect("ben").own.reply.nonce
        assert world.answer("ben", nonce).types == [ANSWER]
        assert world.leave("ann", NAME) == []
        assert world.store.claim(nonce).good

    def test_only_its_own_client_ends_a_request(self, world: World) -> None:
        _, told = world.named("ann", NAME)
        assert told is not None
        assert world.leave("eve", NAME) == []
        assert world.leave("ann", NAME[::-1]) == []
        assert world.counts()["waiting"] == 1
        assert world.named("eve", NAME) == (Name.IN_USE, None), "nor does what eve said keep the name free"
        assert world.connect("ben").types == [DEMOTE]

    def test_a_name_is_of_one_request_at_a_time(self, world: World) -> None:
        _, told = world.named("ann", NAME)
        assert told is not None
        assert world.named("ann", NAME) == (Name.IN_USE, None)
        assert world.named("ben", NAME) == (Name.IN_USE, None)
        assert world.store.withdraw(told.ticket).good
        world.store.drop_name(NAME)
        assert world.named("ben", NAME)[0] is Name.TAKEN

    def test_a_leave_may_overtake_its_request(self, world: World) -> None:
        assert world.leave("ann", NAME) == []
        world.after(round(LEAVE_SECONDS * 1000) - 1)
        assert world.named("eve", NAME)[0] is Name.TAKEN, "it is ann who left"
        world.store.drop_name(NAME)
        assert world.named("ann", NAME) == (Name.LEFT, None)
        world.after(1)
        assert world.named("ann", NAME)[0] is Name.TAKEN

    def test_a_leave_between_the_name_and_the_connect_ends_the_request(self, world: World) -> None:
        arrival = world.arrival("ann", name=NAME)
        assert world.store.take_name(NAME, arrival.leaver, arrival.ticket) is Name.TAKEN
        assert world.leave("ann", NAME) == []
        told = world.store.connect(arrival, may_wait=True).deliveries
        assert [(each.ticket, each.reply.type) for each in told] == [(arrival.ticket, NO_PEER)]
        assert world.counts()["waiting"] == 0

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
