"""What the limits count, in the process and in Redis: the same."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from limits.storage import Storage

from live import eventually
from redis_server import RedisServer
from signal_server.matching.limits import MemoryCounts
from signal_server.matching.stores.redis_client import Servers
from signal_server.matching.stores.redis_counts import RedisCounts, RedisHeld


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def servers(redis: RedisServer) -> Servers:
    return Servers(redis.url, timeout_seconds=10)


@pytest.fixture(params=["memory", "redis"])
def counts(request: pytest.FixtureRequest, redis: RedisServer, servers: Servers) -> Storage:
    redis.call("FLUSHALL")
    return MemoryCounts() if request.param == "memory" else RedisCounts(servers)


def test_a_window_begins_with_its_first_hit(counts: Storage) -> None:
    assert counts.get("a") == 0
    assert [counts.incr("a", 60) for _ in range(3)] == [1, 2, 3]
    assert counts.get("a") == 3
    assert counts.get("b") == 0
    assert counts.get_expiry("a") == pytest.approx(time.time() + 60, abs=0.5)
    assert counts.get_expiry("b") == pytest.approx(time.time(), abs=0.5)


def test_a_window_ends_and_is_not_prolonged_by_hits(counts: Storage) -> None:
    counts.incr("a", 2)
    time.sleep(0.5)
    counts.incr("a", 2)
    time.sleep(1.7)
    assert counts.get("a") == 0
    assert counts.incr("a", 2) == 1


def test_a_hit_is_taken_back(counts: Storage) -> None:
    counts.incr("a", 60)
    counts.incr("a", 60)
    assert counts.incr("a", 60, -1) == 1
    assert counts.get_expiry("a") == pytest.approx(time.time() + 60, abs=5)


def test_a_cleared_window_begins_anew(counts: Storage) -> None:
    counts.incr("a", 60)
    counts.clear("a")
    assert counts.incr("a", 60) == 1


def test_every_count_has_an_end(redis: RedisServer, servers: Servers) -> None:
    redis.call("FLUSHALL")
    RedisCounts(servers).incr("x", 5)
    RedisHeld(servers, 2, 5_000).hold("address", "one")
    assert all(0 < left <= 5_000 for left in redis.lifetimes().values())


def test_so_many_are_held_and_no_more(redis: RedisServer, servers: Servers) -> None:
    redis.call("FLUSHALL")
    one, other = (RedisHeld(servers, 2, 60_000) for _ in range(2))
    assert one.hold("address", "a")
    assert other.hold("address", "b")
    assert not one.hold("address", "c")
    assert one.hold("elsewhere", "c")
    other.let_go("address", "b")
    assert eventually(lambda: one.hold("address", "c"))
    assert not one.hold("address", "d")


def test_what_a_dead_process_held_is_forgotten(redis: RedisServer, servers: Servers) -> None:
    redis.call("FLUSHALL")
    short, long = RedisHeld(servers, 2, 300), RedisHeld(servers, 2, 60_000)
    assert short.hold("address", "a")
    assert long.hold("address", "b")
    assert not long.hold("address", "c")
    assert eventually(lambda: long.hold("address", "c"))
    assert not long.hold("address", "d")


def test_counts_fall_back_to_the_process() -> None:
    with RedisServer() as own:
        servers = Servers(own.url)
        counts, held = RedisCounts(servers), RedisHeld(servers, 1, 5_000)
        assert counts.incr("a", 60) == 1
        assert held.hold("address", "a")
        own.kill()
        assert [counts.incr("a", 60) for _ in range(3)] == [1, 2, 3]
        assert counts.get("a") == 3
        assert counts.get_expiry("a") == pytest.approx(time.time() + 60, abs=1)
        counts.clear("a")
        assert counts.get("a") == 0
        assert held.hold("address", "b"), "each process keeps to its own count meanwhile"
        held.let_go("address", "b")
