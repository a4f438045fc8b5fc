"""The Lua as functions and as scripts: without functions, with an ACL, of two releases."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from redis_server import REDIS, VALKEY, RedisServer
from signal_server.errors import Unavailable
from signal_server.matching.stores import redis_scripts
from signal_server.matching.stores.redis import RedisStore
from signal_server.matching.stores.redis_client import Servers
from signal_server.messages import DEMOTE, Arrival
from store_contract import SWEEP_MS, TIMES, StoreContract, World

NO_FUNCTIONS = {"rename_command": 'FUNCTION ""'}


@pytest.fixture(scope="module", params=[REDIS, VALKEY], ids=["Redis", "Valkey"])
def redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(request.param) as server:
        yield server


def store(url: str) -> RedisStore:
    return RedisStore(Servers(url, timeout_seconds=10), TIMES, sweep_ms=SWEEP_MS)


def link(one: RedisStore, other: RedisStore, name: str) -> None:
    held, asking = World(lambda _: one), World(lambda _: other)
    pool = f"open:{name}"
    assert held.connect("ann", pool=pool).outcome.deliveries == []
    assert asking.connect("ben", pool=pool).types == [DEMOTE]


def libraries(redis: RedisServer) -> set[str]:
    return {each["library_name"] for each in redis.call("FUNCTION", "LIST")}


def calls(redis: RedisServer, command: str) -> int:
    return int(redis.call("INFO", "commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


@pytest.fixture(scope="module")
def without() -> Iterator[RedisServer]:
    with RedisServer(**NO_FUNCTIONS) as server:
        yield server


class TestScripts(StoreContract):
    """The whole contract on a server that has no functions."""

    @pytest.fixture
    def world(self, without: RedisServer) -> World:
        without.call("FLUSHALL")
        servers = Servers(without.url, timeout_seconds=10)
        return World(lambda clock: RedisStore(servers, TIMES, sweep_ms=SWEEP_MS, lease_ms=10**9, clock=clock))

    def test_it_was_scripts(self, world: World, without: RedisServer) -> None:
        world.connect("ann")
        assert world.counts()["waiting"] == 1
        before = calls(without, "evalsha")
        world.connect("ben")
        assert calls(without, "evalsha") == before + 1


def test_functions_are_used_where_there_are_any(redis: RedisServer) -> None:
    link(store(redis.url), store(redis.url), "functions")
    assert calls(redis, "evalsha") == 0
    assert len(libraries(redis)) == 1


def test_a_flushed_library_and_flushed_scripts_are_loaded_again(redis: RedisServer) -> None:
    used = store(redis.url)
    link(used, used, "one")
    redis.call("FUNCTION", "FLUSH")
    link(used, used, "two")
    with RedisServer(**NO_FUNCTIONS) as without:
        used = store(without.url)
        link(used, used, "one")
        without.call("SCRIPT", "FLUSH")
        link(used, used, "two")


def test_a_user_that_may_use_no_functions_gets_scripts(redis: RedisServer) -> None:
    redis.call("ACL", "SETUSER", "app", "on", ">word", "~*", "&*", "+@all", "-fcall", "-function")
    url = redis.url.replace("redis://", "redis://app:word@")
    before = calls(redis, "evalsha")
    link(store(url), store(url), "with an ACL")
    assert calls(redis, "evalsha") > before


def test_a_user_that_may_use_neither_is_refused(redis: RedisServer) -> None:
    redis.call("ACL", "SETUSER", "no", "on", ">word", "~*", "&*", "+@all", "-@scripting")
    with pytest.raises(Unavailable):
        store(redis.url.replace("redis://", "redis://no:word@")).pools()


def test_two_releases_share_a_server_and_the_old_one_leaves_nothing(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = store(redis.url)
    link(old, old, "old")
    (old_library,) = libraries(redis)
    read = redis_scripts._read
    monkeypatch.setattr(redis_scripts, "_read", lambda name: read(name) + b"-- another release\n")
    new = store(redis.url)
    link(new, new, "new")
    (new_library,) = libraries(redis)
    assert new_library != old_library
    link(old, new, "one of each")
    assert libraries(redis) == {old_library, new_library}, "the old one goes on, and deletes nothing"
    loads = calls(redis, "function|load")
    for number in range(20):
        link(old, new, f"{number}")
    assert calls(redis, "function|load") == loads, "they do not take turns"
    redis.call("FUNCTION", "DELETE", new_library)
    link(store(redis.url), new, "a worker that begins")
    assert libraries(redis) == {new_library}


def test_an_arrival_has_the_fields_that_lua_expects() -> None:
    """Both sides list them, in the same order."""
    fields = re.search(r"ARRIVAL = \{(.*)\}", redis_scripts._read("state").decode())
    assert fields is not None
    names = re.findall(r"'(\w+)'", fields[1])
    arrival = Arrival("ticket", "pool", b"p" * 16, b"b" * 16, "signal", b"d" * 16, 1_234, True, "name", b"l")
    written = dict(zip(names, redis_scripts.word_of(arrival).decode().split(" "), strict=True))
    assert {name: written[name] for name in ("ticket", "wait", "rematch", "named")} == {
        "ticket": "ticket",
        "wait": "1234",
        "rematch": "1",
        "named": "1",
    }
    for name, value in {"peer": arrival.peer, "bearer": arrival.bearer, "digest": arrival.digest}.items():
        assert written[name] == value.hex()
