"""The rules, one sentence of the protocol at a time. Time is an argument, in ms."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from signal_server.matching.deadlines import Deadlines
from signal_server.matching.pairs import Met, PairMemory
from signal_server.matching.rules import Rules, Times
from signal_server.messages import Arrival, Delivery, Reply

TIMES = Times(request=15_000, answer=5_000, write=3_000, pair_memory=3_600_000)


def counting() -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"nonce-{next(numbers)}"


class Game:
    """The rules with a clock, played by peers whose tickets, signals and fingerprints bear their names."""

    def __init__(self) -> None:
        self.rules = Rules(TIMES)
        self.nonces = counting()
        self.now_ms = 0
        self.wait_ms = TIMES.request
        self.expired: list[str] = []

    def at(self, seconds: float) -> Game:
        self.now_ms = round(seconds * 1000)
        self.expired = told(self.rules.expire(nonces=self.nonces, now_ms=self.now_ms))
        return self

    def connect(
        self, who: str, *, pool: str = "open:", may_wait: bool = True, rematch: bool = False
    ) -> list[str]:
        it = self.arrival(who, pool, rematch=rematch)
        return told(self.rules.connect(it, may_wait=may_wait, nonces=self.nonces, now_ms=self.now_ms))

    def answer(self, who: str, nonce: str, *, pool: str = "open:", text: str = "") -> list[str] | None:
        it = self.arrival(who, pool, text)
        return told(self.rules.answer(it, nonce, nonces=self.nonces, now_ms=self.now_ms))

    def bounce(
        self, who: str, nonce: str, *, pool: str = "open:", may_wait: bool = True, rematch: bool = False
    ) -> list[str] | None:
        it = self.arrival(who, pool, rematch=rematch)
        return told(self.rules.bounce(it, nonce, may_wait=may_wait, nonces=self.nonces, now_ms=self.now_ms))

    def release(self, nonce: str) -> list[str]:
        return told(self.rules.release(nonce, nonces=self.nonces, now_ms=self.now_ms))

    def settle(self, nonce: str, *, written: bool = True) -> list[str]:
        if written:
            assert self.rules.claim(nonce)
        settled = self.rules.settle(nonce, written=written, nonces=self.nonces, now_ms=self.now_ms)
        return told(settled.deliveries)

    def link(self, initiator: str, responder: str) -> None:
        """From a pool in which they meet to a delivered answer."""
        nonce = f"nonce-{self.next_number()}"
        assert self.connect(initiator) == []
        assert self.connect(responder) == [f"{responder} DEMOTE {initiator} {nonce}"]
        assert self.answer(responder, nonce) is not None
        assert self.settle(nonce) == [f"{responder} DELIVERED"]

    def bounced(self, initiator: str, responder: str) -> None:
        """The two are a bounced pair, and neither waits."""
        nonce = f"nonce-{self.next_number()}"
        assert self.connect(initiator) == []
        assert self.connect(responder) == [f"{responder} DEMOTE {initiator} {nonce}"]
        assert self.bounce(responder, nonce) == []
        assert self.rules.withdraw(initiator)
        assert self.rules.withdraw(responder)

    def next_number(self) -> int:
        return int(self.nonces().removeprefix("nonce-")) + 1

    def arrival(self, who: str, pool: str = "open:", text: str = "", *, rematch: bool = False) -> Arrival:
        """`who` may be `name.2`: the second request of that peer."""
        peer = who.partition(".")[0]
        signal = text or who
        return Arrival(
            who, pool, named(peer), b"of " + named(peer), signal, signal.encode(), self.wait_ms, rematch
        )


def named(peer: str) -> bytes:
    """A peer's name, as long as a peer's hash."""
    name = peer.encode().ljust(16, b".")
    assert len(name) == 16
    return name


def told(deliveries: list[Delivery] | None) -> list[str]:
    """Deliveries in words, such as `bob DEMOTE alice nonce-1`."""
    if deliveries is None:
        return None  # type: ignore[return-value]
    return [words(each.ticket, each.reply) for each in deliveries]


def words(ticket: str, reply: Reply) -> str:
    return " ".join(filter(None, (ticket, reply.type, reply.signal, reply.nonce)))


@pytest.fixture
def game() -> Game:
    return Game()


def test_two_strangers_link(game: Game) -> None:
    assert game.connect("alice") == []
    assert game.connect("bob") == ["bob DEMOTE alice nonce-1"]
    assert game.answer("bob", "nonce-1", text="yes") == ["alice ANSWER yes nonce-1"]
    assert game.settle("nonce-1") == ["bob DELIVERED"]
    assert game.rules.statistics() == {"pools": 0, "waiting": 0, "offered": 0, "handovers": 1, "pairs": 1}


def test_the_oldest_offer_comes_first(game: Game) -> None:
    game.link("a", "b")
    game.connect("a"), game.connect("b")
    number = game.next_number()
    assert game.connect("c") == [f"c DEMOTE a nonce-{number}"]
    assert game.connect("d") == [f"d DEMOTE b nonce-{number + 1}"]


def test_a_peer_never_meets_itself(game: Game) -> None:
    assert game.connect("alice") == game.connect("alice.2") == game.connect("alice.3") == []
    assert game.connect("bob") == ["bob DEMOTE alice nonce-1"]
    assert game.connect("carl") == ["carl DEMOTE alice.2 nonce-2"]


def test_pools_never_mix(game: Game) -> None:
    for pool in ("open:", "open:chess", "signed:", "signed:chess"):
        assert game.connect(f"in {pool}", pool=pool) == []


def test_a_remembered_pair_does_not_meet_until_its_time_is_over(game: Game) -> None:
    game.link("alice", "bob")
    game.at(3599.9)
    assert game.connect("alice") == game.connect("bob") == []
    game.rules.withdraw("bob")
    game.at(3600)
    assert game.connect("bob.2")[0].startswith("bob.2 DEMOTE alice")


def test_pairs_are_kept_for_each_pool_apart(game: Game) -> None:
    game.link("alice", "bob")
    game.connect("alice", pool="open:chess")
    assert game.connect("bob", pool="open:chess")[0].startswith("bob DEMOTE alice")


def test_a_sweep_deletes_old_pairs_and_nothing_else(game: Game) -> None:
    game.link("alice", "bob")
    game.at(1800).link("carl", "dora")
    game.at(3600).rules.sweep(now_ms=3_600_000)
    assert game.rules.statistics()["pairs"] == 1
    game.at(5400).rules.sweep(now_ms=5_400_000)
    assert game.rules.statistics() == dict.fromkeys(game.rules.statistics(), 0)


def test_a_pair_that_meets_again_is_remembered_anew(game: Game) -> None:
    game.link("alice", "bob")
    game.at(3600).link("alice", "bob")
    game.rules.sweep(now_ms=3_600_000)
    assert game.rules.statistics()["pairs"] == 1


def test_an_offered_request_is_handed_to_nobody_else(game: Game) -> None:
    game.connect("alice")
    game.connect("bob")
    assert game.connect("carl") == []


def test_who_may_not_wait_is_told_at_once_and_leaves_nothing(game: Game) -> None:
    assert game.connect("alice", may_wait=False) == ["alice NO_PEER"]
    assert game.rules.statistics() == dict.fromkeys(game.rules.statistics(), 0)


def test_a_request_waits_from_its_receipt(game: Game) -> None:
    game.wait_ms = 11_000  # its body took four seconds to come
    assert game.connect("slow") == []
    assert game.at(10.999).expired == []
    assert game.at(11).expired == ["slow NO_PEER"]


def test_requests_that_wait_for_different_times_end_in_the_order_of_their_times(game: Game) -> None:
    for pool, wait_ms in enumerate((9_000, 3_000, 12_000, 6_000, 3_000)):
        game.wait_ms = wait_ms
        game.connect(f"p{pool}", pool=f"open:{pool}")
    assert game.at(3).expired == ["p1 NO_PEER", "p4 NO_PEER"]
    assert game.at(9).expired == ["p3 NO_PEER", "p0 NO_PEER"]
    assert game.at(11.999).expired == []
    assert game.at(12).expired == ["p2 NO_PEER"]


def test_an_offer_that_is_due_already_ends_before_the_next_event(game: Game) -> None:
    game.wait_ms = 0
    assert game.connect("late") == []
    assert game.at(0).expired == ["late NO_PEER"]


def test_a_late_offer_extends_the_hold(game: Game) -> None:
    game.connect("alice")
    game.at(14.9).connect("bob")
    assert game.at(19.8).expired == []
    assert game.answer("bob", "nonce-1") == ["alice ANSWER bob nonce-1"]


def test_no_answer_in_time_returns_the_offer_and_voids_the_nonce(game: Game) -> None:
    game.connect("alice")
    game.connect("bob")
    assert game.at(4.999).expired == []
    assert game.at(5).expired == []
    assert game.answer("bob", "nonce-1") is None
    assert game.connect("carl") == ["carl DEMOTE alice nonce-2"]


def test_returned_after_its_time_it_ends_at_once(game: Game) -> None:
    game.connect("alice")
    game.at(14).connect("bob")
    assert game.at(18.9).expired == []
    assert game.at(19).expired == ["alice NO_PEER"]


def test_returned_in_time_it_still_ends_at_its_time(game: Game) -> None:
    game.connect("alice")
    game.connect("bob")
    assert game.at(5).expired == game.at(14.999).expired == []
    assert game.at(15).expired == ["alice NO_PEER"]


def test_a_returned_offer_is_matched_at_once_and_the_older_stays_the_initiator(game: Game) -> None:
    game.connect("alice")
    game.connect("bob")
    assert game.at(1).connect("carl") == []
    assert game.at(5).expired == ["carl DEMOTE alice nonce-2"]
    assert game.answer("carl", "nonce-2", text="yes") == ["alice ANSWER yes nonce-2"]


def test_a_returned_offer_may_be_the_younger_one(game: Game) -> None:
    game.link("old", "new")
    game.connect("old"), game.connect("new")  # they have met: both wait
    number = game.next_number()
    assert game.connect("x") == [f"x DEMOTE old nonce-{number}"]
    assert game.connect("y") == [f"y DEMOTE new nonce-{number + 1}"]
    assert game.connect("z") == []
    assert game.release(f"nonce-{number + 1}") == [f"z DEMOTE new nonce-{number + 2}"]
    assert game.connect("w") == []
    assert game.release(f"nonce-{number}") == [f"w DEMOTE old nonce-{number + 3}"]


def test_an_unwritten_demote_gives_the_offer_back(game: Game) -> None:
    game.connect("alice")
    game.connect("bob")
    assert game.release("nonce-1") == []
    assert game.release("nonce-1") == []
    assert game.connect("carl") == ["carl DEMOTE alice nonce-2"]


def test_a_bounced_offer_returns_to_its_old_place(game: Game) -> None:
    game.link("alice", "anna")
    game.connect("alice"), game.connect("anna")
    number = game.next_number()
    assert game.connect("bob") == [f"bob DEMOTE alice nonce-{number}"]
    assert game.bounce("bob", f"nonce-{number}") == [f"bob DEMOTE anna nonce-{number + 1}"]
    assert game.connect("carl") == [f"carl DEMOTE alice nonce-{number + 2}"]


def test_who_bounces_is_held_with_its_own_offer_and_the_two_are_a_pair(game: Game) -> None:
    game.connect("alice")
    game.connect("bob")
    assert game.bounce("bob", "nonce-1") == []
    assert game.rules.statistics()["waiting"] == 2
    assert game.connect("carl") == ["carl DEMOTE alice nonce-2"]
    assert game.connect("dora") == ["dora DEMOTE bob nonce-3"]


def test_a_bounce_that_may_not_wait_and_finds_only_the_bounced_peer_changes_nothing(game: Game) -> None:
    game.connect("alice")
    game.connect("bob")
    game.connect("alice.2")
    assert game.bounce("bob.2", "nonce-1", may_wait=False) == ["bob.2 NO_PEER"]
    assert game.rules.statistics()["pairs"] == 0
    assert game.answer("bob.3", "nonce-1") == ["alice ANSWER bob.3 nonce-1"]


@pytest.mark.parametrize("nonce", ["nonce-9", "", "nonce-1\0", "nonce-11"])
def test_a_forged_nonce_disturbs_no_one(game: Game, nonce: str) -> None:
    game.connect("alice")
    game.connect("bob")
    assert game.answer("eve", nonce) is None
    assert game.bounce("eve", nonce) is None
    assert game.answer("bob", "nonce-1") == ["alice ANSWER bob nonce-1"]


def test_a_nonce_is_good_only_in_its_pool_and_for_its_bearer(game: Game) -> None:
    game.connect("alice")
    game.connect("bob")
    assert game.answer("bob", "nonce-1", pool="open:chess") is None
    assert game.answer("eve", "nonce-1") is None
    assert game.bounce("eve", "nonce-1") is None
    assert game.answer("bob", "nonce-1") == ["alice ANSWER bob nonce-1"]


def test_a_spent_nonce_is_void(game: Game) -> None:
    game.connect("alice")
    game.connect("bob")
    game.bounce("bob", "nonce-1")
    assert game.answer("bob.2", "nonce-1") is None
    assert game.bounce("bob.2", "nonce-1") is None


def test_another_answer_to_the_same_offer_is_void(game: Game) -> None:
    game.connect("alice")
    game.connect("bob")
    game.answer("bob", "nonce-1", text="yes")
    assert game.answer("bob.2", "nonce-1", text="no") is None
    assert game.bounce("bob.2", "nonce-1") is None
    game.settle("nonce-1")
    assert game.answer("bob.2", "nonce-1", text="no") is None
    assert game.bounce("bob.2", "nonce-1") is None


def test_a_repeat_is_delivered_again_and_nothing_is_sent_twice(game: Game) -> None:
    game.connect("alice")
    game.connect("bob")
    game.answer("bob", "nonce-1", text="yes")
    assert game.answer("bob.2", "nonce-1", text="yes") == []  # while it is on its way
    assert game.settle("nonce-1") == ["bob DELIVERED", "bob.2 DELIVERED"]
    assert game.at(4.999).answer("bob.3", "nonce-1", text="yes") == ["bob.3 DELIVERED"]
    assert game.at(5).answer("bob.4", "nonce-1", text="yes") is None


def test_a_good_nonce_stays_a_ticket_when_the_other_peer_has_gone(game: Game) -> None:
    game.connect("alice")
    game.connect("bob")
    assert game.rules.withdraw("alice")
    assert game.answer("bob", "nonce-1") == ["bob NO_PEER"]
    game.connect("alice.2")
    game.connect("carl")
    assert game.rules.withdraw("alice.2")
    game.connect("dora")
    assert game.answer("carl", "nonce-2") == ["carl DEMOTE dora nonce-3"]


def test_a_failed_write_sends_the_responder_on(game: Game) -> None:
    game.connect("alice")
    game.connect("bob")
    game.answer("bob", "nonce-1")
    assert game.connect("carl") == []
    assert game.settle("nonce-1", written=False) == ["bob DEMOTE carl nonce-2"]
    assert game.rules.statistics()["pairs"] == 0
    assert game.answer("bob", "nonce-1") is None


def test_what_is_not_known_to_be_written_in_time_is_gone(game: Game) -> None:
    game.connect("alice")
    game.connect("bob")
    game.answer("bob", "nonce-1")
    assert game.rules.claim("nonce-1")
    assert game.at(2.999).expired == []
    assert game.at(3).expired == ["bob NO_PEER"]
    assert not game.rules.claim("nonce-1")
    settled = game.rules.settle("nonce-1", written=True, nonces=game.nonces, now_ms=game.now_ms)
    assert settled.deliveries == []
    assert settled.responder is None
    assert game.rules.statistics()["pairs"] == 0


def test_an_answer_is_claimed_once(game: Game) -> None:
    game.connect("alice")
    game.connect("bob")
    assert not game.rules.claim("nonce-1")
    game.answer("bob", "nonce-1")
    assert game.rules.claim("nonce-1")
    assert not game.rules.claim("nonce-1")
    assert not game.rules.claim("nonce-2")


def test_withdraw_is_true_exactly_if_no_reply_will_come(game: Game) -> None:
    game.connect("alice")
    assert game.rules.withdraw("alice")
    assert not game.rules.withdraw("alice")
    assert game.connect("bob") == []
    game.connect("carl")
    assert not game.rules.withdraw("carl")  # it was told DEMOTE
    assert game.rules.withdraw("bob")
    assert game.at(4.999).expired == []
    assert game.rules.statistics()["handovers"] == 1, "the nonce that carl holds"
    assert game.at(5).expired == []
    game.rules.sweep(now_ms=5_000)
    assert game.rules.statistics() == dict.fromkeys(game.rules.statistics(), 0)


# --- who may meet again ------------------------------------------------------------------------------------


def test_linked_peers_meet_again_if_both_say_so(game: Game) -> None:
    game.link("alice", "bob")
    game.connect("alice", rematch=True)
    assert game.connect("bob", rematch=True)[0].startswith("bob DEMOTE alice")


@pytest.mark.parametrize(("alice", "bob"), [(True, False), (False, True), (False, False)])
def test_linked_peers_stay_apart_unless_both_say_so(game: Game, alice: bool, bob: bool) -> None:
    game.link("alice", "bob")
    game.connect("alice", rematch=alice)
    assert game.connect("bob", rematch=bob) == []


@pytest.mark.parametrize("in_between", [False, True])
def test_a_bounced_pair_stays_apart_for_its_time(game: Game, in_between: bool) -> None:
    game.bounced("alice", "bob")
    game.connect("alice", rematch=True)
    if in_between:  # so that the pool has its tables
        game.connect("alice.2", rematch=True)
    assert game.at(10).connect("bob", rematch=True) == []
    game.at(3600).connect("alice.3", rematch=True)
    assert game.connect("bob.2", rematch=True)[0].startswith("bob.2 DEMOTE alice.3")


def test_a_link_does_not_make_a_bounce_a_link(game: Game) -> None:
    """Two peers may hold an offer of each other: one bounces, and the other's answer is delivered."""
    game.connect("alice")
    assert game.connect("bob") == ["bob DEMOTE alice nonce-1"]
    game.connect("bob.2")
    assert game.connect("alice.2") == ["alice.2 DEMOTE bob.2 nonce-2"]
    assert game.bounce("bob.3", "nonce-1") == []
    game.answer("alice.2", "nonce-2")
    assert game.at(1).settle("nonce-2") == ["alice.2 DELIVERED"]
    assert game.rules.withdraw("alice")
    game.connect("alice.3", rematch=True)
    assert game.connect("bob.4", rematch=True) == []


def test_a_bounce_after_a_link_keeps_them_apart(game: Game) -> None:
    game.link("alice", "bob")
    game.connect("alice", rematch=True)
    (told,) = game.connect("bob", rematch=True)
    assert game.bounce("bob", told.split()[-1], rematch=True) == []
    assert game.rules.statistics()["waiting"] == 2


def test_a_link_after_the_bounces_time_is_a_link(game: Game) -> None:
    game.bounced("alice", "bob")
    game.at(3600).link("alice", "bob")
    game.connect("alice", rematch=True)
    assert game.connect("bob", rematch=True)[0].startswith("bob DEMOTE alice")


def test_somebody_new_comes_before_an_older_friend(game: Game) -> None:
    game.link("friend", "me")
    game.link("friend", "new")
    game.connect("friend", rematch=True)
    game.connect("new", rematch=False)
    (told,) = game.connect("me", rematch=True)
    assert told.startswith("me DEMOTE new")
    (told,) = game.connect("me.2", rematch=True)
    assert told.startswith("me.2 DEMOTE friend")


def test_of_two_friends_the_older_offer_comes_first(game: Game) -> None:
    game.link("a", "me"), game.link("b", "me"), game.link("a", "b")
    game.connect("b", rematch=True), game.connect("a", rematch=True)
    assert game.rules.statistics()["waiting"] == 0, "they are friends, too"
    game = Game()
    game.link("a", "me"), game.link("b", "me"), game.bounced("a", "b")
    game.connect("b", rematch=True), game.connect("a", rematch=True)
    assert game.connect("me", rematch=True)[0].startswith("me DEMOTE b")
    assert game.connect("me.2", rematch=True)[0].startswith("me.2 DEMOTE a")


def test_a_friend_is_not_passed_over_for_an_older_offer_that_does_not_say_so(game: Game) -> None:
    game.link("friend", "me")
    game.connect("friend.1", rematch=False)
    game.connect("friend.2", rematch=True)
    game.connect("friend.3", rematch=True)
    assert game.connect("me", rematch=True)[0].startswith("me DEMOTE friend.2")
    assert game.connect("me.2", rematch=True)[0].startswith("me.2 DEMOTE friend.3")
    assert game.connect("me.3", rematch=True) == []
    assert game.connect("stranger", rematch=True)[0].startswith("stranger DEMOTE friend.1")


def test_a_friends_offer_that_left_is_not_found(game: Game) -> None:
    game.link("friend", "me")
    for ticket in ("friend.1", "friend.2", "friend.3"):
        game.connect(ticket, rematch=True)
    assert game.rules.withdraw("friend.1")
    assert game.rules.withdraw("friend.3")
    assert game.connect("me", rematch=True)[0].startswith("me DEMOTE friend.2")
    assert game.connect("me.2", rematch=True) == []


def test_friends_of_which_one_returns_meet_and_the_older_stays_the_initiator(game: Game) -> None:
    game.link("friend", "me")
    game.connect("friend", rematch=True)
    (told,) = game.connect("passer")
    assert game.connect("me", rematch=True) == []
    (again,) = game.release(told.split()[-1])
    assert again.startswith("me DEMOTE friend")


def test_friends_in_one_pool_are_not_friends_in_another(game: Game) -> None:
    game.link("alice", "bob")
    game.connect("alice", pool="open:chess")
    (told,) = game.connect("bob", pool="open:chess")
    game.bounce("bob", told.split()[-1], pool="open:chess")
    game.connect("alice", rematch=True)
    assert game.connect("bob", rematch=True)[0].startswith("bob DEMOTE alice")


# --- what was not answered in time -------------------------------------------------------------------------


def test_an_offer_that_lapsed_goes_to_somebody_else_while_others_wait(game: Game) -> None:
    game.bounced("alice", "carl")
    game.connect("alice")
    game.connect("carl")
    assert game.connect("slow")[0].startswith("slow DEMOTE alice")
    game.at(5)
    assert game.connect("slow.2")[0].startswith("slow.2 DEMOTE carl")
    assert game.connect("quick")[0].startswith("quick DEMOTE alice")


@pytest.mark.parametrize("others", [0, 1])
def test_two_that_are_alone_try_again(game: Game, others: int) -> None:
    game.bounced("alice", "carl")
    game.bounced("slow", "carl")
    for who in ("carl", "alice")[1 - others :]:
        game.connect(who)
    assert game.connect("slow")[0].startswith("slow DEMOTE alice")
    assert game.at(5).connect("slow.2")[0].startswith("slow.2 DEMOTE alice"), "with carl neither may meet"
    assert game.connect("slow.3") == []
    assert game.at(10).expired[0].startswith("slow.3 DEMOTE alice")


def test_who_let_it_lapse_and_waits_comes_after_the_others(game: Game) -> None:
    game.bounced("slow", "carl")
    game.connect("alice")
    game.connect("slow")
    for who in ("slow.2", "carl"):
        assert game.connect(who) == []
    (told,) = game.at(5).expired
    assert told.startswith("carl DEMOTE alice")


def test_what_lapsed_hides_no_other_offer_of_its_peer(game: Game) -> None:
    for who in ("alice", "alice.2", "alice.3"):
        game.connect(who)
    game.connect("slow")
    assert game.at(5).connect("slow.2")[0].startswith("slow.2 DEMOTE alice.2")
    assert game.connect("quick")[0].startswith("quick DEMOTE alice nonce"), (
        "for others it is the oldest still"
    )
    assert game.connect("slow.3")[0].startswith("slow.3 DEMOTE alice.3")


# --- what it costs -----------------------------------------------------------------------------------------


def test_what_lapsed_between_others_of_its_peer_hides_none_of_them(game: Game) -> None:
    game.link("alice", "bob")
    game.connect("alice.1")
    game.connect("alice.2", rematch=True)
    game.connect("alice.3")
    assert game.connect("bob.2", rematch=True)[0].startswith("bob.2 DEMOTE alice.2")
    game.at(6)
    assert game.rules.withdraw("alice.1")
    assert game.connect("cid")[0].startswith("cid DEMOTE alice.2")
    assert game.connect("dan")[0].startswith("dan DEMOTE alice.3")


def test_nothing_can_run_out_of_time_once_all_is_gone(game: Game) -> None:
    """What is left of a pair at each step, by itself, is enough to look at the time."""
    assert game.rules.is_empty()
    game.connect("alice")
    assert not game.rules.is_empty(), "an offer"
    game.connect("bob")
    game.rules.withdraw("alice")
    assert not game.rules.is_empty(), "a handover"
    game.at(5)
    assert game.rules.is_empty()
    game.link("alice.2", "bob.2")
    game.at(20)
    assert not game.rules.is_empty(), "a pair"
    game.at(7200)
    game.rules.sweep(now_ms=game.now_ms)
    assert game.rules.is_empty()


def test_what_stands_in_a_pool_is_counted_by_what_it_waits_for(game: Game) -> None:
    game.connect("alice")
    game.connect("bob")
    game.connect("cid", pool="open:a")
    game.connect("dan", pool="open:b")
    counts = {"pools": 3, "waiting": 2, "offered": 1, "handovers": 1, "pairs": 0}
    assert game.rules.statistics() == counts
    assert game.rules.pools() == {"open:": (0, 1, 0), "open:a": (1, 0, 0), "open:b": (1, 0, 0)}


def test_a_match_steps_over_those_it_has_met_and_not_over_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 wait, of a peer that met all the others; the newcomer has met three that wait longer."""
    game = Game()
    met = ("a", "b", "c")

    def remember(one: str, other: str) -> None:
        game.rules._pairs.remember(b"open:", named(one), named(other), Met.BOUNCED, until_ms=10**9, now_ms=0)

    for one, other in itertools.combinations((*met, "crowd"), 2):
        remember(one, other)
    for one in met:
        remember(one, "newcomer")
        assert game.connect(one) == []
    for number in range(100_000):
        assert game.connect(f"crowd.{number}") == []

    steps = 0
    met_by = PairMemory.met

    def counted(self: PairMemory, pool: bytes, one: bytes, other: bytes, *, now_ms: int) -> Met | None:
        nonlocal steps
        steps += 1
        return met_by(self, pool, one, other, now_ms=now_ms)

    monkeypatch.setattr(PairMemory, "met", counted)
    assert game.connect("newcomer")[0].startswith("newcomer DEMOTE crowd.0")
    assert game.connect("crowd.last") == []
    assert game.connect("newcomer.2")[0].startswith("newcomer.2 DEMOTE crowd.1")
    assert steps == 4 + 3 + 4


def test_a_match_steps_over_what_it_let_lapse_and_not_over_the_peer_that_offered_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    game = Game()
    game.wait_ms = 60_000
    for number in range(10_000):
        assert game.connect(f"crowd.{number}") == []
    calls = 0
    met_by = PairMemory.met

    def counted(self: PairMemory, pool: bytes, one: bytes, other: bytes, *, now_ms: int) -> Met | None:
        nonlocal calls
        calls += 1
        return met_by(self, pool, one, other, now_ms=now_ms)

    monkeypatch.setattr(PairMemory, "met", counted)
    steps = []
    for number in range(3):
        calls = 0
        assert game.connect(f"slow.{number}")[0].startswith(f"slow.{number} DEMOTE crowd.{number}")
        steps.append(calls)
        game.at(5 * (number + 1))
    assert steps == [1, 2, 3]


def test_deadlines_come_in_the_order_of_their_times() -> None:
    deadlines = Deadlines()
    for number, when_ms in enumerate((5, 9, 2, 7, 9, 1, 5, 3)):
        deadlines.add(number % 3, f"{number} at {when_ms}", when_ms)
    assert deadlines.first_ms == 1
    deadlines.drop(2, "5 at 1")
    deadlines.drop(1, "7 at 3")
    deadlines.drop(0, "unknown")
    assert deadlines.take(8) == ["2 at 2", "0 at 5", "6 at 5", "3 at 7"]
    assert deadlines.first_ms == 9
    assert deadlines.take(9) == ["1 at 9", "4 at 9"]
    assert deadlines.take(10**9) == []
    assert deadlines.first_ms > 10**9
    assert not len(deadlines)


def test_a_deadline_that_was_dropped_and_comes_again_counts_once() -> None:
    deadlines = Deadlines()
    deadlines.add(0, "later", 9)
    for when_ms in (5, 3, 5):
        deadlines.add(0, "again", when_ms)
        deadlines.drop(0, "again")
    assert deadlines.take(8) == []
    deadlines.add(0, "again", 8)
    deadlines.drop(0, "again")
    deadlines.add(0, "again", 8)
    assert deadlines.take(9) == ["again", "later"]
    assert not len(deadlines)
