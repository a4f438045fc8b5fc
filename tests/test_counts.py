"""What the limits count, in the process and in Redis: the same."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from limits import parse

from live import eventually
from redis_server import RedisServer
from signal_server.errors import RateLimited
from signal_server.matching.limits import Limits, MemoryLimits, Windows
from signal_server.matching.stores import redis_heartbeat
from signal_server.matching.stores.base import Outcome
from signal_server.matching.stores.redis import RedisStore
from signal_server.matching.stores.redis_client import Servers
from signal_server.matching.stores.redis_counts import RedisLimits
from signal_server.matching.stores.redis_owner import LEASE_MS
from signal_server.matching.stores.redis_scripts import PREFIX
from signal_server.matching.tickets import Ticket
from signal_server.messages import DEMOTE, NO_PEER
from signal_server.settings import Settings
from store_contract import SWEEP_MS, TIMES

Make = Callable[..., Limits]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def servers(redis: RedisServer) -> Servers:
    return Servers(redis.url, timeout_seconds=10)


def settings(**rates: str | int | None) -> Settings:
    off: dict[str, Any] = {f"{name}_limit": None for name in ("request", "pair", "address")}
    given = {name: parse(rate) if isinstance(rate, str) else rate for name, rate in rates.items()}
    return replace(Settings.from_env({}, {}), **off | given)


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest, redis: RedisServer, servers: Servers) -> Make:
    redis.call("FLUSHALL")

    def limits(**rates: str | int | None) -> Limits:
        if request.param == "memory":
            return MemoryLimits(settings(**rates))
        return RedisLimits(servers, settings(**rates), longest_ms=60_000)

    return limits


def of(address: bytes = b"a", peer: bytes = b"p") -> Ticket:
    ticket = Ticket(address)
    ticket.peer = peer
    return ticket


def connect(limits: Limits, peer: bytes) -> None:
    """Count a connect of this peer at once."""
    ticket = of(peer=peer)
    limits.count_connect(ticket, may_wait=True)
    limits.count_now(ticket)


def refused(call: Callable[[], None]) -> tuple[str, int] | None:
    """The limit that refuses this, and in how many seconds it may be tried again."""
    try:
        call()
    except RateLimited as error:
        return str(error.reason), int(error.retry_after or 0)
    return None


def test_an_address_is_counted_in_its_window(make: Make) -> None:
    limits = make(address_limit="3 per 40 seconds")
    assert [refused(lambda: limits.count_address(of(b"a"))) for _ in range(3)] == [None] * 3
    limit, seconds = refused(lambda: limits.count_address(of(b"a"))) or ("", 0)
    assert limit == "address"
    assert 38 <= seconds <= 40
    assert refused(lambda: limits.count_address(of(b"b"))) is None


def test_a_worker_refuses_an_address_no_longer_than_a_window(redis: RedisServer, servers: Servers) -> None:
    """Also if Redis' clock was set back, or it has lost its counts."""
    redis.call("FLUSHALL")
    limits = RedisLimits(servers, settings(address_limit="1 per minute"), longest_ms=5_000)
    limits.count_address(of(b"a"))
    (key,) = redis.lifetimes()
    redis.call("PEXPIRE", key, 3_600_000)
    assert refused(lambda: limits.count_address(of(b"a"))) == ("address", 3_600)
    assert refused(lambda: limits.count_address(of(b"a"))) == ("address", 60)
    redis.call("FLUSHALL")
    servers._tell_all()  # as after it was away
    assert refused(lambda: limits.count_address(of(b"a"))) is None


def test_a_window_ends_and_is_not_prolonged_by_hits(make: Make) -> None:
    limits = make(address_limit="1 per 2 seconds")
    limits.count_address(of(b"a"))
    time.sleep(0.5)
    assert refused(lambda: limits.count_address(of(b"a")))
    time.sleep(1.7)
    assert refused(lambda: limits.count_address(of(b"a"))) is None


def test_a_connect_that_was_not_let_wait_is_not_counted(make: Make) -> None:
    limits = make(request_limit="1 per minute")
    connect(limits, b"p")
    limits.uncount_connect(b"p")
    assert refused(lambda: connect(limits, b"p")) is None
    assert refused(lambda: connect(limits, b"p")) == ("request", 60)
    limits.uncount_connect(b"nobody")
    assert refused(lambda: connect(limits, b"nobody")) is None
    assert refused(lambda: connect(limits, b"nobody")) == ("request", 60)


def test_a_connect_too_soon_after_a_pairing_is_not_counted(make: Make) -> None:
    limits = make(request_limit="1 per minute", pair_limit="1 per 2 seconds")
    limits.count_pairing(b"p")
    assert refused(lambda: connect(limits, b"p")) == ("pair", 2)
    time.sleep(1)
    limits.count_pairing(b"p")
    time.sleep(1.2)
    assert refused(lambda: connect(limits, b"p")) == ("pair", 1), "the window is of the last pairing"
    time.sleep(1)
    assert refused(lambda: connect(limits, b"p")) is None


def test_several_pairings_may_be_allowed(make: Make) -> None:
    limits = make(pair_limit="2 per minute")
    limits.count_pairing(b"p")
    assert [refused(lambda: connect(limits, b"p")) for _ in range(3)] == [None] * 3
    limits.count_pairing(b"p")
    assert refused(lambda: connect(limits, b"p")) == ("pair", 60)


def test_a_limit_that_is_off_counts_nothing(make: Make, redis: RedisServer) -> None:
    limits = make(held_per_address=None)
    for _ in range(9):
        limits.count_address(of(b"a"))
        connect(limits, b"p")
        limits.count_pairing(b"p")
        limits.uncount_connect(b"p")
        assert limits.take_place(b"a", "ticket")
    assert redis.lifetimes() == {}


def test_every_count_has_an_end(redis: RedisServer, servers: Servers) -> None:
    redis.call("FLUSHALL")
    for rate in ("1 per 5 seconds", "2 per 5 seconds"):
        limits = RedisLimits(
            servers,
            settings(address_limit=rate, request_limit=rate, pair_limit=rate, held_per_address=2),
            longest_ms=5_000,
        )
        limits.count_address(of(b"a"))
        connect(limits, rate.encode())
        limits.count_pairing(rate.encode())
        limits.uncount_connect(b"x")
        limits.take_place(b"a", rate)
    assert len(redis.lifetimes()) == 6
    assert all(0 < left <= 5_000 for left in redis.lifetimes().values())


def held(servers: Servers, most: int, longest_ms: int) -> Limits:
    return RedisLimits(servers, settings(held_per_address=most), longest_ms=longest_ms)


def test_so_many_are_held_and_no_more(redis: RedisServer, servers: Servers) -> None:
    redis.call("FLUSHALL")
    one, other = (held(servers, 2, 60_000) for _ in range(2))
    assert one.take_place(b"address", "a")
    assert other.take_place(b"address", "b")
    assert not one.take_place(b"address", "c")
    assert one.take_place(b"elsewhere", "c")
    other.leave_place(b"address", "b")
    assert eventually(lambda: one.take_place(b"address", "c"))
    assert not one.take_place(b"address", "d")


def test_who_is_held_has_a_place_to_the_millisecond(redis: RedisServer, servers: Servers) -> None:
    redis.call("FLUSHALL")

    def now_ms() -> int:
        seconds, microseconds = redis.call("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    while now_ms() % 1000 < 100:  # else a wrong fraction of a second would not show
        pass
    before = now_ms()
    assert held(servers, 2, 60_000).take_place(b"address", "a")
    (key,) = redis.lifetimes()
    ((_, ends),) = redis.call("ZRANGE", key, 0, -1, "WITHSCORES")
    assert before <= float(ends) - 60_000 <= now_ms()


def test_what_a_dead_process_held_is_forgotten(redis: RedisServer, servers: Servers) -> None:
    redis.call("FLUSHALL")
    short, long = held(servers, 2, 300), held(servers, 2, 60_000)
    assert short.take_place(b"address", "a")
    assert long.take_place(b"address", "b")
    assert not long.take_place(b"address", "c")
    assert eventually(lambda: long.take_place(b"address", "c"))
    assert not long.take_place(b"address", "d")


def test_a_place_that_a_dead_process_held_is_free_at_once(redis: RedisServer, servers: Servers) -> None:
    redis.call("FLUSHALL")
    one = held(servers, 2, 60_000)
    assert one.take_place(b"a", "living")
    (key,) = redis.lifetimes()
    redis.call("ZADD", key, "1", "dead")
    assert one.take_place(b"a", "next")
    assert not one.take_place(b"a", "one too many")


def test_counts_fall_back_to_the_process() -> None:
    with RedisServer() as own:
        rates = {
            "address_limit": "2 per minute",
            "request_limit": "1 per minute",
            "pair_limit": "1 per minute",
        }
        limits = RedisLimits(Servers(own.url), settings(**rates, held_per_address=1), longest_ms=5_000)
        limits.count_address(of(b"a"))
        assert limits.take_place(b"a", "one")
        limits.count_pairing(b"q")
        own.kill()
        assert [refused(lambda: limits.count_address(of(b"a"))) for _ in range(3)] == [
            None,
            None,
            ("address", 60),
        ]
        connect(limits, b"p")
        assert refused(lambda: connect(limits, b"p")) == ("request", 60)
        limits.uncount_connect(b"p")
        limits.count_pairing(b"p")
        assert refused(lambda: connect(limits, b"p")) == ("pair", 60)
        assert refused(lambda: connect(limits, b"q")) == ("pair", 60), "it was counted here, too"
        assert limits.take_place(b"a", "two"), "each process keeps to its own count meanwhile"
        limits.leave_place(b"a", "two")


# --- counted with an event ---------------------------------------------------------------------------------


class Desk:
    """A process that decides and counts in one call."""

    def __init__(self, servers: Servers, **rates: str | int | None) -> None:
        self.now_ms = 1_000_000
        self.limits = RedisLimits(servers, settings(**rates), longest_ms=60_000)
        self.store = RedisStore(servers, TIMES, sweep_ms=SWEEP_MS, clock=lambda: self.now_ms)
        self._numbers = itertools.count()

    def ask(
        self,
        address: bytes = b"a",
        peer: bytes = b"p",
        nonce: str | None = None,
        wait_ms: int = TIMES.request,
    ) -> Outcome:
        ticket = of(address, peer)
        ticket.ticket, ticket.pool, ticket.signal = f"ticket{next(self._numbers)}", "open:", "signal"
        ticket.peer = ticket.bearer = ticket.digest = peer.ljust(16)
        ticket.wait_ms = wait_ms
        self.limits.count_address(ticket, may_be_later=True)
        try:
            if nonce is not None:
                return self.store.answer(ticket, nonce)
            self.limits.count_connect(ticket, may_wait=True)
            return self.store.connect(ticket, may_wait=True)
        finally:
            assert ticket.counts == ()

    @property
    def waiting(self) -> int:
        return self.store.statistics()["waiting"]


@pytest.fixture
def desk(redis: RedisServer, servers: Servers) -> Callable[..., Desk]:
    redis.call("FLUSHALL")
    return lambda **rates: Desk(servers, **rates)


@pytest.mark.parametrize("limit", ["address", "request", "held"])
def test_one_too_many_is_not_begun(desk: Callable[..., Desk], limit: str) -> None:
    rate: str | int = 2 if limit == "held" else "2 per 40 seconds"
    one = desk(**{"held_per_address" if limit == "held" else f"{limit}_limit": rate})
    for _ in range(2):
        assert not one.ask().is_crowded
    if limit == "held":
        assert one.ask().is_crowded
    else:
        assert refused(lambda: one.ask()) == (limit, 40)
    assert one.waiting == 2


def test_who_was_paired_just_now_is_not_let_in(desk: Callable[..., Desk]) -> None:
    one = desk(pair_limit="1 per 40 seconds", request_limit="1 per 40 seconds")
    one.limits.count_pairing(b"p".ljust(16))
    for _ in range(2):
        assert refused(lambda: one.ask()) == ("pair", 40), "and the other limit has not counted it"
    assert one.waiting == 0


def test_an_answer_counts_to_its_address_alone(desk: Callable[..., Desk]) -> None:
    one = desk(address_limit="2 per 40 seconds", request_limit="1 per 40 seconds")
    one.ask(b"a", b"p")
    (told,) = one.ask(b"b", b"q").deliveries
    assert one.ask(b"b", b"q", told.reply.nonce).good
    assert refused(lambda: one.ask(b"b", b"q", told.reply.nonce)) == ("address", 40)


def test_the_nonce_of_an_answer_that_was_refused_is_looked_after(desk: Callable[..., Desk]) -> None:
    one, other = (desk(address_limit="2 per 40 seconds") for _ in range(2))
    one.ask(b"a", b"p")
    (told,) = one.ask(b"b", b"q").deliveries
    other.ask(b"b", b"r")
    assert refused(lambda: one.ask(b"b", b"q", told.reply.nonce)) == ("address", 40)
    assert one.store.take_open(told.reply.nonce), "its offer is given back when its time is over"


def test_an_event_that_has_to_be_begun_again_is_counted_once(
    desk: Callable[..., Desk], redis: RedisServer
) -> None:
    one = desk(address_limit="1000 per minute")
    for _ in range(600):  # more than one call ends
        one.ask(b"a", b"p")
    one.now_ms += TIMES.request + 1
    one.ask(b"b", b"q")
    assert redis.call("GET", f"{PREFIX}:limit:{{{b'b'.hex()}}}:address") == "1"
    assert one.waiting == 1
    one.now_ms += 10 * LEASE_MS  # its lease is over: it begins another life
    one.ask(b"c", b"r")
    assert redis.call("GET", f"{PREFIX}:limit:{{{b'c'.hex()}}}:address") == "1"


def test_what_a_refused_call_decided_before_is_handed_out_at_once(
    desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_heartbeat, "POLL_SECONDS", 60.0)
    one, handed = desk(request_limit="1 per 40 seconds"), list[Outcome]()
    one.store.start(handed.append)
    one.ask(wait_ms=1_000)
    one.now_ms += 1_500  # and its lease holds
    assert refused(lambda: one.ask()) == ("request", 40)
    assert eventually(lambda: any(told.reply.type == NO_PEER for each in handed for told in each.deliveries))


def test_a_place_is_taken_by_who_waits_alone(desk: Callable[..., Desk], redis: RedisServer) -> None:
    one = desk(held_per_address=1)
    one.ask(b"a", b"p")
    (told,) = one.ask(b"b", b"q").deliveries
    assert told.reply.type == DEMOTE
    assert redis.call("EXISTS", f"{PREFIX}:limit:{{{b'b'.hex()}}}:held") == 0
    assert redis.call("ZCARD", f"{PREFIX}:limit:{{{b'a'.hex()}}}:held") == 1


def test_who_needs_no_place_is_not_counted_for_another(desk: Callable[..., Desk]) -> None:
    one, other = desk(held_per_address=1), desk(held_per_address=None)
    one.ask()
    assert [other.ask().is_crowded for _ in range(3)] == [False] * 3
    assert one.waiting == 4


class Clock:
    """Seconds, which stand still."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


class TestWindows:
    """Those of a process, by a clock."""

    @pytest.mark.parametrize("hits", [1, 3])
    def test_a_window_lasts_to_its_end_whenever_others_begin(self, clock: Clock, hits: int) -> None:
        windows = Windows(hits, 10, "name", clock)
        begun = {}
        for number in range(100):  # a window each 0.7 s, so they end before and after every turn
            key = b"%d" % number
            for _ in range(hits):
                windows.hit(key)
            begun[key] = clock.now
            clock.now += 0.7
            for other, since in begun.items():
                left = since + 10 - clock.now
                if left > 0.001:
                    assert refused(lambda: windows.check(other)) == ("name", math.ceil(left))  # noqa: B023
                    assert refused(lambda: windows.hit(other)) == ("name", math.ceil(left))  # noqa: B023
                else:
                    windows.check(other)

    def test_a_window_ends_to_the_millisecond(self, clock: Clock) -> None:
        windows = Windows(1, 10, "name", clock)
        windows.check(b"a")
        windows.hit(b"a")
        clock.now += 8.999
        assert refused(lambda: windows.check(b"a")) == ("name", 2), "1,001 ms"
        clock.now += 1
        for ask in (windows.check, windows.hit):
            assert refused(lambda: ask(b"a")) == ("name", 1)  # noqa: B023
        clock.now += 0.001
        windows.check(b"a")
        windows.hit(b"a")
        assert refused(lambda: windows.hit(b"a")) == ("name", 10)

    def test_windows_that_have_ended_are_forgotten(self, clock: Clock) -> None:
        windows = Windows(1, 10, "name", clock)
        for number in range(1000):
            windows.hit(b"%d" % number)
            clock.now += 0.1
            assert len(windows) <= 201
        assert len(windows) > 100
        clock.now += 20
        windows.hit(b"a")
        assert len(windows) == 1

    def test_the_window_of_the_last_hit_is_as_long(self, clock: Clock) -> None:
        windows = Windows(1, 10, "name", clock)
        for _ in range(5):
            windows.restart(b"a")
            clock.now += 9
            assert refused(lambda: windows.check(b"a")) == ("name", 1)
        clock.now += 0.999
        assert refused(lambda: windows.check(b"a")) == ("name", 1), "1 ms"
        clock.now += 0.001
        windows.check(b"a")
        windows.restart(b"b")
        assert len(windows) <= 2

    def test_windows_of_last_hits_are_kept_and_forgotten_too(self, clock: Clock) -> None:
        windows = Windows(1, 10, "name", clock)
        for number in range(500):
            windows.restart(b"%d" % number)
            clock.now += 0.1
            assert len(windows) <= 201
            if number >= 90:
                assert refused(lambda: windows.check(b"%d" % (number - 90)))  # noqa: B023

    def test_what_is_taken_back_was_never_hit(self, clock: Clock) -> None:
        windows = Windows(2, 10, "name", clock)
        windows.take_back(b"nobody")
        assert len(windows) == 0
        windows.hit(b"other")
        clock.now += 9
        windows.hit(b"a")
        windows.hit(b"a")
        clock.now += 2
        windows.hit(b"b")  # by when that of a is one of the old
        windows.take_back(b"a")
        windows.check(b"a")
        windows.hit(b"a")
        assert refused(lambda: windows.check(b"a")) == ("name", 8)
        for _ in range(3):
            windows.take_back(b"a")
        for _ in range(2):
            windows.hit(b"a")
        assert refused(lambda: windows.hit(b"a")) == ("name", 8)
