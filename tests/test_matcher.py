"""The matcher with real stores, limits and tickets, in one thread, with a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from limits import parse

from live import eventually
from redis_server import RedisServer
from signal_server.errors import BadRequest, HungUp, RateLimited, SignalError, Unavailable
from signal_server.matching.limits import Limits, MemoryLimits
from signal_server.matching.matcher import Matcher
from signal_server.matching.stores.base import Store
from signal_server.matching.stores.memory import MemoryStore
from signal_server.matching.stores.redis import RedisStore
from signal_server.matching.stores.redis_client import Servers
from signal_server.matching.stores.redis_counts import RedisLimits
from signal_server.matching.tickets import OpenTickets, Ticket
from signal_server.messages import ANSWER, DELIVERED, DEMOTE, NO_PEER, Reply
from signal_server.settings import Settings
from store_contract import TIMES, leaver_of, peer_of


class Counter:
    """What the matcher says of its work, in words."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def paired(self) -> None:
        self.words.append("paired")

    def answer_lost(self) -> None:
        self.words.append("answer lost")

    def ghost(self) -> None:
        self.words.append("ghost")


class Desk:
    """One process: peers come to it, and it does what the drivers do."""

    def __init__(
        self,
        store: Store | None = None,
        limits: Limits | None = None,
        *,
        held: int | None = None,
        most: int | None = None,
        **rates: str,
    ) -> None:
        self.now_ms = 1_000_000
        self.store = store or MemoryStore(TIMES, sweep_ms=10**9, clock=lambda: self.now_ms)
        self.tickets = OpenTickets(held_per_address=held, max_waiting=most)
        self.limits = limits or MemoryLimits(settings(**rates), clock=lambda: self.now_ms / 1000)
        self.seen = Counter()
        self.matcher = Matcher(self.store, self.tickets, self.limits, self.seen)

    def ask(
        self,
        peer: str,
        nonce: str | None = None,
        *,
        bounce: bool = False,
        name: str = "",
        replay: bool = False,
        opened: Callable[[Ticket], object] = lambda _: None,
    ) -> Ticket:
        """A request comes. One that is refused is closed, and its ticket has the refusal."""
        ticket = Ticket(f"home of {peer}".encode())
        ticket.pool, ticket.signal = "open:", f"signal of {peer}"
        ticket.peer, ticket.bearer, ticket.digest = peer_of(peer), peer_of(peer), peer_of(peer)
        ticket.nonce, ticket.is_bounce, ticket.is_replay = nonce, bounce, replay
        ticket.name, ticket.leaver = name, leaver_of(peer) if name else b""
        ticket.wait_ms = TIMES.request
        self.tickets.open(ticket)
        opened(ticket)
        try:
            self.matcher.decide(ticket)
        except SignalError as refusal:
            self.matcher.close(ticket)
            ticket.result = refusal
        return ticket

    def demoted(self, initiator: str, responder: str) -> tuple[Ticket, str]:
        """One waits, and the other is to answer. Returns who waits, and the nonce."""
        held = self.ask(initiator)
        assert held.result is None
        told = self.ask(responder).result
        assert isinstance(told, Reply)
        assert told.type == DEMOTE
        return held, told.nonce

    def answered(self, initiator: str, responder: str) -> tuple[Ticket, Ticket]:
        held, nonce = self.demoted(initiator, responder)
        return held, self.ask(responder, nonce)

    def write(self, ticket: Ticket, *, written: bool = True) -> Reply:
        """What is written to an open connection; or is meant to be, and cannot."""
        reply = self.matcher.begin(ticket, lambda: True)
        self.matcher.finish(reply, written=written)
        return reply

    @property
    def held(self) -> int:
        return self.store.statistics()["waiting"]


def settings(**rates: str | int | None) -> Settings:
    off: dict[str, Any] = {f"{name}_limit": None for name in ("request", "pair", "address")}
    given = {name: parse(rate) if isinstance(rate, str) else rate for name, rate in rates.items()}
    return replace(Settings.from_env({}, {}), **off | given)


def kind(ticket: Ticket) -> str:
    """The type of its reply, or of its refusal; or "", while it waits."""
    result = ticket.result
    if isinstance(result, Reply):
        return result.type
    if isinstance(result, SignalError):
        return f"{type(result).__name__} {result.reason}".strip()
    return "" if result is None else "hung up"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def shared(redis: RedisServer, most: int | None = None, *, divided: bool = False, **rates: str) -> Desk:
    """One of several processes. `divided`: as in a cluster, where limits are calls of their own."""
    servers = Servers(redis.url, timeout_seconds=10)
    servers.is_divided = divided
    limits = RedisLimits(servers, settings(held_per_address=most, **rates), longest_ms=60_000)
    return Desk(RedisStore(servers, TIMES, sweep_ms=10**9), limits)


# --- the whole way -----------------------------------------------------------------------------------------


def test_an_exchange_is_carried_to_its_end() -> None:
    desk = Desk()
    held, answer = desk.answered("ann", "ben")
    assert (kind(held), kind(answer)) == (ANSWER, "")
    assert desk.write(held).signal == "signal of ben"
    assert kind(answer) == DELIVERED
    assert desk.write(answer).type == DELIVERED
    assert desk.seen.words == ["paired"]
    assert len(desk.tickets) == 0


def test_who_waits_is_called_back_once() -> None:
    desk = Desk()
    called: list[str] = []
    desk.ask("ann", opened=lambda ticket: ticket.on_result(lambda: called.append(kind(ticket))))
    assert called == []
    desk.now_ms += TIMES.request
    desk.matcher.expire()
    assert called == [NO_PEER]
    desk.matcher.expire()
    assert called == [NO_PEER]


def test_an_answer_that_was_not_written_sends_the_responder_on() -> None:
    desk = Desk()
    held, answer = desk.answered("ann", "ben")
    desk.ask("cat")
    desk.write(held, written=False)
    assert desk.seen.words == ["answer lost"]
    assert isinstance(answer.result, Reply)
    assert (answer.result.type, answer.result.signal) == (DEMOTE, "signal of cat")


def test_an_answer_that_comes_too_late_to_be_written_is_lost() -> None:
    desk = Desk()
    held, answer = desk.answered("ann", "ben")
    desk.now_ms += TIMES.write
    assert desk.matcher.begin(held, lambda: True).type == NO_PEER
    assert kind(answer) == NO_PEER
    assert desk.seen.words == ["answer lost"]


@pytest.mark.parametrize("what", ["offer", "answer"])
def test_nothing_is_written_to_who_has_left(what: str) -> None:
    desk = Desk()
    if what == "answer":
        held, answer = desk.answered("ann", "ben")
        assert desk.matcher.begin(held, lambda: False).type == NO_PEER
        assert (kind(answer), desk.seen.words) == (NO_PEER, ["answer lost"])
        return
    desk.ask("ann")
    ben = desk.ask("ben")
    assert desk.matcher.begin(ben, lambda: False).type == NO_PEER
    assert desk.seen.words == ["ghost"]
    assert desk.held == 1, "her offer is back"


def test_what_hands_nothing_over_needs_no_open_connection() -> None:
    desk = Desk()
    alone = desk.ask("ann", "bad nonce")
    assert desk.matcher.begin(alone, lambda: False).type == NO_PEER
    desk.write(alone, written=False)
    assert desk.seen.words == []
    held, answer = desk.answered("ann", "ben")
    desk.write(held)
    assert desk.matcher.begin(answer, lambda: False).type == DELIVERED


def test_an_offer_that_was_not_written_goes_back() -> None:
    desk = Desk()
    desk.ask("ann")
    desk.write(desk.ask("ben"), written=False)
    assert (desk.held, desk.seen.words) == (1, ["ghost"])
    desk.write(desk.ask("ben"))
    assert (desk.held, desk.seen.words) == (0, ["ghost"])


def test_a_refusal_is_raised_when_it_is_to_be_written() -> None:
    desk = Desk(request_limit="1 per minute")
    desk.ask("ann", "bad nonce")
    refused = desk.ask("ann", "bad nonce")
    with pytest.raises(RateLimited):
        desk.matcher.begin(refused, lambda: True)
    held = desk.ask("ben")
    desk.matcher.withdraw(held, HungUp())
    with pytest.raises(HungUp):
        desk.matcher.begin(held, lambda: True)


# --- what reaches nobody -----------------------------------------------------------------------------------


def test_offers_that_reach_nobody_go_to_the_next_one_however_many_are_gone() -> None:
    """Ben's requests have ended here without the store's knowing, and he stands before Cat."""
    desk = Desk()
    _, nonce = desk.demoted("ann", "zoe")
    gone = [desk.ask("ben") for _ in range(3)]
    cat = desk.ask("cat")
    assert kind(cat) == DEMOTE, "ben's offer"
    for each in gone:
        desk.matcher.resolve(each, HungUp())
    dan = desk.ask("ben")
    assert kind(dan) == ""
    desk.matcher.apply(desk.store.release(nonce))
    assert kind(dan) == DEMOTE
    assert isinstance(dan.result, Reply)
    assert dan.result.signal == "signal of ann"
    assert desk.seen.words == ["ghost", "ghost"]


def test_an_answer_to_who_has_gone_sends_the_responder_on() -> None:
    desk = Desk()
    held, nonce = desk.demoted("ann", "ben")
    desk.matcher.resolve(held, HungUp())
    answer = desk.ask("ben", nonce)
    assert (kind(answer), desk.seen.words) == (NO_PEER, ["answer lost"])


def test_that_nobody_came_need_reach_nobody() -> None:
    desk = Desk()
    desk.matcher.resolve(desk.ask("ann"), HungUp())
    desk.now_ms += TIMES.request
    desk.matcher.expire()
    assert (desk.held, desk.seen.words) == (0, [])


def test_a_request_ends_once() -> None:
    desk = Desk()
    held = desk.ask("ann")
    assert desk.matcher.resolve(held, HungUp())
    assert not desk.matcher.resolve(held, Reply(NO_PEER))
    assert kind(held) == "hung up"


# --- nonces ------------------------------------------------------------------------------------------------


def test_a_bad_nonce_is_a_connect_that_does_not_wait() -> None:
    desk = Desk(request_limit="1 per minute")
    desk.ask("ann")
    assert kind(desk.ask("ben", "bad nonce")) == DEMOTE
    assert kind(desk.ask("ben", "bad nonce")) == "RateLimited request", "it was counted"
    assert kind(desk.ask("cat", "bad nonce")) == NO_PEER
    assert kind(desk.ask("dan", "bad nonce", bounce=True)) == "", "a bounce brings an offer of its own"


def test_a_good_nonce_is_not_counted() -> None:
    desk = Desk(request_limit="1 per minute")
    held, nonce = desk.demoted("ann", "ben")
    bounced = desk.ask("ben", nonce, bounce=True)
    assert (kind(held), kind(bounced), desk.held) == ("", "", 2)


def test_a_text_that_came_before_is_good_as_the_repeat_of_an_answer_only() -> None:
    desk = Desk()
    held, nonce = desk.demoted("ann", "ben")
    desk.ask("ben", nonce)
    desk.write(held)
    assert kind(desk.ask("ben", nonce, replay=True)) == DELIVERED
    assert kind(desk.ask("ben", replay=True)) == "Untrusted replay"
    assert kind(desk.ask("ben", "bad nonce", replay=True)) == "Untrusted replay"


# --- limits ------------------------------------------------------------------------------------------------


def test_both_of_a_pair_are_counted_by_when_the_answer_is_written() -> None:
    desk = Desk(pair_limit="1 per minute")
    held, _ = desk.answered("ann", "ben")
    reply = desk.matcher.begin(held, lambda: True)
    assert kind(desk.ask("ann")) == "RateLimited pair", "before she can know of it"
    assert kind(desk.ask("ben")) == ""
    desk.matcher.finish(reply, written=True)
    assert kind(desk.ask("ben")) == "RateLimited pair"


def test_an_answer_that_was_lost_is_no_pairing_of_the_responder() -> None:
    desk = Desk(pair_limit="1 per minute")
    held, _ = desk.answered("ann", "ben")
    desk.write(held, written=False)
    assert kind(desk.ask("ben")) == ""


@pytest.mark.parametrize(("held", "most", "word"), [(0, None, "RateLimited held"), (None, 0, "Full")])
def test_who_may_not_wait_is_matched_or_refused_and_not_counted(
    held: int | None, most: int | None, word: str
) -> None:
    desk = Desk(held=held, most=most, request_limit="1 per minute")
    for _ in range(2):
        assert kind(desk.ask("ann")).startswith(word)
    assert desk.held == 0
    assert len(desk.tickets) == 0
    assert kind(desk.ask("ben", "bad nonce")) == NO_PEER, "an answer waits for nobody"
    assert kind(desk.ask("ben", "bad nonce")) == "RateLimited request"


def test_a_bounce_that_may_not_wait_changes_nothing() -> None:
    desk = Desk(most=1, request_limit="1 per minute")
    held, nonce = desk.demoted("ann", "ben")
    assert kind(desk.ask("ben", nonce, bounce=True)).startswith("Full")
    assert kind(desk.ask("ben")) == "RateLimited request", "nor does it take back that he came"
    assert kind(desk.ask("ben", nonce)) == ""
    assert kind(held) == ANSWER


@pytest.mark.parametrize("divided", [False, True])
def test_the_places_of_an_address_are_counted_over_all_processes(redis: RedisServer, divided: bool) -> None:
    one, other = (shared(redis, most=1, divided=divided) for _ in range(2))
    held = one.ask("ann")
    assert (kind(held), held.has_place) == ("", True)
    assert kind(other.ask("ann")) == "RateLimited held"
    assert other.held == 1, "nothing of it stays in the store"
    one.matcher.withdraw(held, HungUp())
    assert eventually(lambda: kind(other.ask("ann")) == ""), "its place is free soon"


def test_a_bounce_takes_its_place_first_and_an_answer_none(redis: RedisServer) -> None:
    desk = shared(redis, most=1)
    _, nonce = desk.demoted("ben", "ann")
    own = desk.ask("ann", nonce, bounce=True)
    assert (kind(own), own.has_place) == ("", True)
    other = desk.ask("dan")
    assert kind(other) == DEMOTE
    assert isinstance(other.result, Reply)
    assert not desk.ask("dan", other.result.nonce).has_place
    assert desk.held == 1
    assert kind(desk.ask("ann", "bad nonce", bounce=True)) == "RateLimited held"


def test_a_bounce_for_which_there_is_no_place_changes_nothing(redis: RedisServer) -> None:
    desk = shared(redis, most=1)
    held, nonce = desk.demoted("ben", "ann")
    assert desk.ask("ann").has_place
    assert kind(desk.ask("ann", nonce, bounce=True)) == "RateLimited held"
    assert kind(desk.ask("ann", nonce)) == ""
    assert kind(held) == ANSWER


@pytest.mark.parametrize("divided", [False, True])
def test_who_is_matched_at_once_needs_no_place_nor_does_who_answers(
    redis: RedisServer, divided: bool
) -> None:
    held = shared(redis).ask("ann")
    assert kind(held) == ""
    desk = shared(redis, most=0, divided=divided)
    told = desk.ask("ben")
    assert (kind(told), told.has_place) == (DEMOTE, False)
    assert isinstance(told.result, Reply)
    assert kind(desk.ask("ben", told.result.nonce)) == "", "and waits for DELIVERED"


@pytest.mark.parametrize("divided", [False, True])
def test_who_finds_no_place_may_ask_again_in_a_second_and_was_not_counted(
    redis: RedisServer, divided: bool
) -> None:
    desk = shared(redis, most=0, divided=divided, request_limit="1 per minute")
    for _ in range(2):
        refusal = desk.ask("ann").result
        assert isinstance(refusal, RateLimited)
        assert (refusal.reason, refusal.retry_after) == ("held", 1)


def test_what_another_process_decides_reaches_who_waits_here(redis: RedisServer) -> None:
    one, other = shared(redis), shared(redis)
    held = one.ask("ann")
    told = other.ask("ben").result
    assert isinstance(told, Reply)
    answer = other.ask("ben", told.nonce)
    assert eventually(lambda: kind(held) == ANSWER)
    one.write(held)
    assert eventually(lambda: kind(answer) == DELIVERED)


# --- names -------------------------------------------------------------------------------------------------


def test_a_name_is_taken_while_its_request_waits_and_free_after_it() -> None:
    desk = Desk()
    desk.ask("ann", name="a name")
    again = desk.ask("ann", name="a name")
    assert isinstance(again.result, BadRequest)
    assert isinstance(desk.ask("ann", name="a name").result, BadRequest), "the refused one did not free it"
    desk.matcher.leave("a name", leaver_of("ann"))
    assert desk.held == 0
    assert kind(desk.ask("ann", name="a name")) == "", "and it did not leave before it came"


def test_a_request_whose_leave_came_first_ends() -> None:
    desk = Desk()
    desk.matcher.leave("a name", leaver_of("ann"))
    assert kind(desk.ask("ann", name="a name")) == NO_PEER
    assert (desk.held, len(desk.tickets)) == (0, 0)


# --- who goes ----------------------------------------------------------------------------------------------


def test_who_hangs_up_leaves_the_pool() -> None:
    desk = Desk()
    held = desk.ask("ann")
    desk.matcher.withdraw(held, HungUp())
    assert (kind(held), desk.held, len(desk.tickets)) == ("hung up", 0, 0)


def test_who_is_turned_away_keeps_an_offer_that_is_out() -> None:
    desk = Desk()
    held, _ = desk.demoted("ann", "ben")
    desk.matcher.withdraw(held, Unavailable("shutting down", 1), unless_offered=True)
    assert kind(held) == ""
    desk.matcher.withdraw(held, Unavailable("shutting down", 1))
    assert kind(held).startswith("Unavailable")


def test_a_reply_that_is_decided_is_not_taken_back() -> None:
    desk = Desk()
    held, _ = desk.answered("ann", "ben")
    desk.matcher.withdraw(held, HungUp())
    assert kind(held) == ANSWER


def test_who_ends_while_the_store_is_asked_leaves_no_offer_behind(redis: RedisServer) -> None:
    for desk in (Desk(), shared(redis)):

        def end(ticket: Ticket, desk: Desk = desk) -> None:
            desk.matcher.resolve(ticket, HungUp())

        desk.ask("ann", opened=end)
        assert desk.held == 0
        _, nonce = desk.demoted("ben", "cat")
        desk.ask("cat", nonce, bounce=True, opened=end)
        assert desk.held == 1, "ben's, which cat gave back"
        desk.ask("dan", opened=end)
        assert desk.held == 1, "dan was handed it, and it returned"
        assert kind(desk.ask("eve")) == DEMOTE


def test_who_ends_while_the_store_is_asked_leaves_no_place_behind(redis: RedisServer) -> None:
    desk = shared(redis, most=5)
    desk.ask("ann", opened=lambda ticket: desk.matcher.resolve(ticket, HungUp()))
    assert eventually(lambda: not [key for key in redis.lifetimes() if key.endswith(":held")])


# --- a store that is away ----------------------------------------------------------------------------------


def test_while_the_store_is_away_what_ends_here_ends(redis: RedisServer) -> None:
    desk = shared(redis)
    held, answer = desk.answered("ann", "ben")
    waits = desk.ask("cat")
    reply = desk.matcher.begin(held, lambda: True)
    redis.kill()
    desk.matcher.finish(reply, written=True)
    assert desk.seen.words == []
    desk.matcher.withdraw(waits, HungUp())
    assert (kind(waits), kind(answer)) == ("hung up", "")
    assert isinstance(desk.ask("dan").result, Unavailable)


def test_what_the_store_has_lost_is_refused(redis: RedisServer) -> None:
    desk = shared(redis)
    held = [desk.ask("ann") for _ in range(3)]
    desk.matcher.resolve(held[1], HungUp())
    redis.call("FLUSHALL")
    desk.matcher.expire()  # unless the heartbeat has looked just now
    lost = "Unavailable the store is away"
    assert eventually(lambda: [kind(each) for each in held] == [lost, "hung up", lost])
