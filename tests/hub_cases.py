"""What calls of Redis promise under gevent; `test_redis_hub.py` runs these in a process that is patched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import gevent
import pytest
from gevent.monkey import is_module_patched

from live import eventually
from redis_server import RedisServer, redis_over_tls
from signal_server.errors import Unavailable
from signal_server.matching.stores.redis_client import Servers
from signal_server.matching.stores.redis_hub import HubConnection
from signal_server.matching.stores.redis_protocol import Refused, Unsent, pack

KEY = b"key"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    assert is_module_patched("socket")
    with RedisServer() as server:
        yield server


@pytest.fixture
def servers(redis: RedisServer) -> Servers:
    return Servers(redis.url)


def echo(servers: Servers, text: bytes) -> bytes:
    told: bytes = servers.call(KEY, pack(b"ECHO", text))
    return told


def test_each_greenlet_gets_its_own_reply_whoever_is_killed(servers: Servers) -> None:
    random, wrong, right = Random(5), list[bytes](), list[bytes]()

    def ask(number: int) -> None:
        for each in range(20):
            text = b"%d.%d" % (number, each)
            (right if echo(servers, text) == text else wrong).append(text)

    asking = [gevent.spawn(ask, number) for number in range(100)]
    for _ in range(30):
        gevent.sleep(0.001)
        random.choice(asking).kill(block=False)
    gevent.joinall(asking)
    assert wrong == []
    assert len(right) > 1_000


def test_a_greenlet_that_is_woken_early_waits_on(servers: Servers) -> None:
    told = list[bytes]()
    echo(servers, b"first")
    asking = gevent.spawn(lambda: told.append(echo(servers, b"mine")))
    gevent.sleep(0)
    gevent.get_hub().loop.run_callback(asking.switch)
    asking.join()
    assert told == [b"mine"]


def test_a_step_that_fails_spoils_no_other(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    told = list[bytes]()

    def fail() -> None:
        echo(servers, b"x")
        raise RuntimeError("of this step")

    for number in range(9):
        gevent.spawn_raw(fail)
        gevent.spawn_raw(lambda text: told.append(echo(servers, text)), b"%d" % number)
    assert eventually(lambda: told == [b"%d" % number for number in range(9)])
    assert "of this step" in capsys.readouterr().err


def test_commands_that_the_kernel_does_not_take_at_once_arrive_whole(redis: RedisServer) -> None:
    servers = Servers(redis.url, timeout_seconds=5)
    texts = [bytes([65 + number]) * 4_000_000 for number in range(4)]
    asking = [gevent.spawn(echo, servers, text) for text in texts]
    gevent.joinall(asking)
    assert [each.value for each in asking] == texts


def test_an_error_is_of_its_own_call(servers: Servers) -> None:
    before, asking, after = (gevent.spawn(servers.ask, KEY, pack(b"ECHO", b"x")) for _ in range(3))
    with pytest.raises(Refused, match="unknown command") as refused:
        servers.ask(KEY, pack(b"NONSENSE"))
    assert refused.value.is_forbidden
    with pytest.raises(Unavailable):
        servers.call(KEY, pack(b"GET"))
    gevent.joinall([before, asking, after])
    assert [each.value for each in (before, asking, after)] == [b"x"] * 3


def test_what_is_sent_is_carried_out_before_what_is_asked_after_it(servers: Servers) -> None:
    for number in range(50):
        servers.send(KEY, pack(b"SET", KEY, b"%d" % number))
        assert servers.call(KEY, pack(b"GET", KEY)) == b"%d" % number


def test_a_stopped_server_is_away_at_once_and_back_by_itself(redis: RedisServer) -> None:
    back = list[float]()
    servers = Servers(redis.url)
    servers._tell_all = lambda: back.append(time.monotonic())  # type: ignore[method-assign]
    echo(servers, b"x")
    redis.stop()
    try:
        began = time.monotonic()
        asking = [gevent.spawn(echo, servers, b"x") for _ in range(10)]
        gevent.joinall(asking, raise_error=False)
        assert {type(each.exception) for each in asking} == {Unavailable}, "some may have been carried out"
        assert 0.4 < time.monotonic() - began < 1
        began = time.monotonic()
        with pytest.raises(Unsent):
            echo(servers, b"x")
        assert time.monotonic() - began < 0.1
    finally:
        redis.go_on()
    assert eventually(lambda: back)
    assert echo(servers, b"new") == b"new", "not the reply of a call before"


def test_a_slow_process_is_no_slow_server(redis: RedisServer, servers: Servers) -> None:
    echo(servers, b"x")
    asking = gevent.spawn(echo, servers, b"mine")
    gevent.sleep(0)
    until = time.perf_counter() + 0.8
    while time.perf_counter() < until:
        pass  # the hub has no turn
    asking.join()
    assert asking.value == b"mine"


def test_a_cut_connection_fails_what_was_under_way_and_nothing_else(redis: RedisServer) -> None:
    servers = Servers(redis.url)
    echo(servers, b"x")
    redis.stop()
    under_way = gevent.spawn(echo, servers, b"x")
    gevent.sleep(0.05)
    (connection,) = servers._connections.values()
    assert isinstance(connection, HubConnection)
    assert connection._stream is not None
    connection._stream.lose(ConnectionResetError())
    later = gevent.spawn(echo, servers, b"later")
    gevent.sleep(0.05)
    redis.go_on()
    gevent.joinall([under_way, later])
    assert type(under_way.exception) is Unavailable
    assert later.value == b"later"


def test_an_idle_connection_that_is_cut_is_made_anew_before_anybody_waits(redis: RedisServer) -> None:
    servers = Servers(redis.url)
    for _ in range(5):
        echo(servers, b"x")
        redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        gevent.sleep(0.05)
        assert echo(servers, b"again") == b"again"


def test_a_server_that_ends_fails_all_and_the_next_one_serves(servers: Servers) -> None:
    with RedisServer() as own:
        servers = Servers(own.url)
        echo(servers, b"x")
        own.kill()
        with pytest.raises(Unavailable):
            echo(servers, b"x")
        own.start()
        assert eventually(lambda: _echoes(servers))


def _echoes(servers: Servers) -> bool:
    try:
        return echo(servers, b"x") == b"x"
    except Unavailable:
        return False


def test_notices_are_heard_and_a_cut_is_told(redis: RedisServer, servers: Servers) -> None:
    heard = list[bytes | None]()
    notices = servers.listen("channel", heard.append)
    assert eventually(lambda: heard == [None])
    assert notices.is_listening
    for number in range(100):
        redis.call("PUBLISH", "channel", number)
    assert eventually(lambda: heard[1:] == [b"%d" % number for number in range(100)])
    redis.call("CLIENT", "KILL", "TYPE", "pubsub")
    assert eventually(lambda: heard[101:] == [None])
    redis.call("PUBLISH", "channel", "more")
    assert eventually(lambda: heard[102:] == [b"more"])


def test_over_tls(tmp_path: Path) -> None:
    with redis_over_tls(tmp_path) as port:
        servers = Servers(f"rediss://127.0.0.1:{port}/0", verify_tls=False)
        texts = [bytes([65 + number]) * 1_000_000 for number in range(3)]
        asking = [gevent.spawn(echo, servers, text) for text in texts]
        gevent.joinall(asking)
        assert [each.value for each in asking] == texts
        with pytest.raises(Unavailable):
            echo(Servers(f"rediss://127.0.0.1:{port}/0"), b"x")
