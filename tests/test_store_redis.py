"""The store in Redis keeps the promises of a store, and those that only several processes need."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from live import eventually
from redis_server import REDIS, VALKEY, RedisServer
from signal_server.errors import Unavailable
from signal_server.matching.stores.base import LEAVE_SECONDS, Name, Store
from signal_server.matching.stores.redis import RedisStore
from signal_server.matching.stores.redis_client import Servers
from signal_server.matching.stores.redis_owner import LEASE_MS
from signal_server.messages import ANSWER, DELIVERED, DEMOTE, NO_PEER
from store_contract import SWEEP_MS, TIMES, StoreContract, World, leaver_of


@pytest.fixture(scope="module", params=[REDIS, VALKEY], ids=["Redis", "Valkey"])
def running(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(request.param) as server:
        yield server


@pytest.fixture(scope="module")
def servers(running: RedisServer) -> Servers:
    return Servers(running.url, timeout_seconds=10)


@pytest.fixture
def redis(running: RedisServer) -> RedisServer:
    running.call("FLUSHALL")
    return running


class TestRedisStore(StoreContract):
    @pytest.fixture
    def world(self, redis: RedisServer, servers: Servers) -> World:
        return World(lambda clock: RedisStore(servers, TIMES, sweep_ms=SWEEP_MS, lease_ms=10**9, clock=clock))

    def test_a_request_may_come_after_the_last_leave_of_its_name(
        self, world: World, redis: RedisServer
    ) -> None:
        world.store.leave("a name", leaver_of("ann"))
        (key,) = redis.lifetimes()
        length = redis.call("STRLEN", key)
        redis.call("PEXPIRE", key, 500)
        world.store.leave("a name", leaver_of("ann"))
        assert 500 < redis.lifetimes()[key] <= LEAVE_SECONDS * 1000
        assert redis.call("STRLEN", key) == length, "it does not grow, however often she says so"


class Processes:
    """Some that share a store and a clock: `one`, `other`."""

    def __init__(self, servers: Servers, *, lease_ms: int = 10**9) -> None:
        self.now_ms = 1_000_000

        def make(_: Callable[[], int]) -> Store:
            return RedisStore(servers, TIMES, sweep_ms=SWEEP_MS, lease_ms=lease_ms, clock=lambda: self.now_ms)

        self.one, self.other = World(make), World(make)

    def tend(self) -> None:
        self.one.store.expire()
        self.other.store.expire()


@pytest.fixture
def both(redis: RedisServer, servers: Servers) -> Processes:
    return Processes(servers)


@pytest.fixture
def leased(redis: RedisServer, servers: Servers) -> Processes:
    return Processes(servers, lease_ms=LEASE_MS)


def test_a_name_is_free_as_soon_as_its_request_has_its_reply(
    both: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next request may be quicker than what the process of the first tells Redis."""

    def take(by: World, ticket: str) -> Name:
        return by.store.take_name("a name", leaver_of("ann"), ticket, "open:")

    assert take(both.one, "1") is Name.TAKEN
    assert take(both.other, "2") is Name.IN_USE
    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", lambda _: both.other.store.drop_name("a name"))
        assert take(both.other, "2") is Name.TAKEN


# --- several processes -------------------------------------------------------------------------------------


def test_each_process_is_told_of_its_own_requests_only(both: Processes) -> None:
    held = both.one.connect("ann")
    demoted = both.other.connect("ben").own
    answered = both.other.answer("ben", demoted.reply.nonce)
    assert answered.outcome.deliveries == []
    (answer,) = both.one.store.expire().deliveries
    assert (answer.ticket, answer.reply.type) == (held.ticket, ANSWER)
    assert both.one.store.claim(answer.reply.nonce).good
    assert both.one.store.settle(answer.reply.nonce, written=True).deliveries == []
    assert [(each.ticket, each.reply.type) for each in both.other.store.expire().deliveries] == [
        (answered.ticket, DELIVERED)
    ]


def test_mail_is_handed_out_once_and_does_not_stay(both: Processes, redis: RedisServer) -> None:
    both.one.connect("ann")
    nonce = both.other.connect("ben").own.reply.nonce
    both.other.answer("ben", nonce)
    assert len(both.one.store.expire().deliveries) == 1
    assert both.one.store.expire().deliveries == []
    assert not [key for key in redis.lifetimes() if key.endswith(":mail")]


def test_much_mail_is_fetched_at_once_and_in_order(both: Processes) -> None:
    tickets = [both.one.connect("ann").ticket for _ in range(250)]
    both.other.connect("ben")  # and so it lives
    both.now_ms += TIMES.request
    both.other.store.expire()
    assert [each.ticket for each in both.one.store.expire().deliveries] == sorted(tickets)


def test_who_has_mail_is_told(both: Processes) -> None:
    store, heard = both.one.store, list[bytes | None]()
    assert isinstance(store, RedisStore)
    store.listen(heard.append)
    assert eventually(lambda: heard == [None]), "it listens"
    both.one.connect("ann")
    nonce = both.other.connect("ben").own.reply.nonce
    assert heard == [None]
    both.other.answer("ben", nonce)
    shard = nonce.partition("-")[0].encode()
    assert eventually(lambda: heard == [None, shard])


@pytest.mark.parametrize("is_late", [False, True])
def test_an_answer_that_was_fetched_late_may_be_written_for_what_is_left(
    both: Processes, is_late: bool
) -> None:
    both.one.connect("ann")
    nonce = both.other.connect("ben").own.reply.nonce
    both.other.answer("ben", nonce)
    both.now_ms += TIMES.write - 500
    assert [each.reply.type for each in both.one.store.expire().deliveries] == [ANSWER]
    both.now_ms += 500 if is_late else 499
    assert both.one.store.claim(nonce).good is not is_late


@pytest.mark.parametrize("event", ["answer", "bounce"])
def test_a_request_whose_nonce_is_not_good_is_forgotten(both: Processes, event: str) -> None:
    told = getattr(both.one, event)("ben", "13-no such nonce")
    assert not told.outcome.good
    assert both.one.store._owners.shard_of(told.ticket) is None  # type: ignore[attr-defined]


# --- leases ------------------------------------------------------------------------------------------------


def test_the_peers_of_a_dead_process_leave_the_pool(leased: Processes, redis: RedisServer) -> None:
    leased.one.connect("ann")
    leased.now_ms += LEASE_MS - 1
    leased.other.store.release("0-none")
    assert leased.other.counts()["waiting"] == 1
    leased.now_ms += 1
    assert leased.other.connect("ben").outcome.deliveries == [], "a ghost was matched"
    assert leased.other.counts() == {"waiting": 1, "offered": 0, "handovers": 0, "pairs": 0}
    redis.call("FLUSHALL")


def test_a_responder_of_a_dead_process_s_offer_is_sent_on(leased: Processes) -> None:
    leased.one.connect("ann")
    nonce = leased.other.connect("ben").own.reply.nonce
    leased.now_ms += 2_000
    leased.other.store.expire()
    leased.now_ms += 1_000
    leased.other.connect("cat")
    told = leased.other.answer("ben", nonce)
    assert told.own.reply.type == DEMOTE
    assert told.own.reply.signal == "signal of cat"


def test_a_lapsed_process_claims_nothing_and_is_told_what_it_lost(leased: Processes) -> None:
    held = leased.one.connect("ann")
    waiting = leased.one.connect("ann")
    nonce = leased.other.connect("ben").own.reply.nonce
    leased.other.answer("ben", nonce)
    (answer,) = leased.one.store.expire().deliveries
    assert answer.ticket == held.ticket
    leased.now_ms += LEASE_MS
    assert not leased.one.store.claim(nonce).good
    assert leased.one.store.settle(nonce, written=False).lost == [waiting.ticket]


@pytest.mark.parametrize("is_own", [True, False])
def test_an_answer_is_claimed_while_it_may_be_written(leased: Processes, is_own: bool) -> None:
    """However long its process was stopped, and whether the answer came to it or to another."""
    responder = leased.one if is_own else leased.other
    for stopped_ms, is_good in ((2_599, True), (2_700, False)):
        leased.one.connect("ann")
        nonce = responder.connect("ben", rematch=True).own.reply.nonce
        responder.answer("ben", nonce)
        leased.now_ms += 0 if is_own else 100
        leased.one.store.expire()
        leased.now_ms += stopped_ms
        assert leased.one.store.claim(nonce).good is is_good
        assert not leased.one.store.claim(nonce).good
        leased.one.store.settle(nonce, written=False)
        leased.now_ms += TIMES.request


def test_a_lapsed_process_begins_anew(leased: Processes) -> None:
    held = leased.one.connect("ann")
    leased.now_ms += LEASE_MS
    told = leased.one.connect("ben")
    assert told.outcome.lost == [held.ticket]
    assert told.outcome.deliveries == []
    assert leased.one.counts()["waiting"] == 1
    assert not leased.one.store.withdraw(held.ticket).good


def test_a_settled_answer_of_a_lapsed_process_is_not_delivered(leased: Processes) -> None:
    leased.one.connect("ann")
    nonce = leased.other.connect("ben").own.reply.nonce
    answered = leased.other.answer("ben", nonce)
    leased.one.store.expire()
    assert leased.one.store.claim(nonce).good
    leased.now_ms += 2_900
    leased.other.store.expire()
    leased.now_ms += 100
    assert leased.one.store.settle(nonce, written=True).responder is None
    assert [(each.ticket, each.reply.type) for each in leased.other.store.expire().deliveries] == [
        (answered.ticket, NO_PEER)
    ]


def test_tending_prolongs_the_lease(leased: Processes) -> None:
    held = leased.one.connect("ann")
    for _ in range(4):
        leased.now_ms += 2_900
        assert leased.one.store.expire().deliveries == []
    assert leased.one.store.withdraw(held.ticket).good


@pytest.mark.parametrize("name", ["due", "offers"])
def test_what_is_never_empty_outlives_a_quiet_time(leased: Processes, redis: RedisServer, name: str) -> None:
    leased.one.connect("ann")
    redis.call("PEXPIRE", _only(redis, name), 1_000)
    leased.now_ms += 500
    leased.one.store.expire()
    assert redis.lifetimes()[_only(redis, name)] > 10_000


def test_a_dead_responder_gets_no_other_offer(leased: Processes) -> None:
    leased.one.connect("ann")
    nonce = leased.other.connect("ben").own.reply.nonce
    leased.other.answer("ben", nonce)
    leased.now_ms += 1_000
    leased.one.store.expire()
    leased.now_ms += 1_500
    leased.one.store.expire()
    leased.one.connect("cat")
    leased.now_ms += 500
    leased.one.store.expire()  # the answer is lost, and the other process's lease is over
    assert leased.one.counts() == {"waiting": 1, "offered": 0, "handovers": 0, "pairs": 0}


def test_nothing_of_the_dead_stays(leased: Processes, redis: RedisServer) -> None:
    leased.one.connect("ann")
    leased.other.answer("ben", leased.other.connect("ben").own.reply.nonce)  # so the one has mail
    assert redis.call("ZCARD", _only(redis, "mail")) == 1
    assert len(_owners(redis)) == 2
    leased.now_ms += 2_000
    leased.other.store.expire()
    leased.now_ms += 1_000
    leased.other.store.expire()
    assert len(_owners(redis)) == 1
    assert not [key for key in redis.lifetimes() if key.endswith(":mail")]


def test_no_mail_is_kept_for_the_dead(leased: Processes, redis: RedisServer) -> None:
    leased.one.connect("ann")
    nonce = leased.other.connect("ben").own.reply.nonce
    leased.now_ms += 200
    leased.other.answer("ben", nonce)
    leased.one.store.expire()
    assert leased.one.store.claim(nonce).good
    leased.now_ms += 1_800
    leased.one.store.expire()
    leased.now_ms += 1_000  # the other one is dead by now
    assert leased.one.store.settle(nonce, written=True).responder
    assert not [key for key in redis.lifetimes() if key.endswith(":mail")]


def test_many_ghosts_are_taken_away_bit_by_bit(leased: Processes, redis: RedisServer) -> None:
    for _ in range(1_200):
        leased.one.connect("ann")
    leased.now_ms += LEASE_MS
    before = calls(redis)
    assert leased.other.connect("ben").outcome.deliveries == []
    assert calls(redis) - before == 3, "500 with each call"
    assert leased.other.counts()["waiting"] == 1


def calls(redis: RedisServer) -> int:
    return int(redis.call("INFO", "commandstats")["cmdstat_fcall"]["calls"])


def test_much_that_ran_out_of_time_is_ended_bit_by_bit(both: Processes) -> None:
    tickets = [both.one.connect("ann").ticket for _ in range(1_200)]
    both.now_ms += TIMES.request
    told = both.one.connect("ben")
    assert [each.ticket for each in told.outcome.deliveries] == sorted(tickets)
    assert both.one.counts()["waiting"] == 1


# --- the epoch ---------------------------------------------------------------------------------------------


def test_what_another_life_of_redis_wrote_is_not_believed(servers: Servers) -> None:
    """As after a fail-over to a replica: all is there, but who knows what is missing."""
    with RedisServer(repl_diskless_sync_delay="0") as first, RedisServer() as replica:
        old, new = (
            Processes(Servers(first.url, timeout_seconds=10)),
            Processes(Servers(replica.url, timeout_seconds=10)),
        )
        old.one.pair("eve", "fay")
        held = old.one.connect("ann")
        waiting = old.one.connect("ann")
        nonce = old.one.connect("ben").own.reply.nonce
        replica.call("REPLICAOF", "127.0.0.1", first.port)
        deadline = time.monotonic() + 10
        while replica.call("INFO", "replication")["master_link_status"] != "up":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert replica.call("HLEN", _only(replica, "offers")) == 5
        replica.call("REPLICAOF", "NO", "ONE")
        assert not new.one.answer("ben", nonce).outcome.good, "a nonce of another epoch"
        assert new.one.counts() == {"waiting": 0, "offered": 0, "handovers": 0, "pairs": 1}
        # And the process that was there before, now on the replica:
        old.one.store._library._servers = Servers(replica.url, timeout_seconds=10)  # type: ignore[attr-defined]
        assert set(old.one.store.expire().lost) == {held.ticket, waiting.ticket}
        assert not old.one.store.claim(nonce).good


@contextmanager
def failed_over_and_back() -> Iterator[tuple[Processes, set[str], str, Processes]]:
    """Processes of a server before it was a replica, what they hold, a nonce, and processes after it."""
    with (
        RedisServer(repl_diskless_sync_delay="0") as first,
        RedisServer(repl_diskless_sync_delay="0") as other,
    ):
        before, between, after = (
            Processes(Servers(each.url, timeout_seconds=10)) for each in (first, other, first)
        )
        before.one.connect("ann")
        nonce = before.one.connect("ben").own.reply.nonce
        waiting = before.one.connect("ben")
        _become_replica(other, first)
        other.call("REPLICAOF", "NO", "ONE")
        answered = before.one.answer("ben", nonce)  # which the other one never hears
        between.one.connect("cat")
        _become_replica(first, other)
        first.call("REPLICAOF", "NO", "ONE")
        yield before, {waiting.ticket, answered.ticket}, nonce, after


def test_a_life_that_was_a_replica_since_does_not_go_on_where_it_was() -> None:
    """It has what it wrote itself as the other one had it, without its last words."""
    with failed_over_and_back() as (_, _, nonce, after):
        assert not after.one.answer("ben", nonce).outcome.good
        assert after.one.connect("dan").outcome.deliveries == []
        assert after.one.counts() == {"waiting": 1, "offered": 0, "handovers": 0, "pairs": 0}


def test_who_is_first_to_see_that_life_is_told_what_it_has_lost() -> None:
    with failed_over_and_back() as (before, held, _, _):
        before.now_ms += 2 * 10**8  # a fifth of its lease
        assert set(before.one.store.expire().lost) == held


def _become_replica(one: RedisServer, of: RedisServer) -> None:
    one.call("REPLICAOF", "127.0.0.1", of.port)
    deadline = time.monotonic() + 10
    while one.call("INFO", "replication")["master_link_status"] != "up":
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- what else Redis may do --------------------------------------------------------------------------------


def test_every_key_has_an_end(both: Processes, redis: RedisServer) -> None:
    both.one.pair("ann", "ben")
    both.one.handover("cat", "dan")
    nonce = both.other.connect("eve", pool="open:a")
    both.one.connect("fay", pool="open:a")
    both.one.store.remember_once("x", seconds=5)
    assert both.one.store.is_ready()
    both.other.store.withdraw(nonce.ticket)
    left = redis.lifetimes()
    assert len(left) > 8
    assert all(0 < ms <= 10**9 + 60_000 for ms in left.values())
    assert max(ms for key, ms in left.items() if key.endswith(":pairs")) >= TIMES.pair_memory


def test_a_peer_stands_in_line_once_however_much_it_offers(both: Processes, redis: RedisServer) -> None:
    def standing() -> list[str]:
        index = redis.call("ZRANGE", _only(redis, "index"), 0, -1)
        return [each.rpartition(" ")[2] for each in index if each.startswith("h ")]

    first, *others = (both.one.connect("ann").ticket for _ in range(3))
    assert standing() == [first]
    nonce = both.other.connect("ben").own.reply.nonce
    assert standing() == others[:1]
    both.other.store.release(nonce)
    assert standing() == [first]
    both.one.store.withdraw(first)
    assert standing() == others[:1]


def test_no_key_outlives_a_request_by_much(leased: Processes, redis: RedisServer) -> None:
    leased.one.connect("ann")
    leased.other.connect("ben")
    leased.other.connect("cat")
    assert all(30_000 < ms <= 50_000 for ms in redis.lifetimes().values()), "nor ends before it"


def test_no_namespace_is_seen_by_redis(both: Processes, redis: RedisServer) -> None:
    both.one.connect("ann", pool="open:a very private place")
    for key in redis.lifetimes():
        read = {"hash": ["HGETALL", key], "zset": ["ZRANGE", key, 0, -1], "string": ["GET", key]}
        found = redis.call(*read[redis.call("TYPE", key)])
        assert "signal of" in str(found) or not key.endswith(":offers")
        assert "private" not in str((key, found))


def test_what_the_dead_had_is_taken_away_also_where_a_part_of_it_was_evicted(
    leased: Processes, redis: RedisServer
) -> None:
    for _ in range(3):
        leased.one.connect("ann")
    redis.call("DEL", _only(redis, "offers"))
    leased.now_ms += LEASE_MS
    assert leased.other.connect("ann").outcome.good
    assert len(_owners(redis)) == 1
    told = leased.other.connect("ben").own.reply
    assert (told.type, told.signal) == (DEMOTE, "signal of ann"), (
        "what is gone does not hide what she offers now"
    )
    assert leased.other.counts() == {"waiting": 0, "offered": 1, "handovers": 1, "pairs": 0}


def test_mail_arrives_after_the_number_of_the_last_was_evicted(both: Processes, redis: RedisServer) -> None:
    for number in range(6):
        both.one.connect(f"ann{number}")
        nonce = both.other.connect(f"ben{number}").own.reply.nonce
        both.other.answer(f"ben{number}", nonce)
        assert [each.reply.type for each in both.one.store.expire().deliveries] == [ANSWER]
        both.one.store.settle(nonce, written=True)
        assert [each.reply.type for each in both.other.store.expire().deliveries] == [DELIVERED]
        both.now_ms += 1
        if number == 3:
            redis.call("DEL", _only(redis, "offers"))


def test_where_all_leases_were_evicted_nothing_stays(leased: Processes, redis: RedisServer) -> None:
    """Nobody would ever take away what a process had that is dead, too."""
    leased.one.connect("ann")
    leased.one.connect("bob")
    leased.one.connect("cat")
    redis.call("DEL", _only(redis, "due"))
    assert leased.other.connect("dan").outcome.deliveries == []
    assert leased.other.counts() == {"waiting": 1, "offered": 0, "handovers": 0, "pairs": 0}


def test_a_dead_workers_offer_that_returns_is_handed_to_nobody(leased: Processes) -> None:
    leased.one.connect("ann")
    leased.other.connect("ben")
    waiting = leased.other.connect("cat")
    leased.other.connect("ben")  # whom she is to meet when ben has let her offer lapse
    leased.now_ms += 2_500
    leased.one.store.expire()  # and no more, so its lease ends 0.5 s after the nonce
    leased.other.store.expire()
    leased.now_ms += 2_400
    leased.other.store.expire()
    leased.now_ms += 1_000
    told = leased.other.store.expire().deliveries
    assert waiting.ticket not in [each.ticket for each in told]


def test_a_request_whose_owner_ends_under_it_is_taken_back(both: Processes) -> None:
    owners = both.one.store._owners  # type: ignore[attr-defined]
    owners.note_waiting = lambda *_: False
    told = both.one.connect("ann")
    assert told.outcome.lost == [told.ticket]
    assert owners.shard_of(told.ticket) is None
    del owners.note_waiting
    both.one.store.expire()
    assert both.one.counts()["waiting"] == 0


def _owners(redis: RedisServer) -> list[str]:
    return [each for each in redis.call("ZRANGE", _only(redis, "due"), 0, -1) if each.endswith(" o")]


def _only(redis: RedisServer, name: str) -> str:
    (key,) = [each for each in redis.lifetimes() if each.endswith(f":{name}")]
    return key


def test_old_pairs_are_swept(redis: RedisServer, servers: Servers) -> None:
    world = World(lambda clock: RedisStore(servers, TIMES, sweep_ms=1, lease_ms=10**9, clock=clock))
    for number in range(600):
        world.pair(f"a{number}", f"b{number}")
    time.sleep(0.002)
    world.after(TIMES.pair_memory - 1)
    assert world.counts()["pairs"] == 600
    time.sleep(0.002)
    world.after(1)
    assert world.counts()["pairs"] == 0


@pytest.mark.parametrize("name", ["life", "offers", "handovers", "due", "index"])
def test_an_evicted_key_is_a_loss_and_not_an_error(both: Processes, redis: RedisServer, name: str) -> None:
    """A server that is short of memory throws a key away: the others go on as well as they can."""
    both.one.connect("zoe")
    both.one.connect("zoe")
    nonces = [both.other.connect(peer).own.reply.nonce for peer in ("ann", "ben")]
    held = [both.one.connect("cat").ticket, both.other.connect("cat").ticket]
    both.one.answer("ann", nonces[0])
    redis.call("DEL", _only(redis, name))
    both.other.answer("ben", nonces[1])
    both.one.store.withdraw(held[0])
    both.one.connect("dan")
    for _ in range(4):
        both.now_ms += 4_000
        both.tend()
    both.one.connect("eve")
    assert both.other.connect("fay").own.reply.signal == "signal of eve"


def test_a_full_server_refuses_before_anything_is_changed(both: Processes, redis: RedisServer) -> None:
    both.one.connect("ann")
    redis.call("CONFIG", "SET", "maxmemory", "1mb")
    try:
        with pytest.raises(Unavailable):
            both.one.connect("ben")
        assert not both.one.store.is_ready()
    finally:
        redis.call("CONFIG", "SET", "maxmemory", "0")
    assert both.one.counts()["waiting"] == 1
    assert both.one.connect("ben").types == [DEMOTE]


def test_too_few_replicas_refuse_before_anything_is_changed(both: Processes, redis: RedisServer) -> None:
    both.one.connect("ann")
    redis.call("CONFIG", "SET", "min-replicas-to-write", "1")
    try:
        with pytest.raises(Unavailable):
            both.one.connect("ben")
        assert not both.one.store.is_ready()
    finally:
        redis.call("CONFIG", "SET", "min-replicas-to-write", "0")
    assert both.one.connect("ben").types == [DEMOTE]


def test_the_server_s_own_clock_is_used(redis: RedisServer, servers: Servers) -> None:
    store = RedisStore(servers, TIMES, sweep_ms=SWEEP_MS)
    world = World(lambda _: store)
    world.connect("ann")
    ends = dict(redis.call("ZRANGE", _only(redis, "due"), 0, -1, "WITHSCORES"))
    (due,) = [ms for name, ms in ends.items() if name.endswith(" t")]
    assert abs(float(due) / 1000 - time.time() - 15) < 0.1


# --- lost replies ------------------------------------------------------------------------------------------


def test_a_request_whose_reply_was_lost_is_taken_out(
    both: Processes, monkeypatch: pytest.MonkeyPatch, redis: RedisServer
) -> None:
    both.one.connect("zoe", pool="open:elsewhere")
    with _losing_replies(both.one.store, monkeypatch), pytest.raises(Unavailable):
        both.one.connect("ann")
    assert both.one.counts()["waiting"] == 2
    both.one.store.expire()
    assert both.one.counts()["waiting"] == 1


def test_an_offer_that_a_lost_reply_handed_over_goes_back(
    both: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    both.one.connect("ann")
    with _losing_replies(both.other.store, monkeypatch), pytest.raises(Unavailable):
        both.other.connect("ben")
    assert both.one.counts()["offered"] == 1
    both.other.store.expire()
    assert both.one.counts() == {"waiting": 1, "offered": 0, "handovers": 0, "pairs": 0}
    assert both.one.connect("cat").own.reply.signal == "signal of ann"


def test_what_others_were_handed_stays_with_them(both: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    _, answered = both.one.handover("ann", "ben")
    both.one.answer("ben", answered)
    _, offered = both.one.handover("cat", "dan")
    with _losing_replies(both.one.store, monkeypatch), pytest.raises(Unavailable):
        both.one.connect("eve")
    assert both.one.counts() == {"waiting": 1, "offered": 1, "handovers": 2, "pairs": 0}
    both.one.store.expire()
    assert both.one.counts() == {"waiting": 0, "offered": 1, "handovers": 2, "pairs": 0}
    assert both.one.store.claim(answered).good
    assert both.one.answer("dan", offered).outcome.good


def test_an_offer_that_a_lost_reply_handed_to_one_who_waited_goes_back(
    both: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    both.one.handover("ann", "ben")
    waiting = both.one.connect("cat")
    both.now_ms += TIMES.answer
    with _losing_replies(both.one.store, monkeypatch), pytest.raises(Unavailable):
        both.one.store.release("13-none")  # which returns the offer of ann, for cat to answer
    assert both.one.counts()["offered"] == 1
    assert both.one.store.expire().lost == [waiting.ticket]
    both.one.store.expire()
    assert both.one.counts() == {"waiting": 1, "offered": 0, "handovers": 0, "pairs": 0}


def test_very_many_that_were_given_up_are_taken_out(both: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    with _losing_replies(both.one.store, monkeypatch):
        for _ in range(1_200):
            with pytest.raises(Unavailable):
                both.one.connect("ann")
    assert both.one.counts()["waiting"] == 1_200
    both.one.store.expire()
    assert both.one.counts()["waiting"] == 0


def test_a_command_that_was_not_sent_leaves_nothing_to_put_right() -> None:
    with RedisServer() as own:
        store = RedisStore(Servers(own.url), TIMES, sweep_ms=SWEEP_MS)
        world = World(lambda _: store)
        world.connect("ann")
        own.kill()
        with pytest.raises(Unavailable):
            world.connect("ben")  # which finds out, or is told
        withdrawals = dict(store._owners._withdrawals)
        for _ in range(10):
            with pytest.raises(Unavailable):
                world.connect("cat")
        assert store._owners._withdrawals == withdrawals


def test_what_a_lost_reply_said_of_others_is_found_out(
    both: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = both.one.connect("ann")
    both.now_ms += 1_000
    held = both.one.connect("ann")
    both.now_ms += TIMES.request - 1_000
    with _losing_replies(both.one.store, monkeypatch), pytest.raises(Unavailable):
        both.one.store.release("13-none")  # which has ended the first one, but we do not hear of it
    outcome = both.one.store.expire()
    assert outcome.lost == [ended.ticket]
    assert both.one.store.withdraw(held.ticket).good


def test_all_are_asked_about_at_once(both: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    _, nonce = both.one.handover("ann", "ben")
    waiting = both.one.connect("ann")
    answered = both.one.answer("ben", nonce)
    both.one.connect("ann")
    with _losing_replies(both.one.store, monkeypatch), pytest.raises(Unavailable):
        both.one.store.release("13-none")
    assert both.one.store.expire().lost == []
    assert both.one.store.withdraw(waiting.ticket).good
    assert both.one.store.claim(nonce).good
    told = both.one.store.settle(nonce, written=True).deliveries
    assert [(each.ticket, each.reply.type) for each in told] == [(answered.ticket, DELIVERED)]


def test_an_answer_whose_end_was_lost_is_found_out(both: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    _, nonce = both.one.handover("ann", "ben")
    answered = both.one.answer("ben", nonce)
    with _losing_replies(both.one.store, monkeypatch), pytest.raises(Unavailable):
        both.one.store.release("13-none")
    assert both.one.store.expire().lost == [], "it is still to come"
    with _losing_replies(both.one.store, monkeypatch), pytest.raises(Unavailable):
        both.one.store.settle(nonce, written=True)
    assert both.one.store.expire().lost == [answered.ticket]


class _losing_replies:
    """Commands are carried out, but nobody hears what came of them."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        assert isinstance(store, RedisStore)
        self._store, self._monkeypatch = store, monkeypatch

    def __enter__(self) -> None:
        run = self._store._library.run

        def lose(*words: object, **keys: object) -> None:
            run(*words, **keys)  # type: ignore[arg-type]
            raise Unavailable

        self._monkeypatch.setattr(self._store._library, "run", lose)

    def __exit__(self, *_: object) -> None:
        self._monkeypatch.undo()
