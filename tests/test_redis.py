"""Many workers, one server: real gunicorns, a real Redis, and all that may go wrong between them."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

import signal_server.matching.stores.redis_scripts as redis_scripts
from live import ROOT, Call, Reply, Server, eventually, free_port
from redis_server import RedisServer, cluster, redis_over_tls
from signed_peer import SignedPeer

ALONE = {"SECRET_KEY": "the same everywhere"}
SHARED = ALONE | {"WEB_CONCURRENCY": 3}
TWO = ALONE | {"WEB_CONCURRENCY": 2}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def running(redis: RedisServer) -> Iterator[list[Server]]:
    """Two servers of three workers each."""
    with ExitStack() as stack:
        yield [stack.enter_context(Server(REDIS_URL=redis.url, **SHARED)) for _ in range(2)]


@pytest.fixture
def pair(running: list[Server], redis: RedisServer) -> list[Server]:
    if redis.process.poll() is not None:
        redis.start()
    redis.go_on()
    redis.call("CONFIG", "SET", "min-replicas-to-write", "0")
    redis.call("FLUSHALL")
    for server in running:
        until_ready(server)
    return running


USER = re.search(r"^ACL SETUSER spacerift (.+)$", (ROOT / "docs/scale-out.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("more", [(), ("-function", "-fcall")], ids=["functions", "scripts"])
def test_a_user_with_the_documented_rights_is_enough(more: tuple[str, ...]) -> None:
    assert USER
    with RedisServer() as redis:
        redis.call("ACL", "SETUSER", "spacerift", *USER[1].split(), *more)
        url = redis.url.replace("//", "//spacerift:PASSWORD@")
        with Server(REDIS_URL=url, **ALONE) as one, Server(REDIS_URL=url, **ALONE) as other:
            until_ready(one)
            until_ready(other)
            with one.offer("alice") as waiting:
                one.until(waiting=1)
                bob = {"TYPE": "CONNECT", "FINGERPRINT": "bob", "SIGNAL": "his"}
                demoted = other.post(bob)
                assert other.post(bob | {"NONCE": demoted["NONCE"]}).type == "DELIVERED"
                assert waiting.reply()["SIGNAL"] == "his"
            name = {"FINGERPRINT": "carol", "REQUEST": "0123456789abcdef" * 2}
            with one.offer("carol", **name):
                one.until(waiting=1)
                assert other.post({"TYPE": "LEAVE", **name}).type == "LEFT"
                one.until(waiting=0)
            assert "refuses" not in one.log + other.log


@pytest.mark.parametrize("less", [("-info",), ("resetchannels",), ("-set",), ("-@all",)], ids=" ".join)
def test_a_user_with_fewer_rights_is_refused_and_redis_is_not_away(less: tuple[str, ...]) -> None:
    assert USER
    with RedisServer() as redis:
        redis.call("ACL", "SETUSER", "spacerift", *USER[1].split(), *less)
        with Server(REDIS_URL=redis.url.replace("//", "//spacerift:PASSWORD@"), **ALONE) as server:
            assert server.get("/ready")[0] == 503
            deadline = time.monotonic() + 10
            while "Redis refuses" not in server.log:
                assert time.monotonic() < deadline, server.log
                time.sleep(0.02)
            assert "is away" not in server.log


def until_ready(server: Server) -> None:
    """Wait until each of its workers is ready."""

    def ask(_: int) -> tuple[int, bool]:
        told = json.loads(server.get("/test/worker")[2])
        return told["pid"], told["is_ready"]

    deadline, ready = time.monotonic() + 10, set[int]()
    with ThreadPoolExecutor(6) as threads:
        while ready != set(server.workers):
            assert time.monotonic() < deadline, "it does not get ready"
            ready |= {pid for pid, is_ready in threads.map(ask, range(6)) if is_ready}
            ready &= set(server.workers)


def link(one: Server, other: Server, name: str, others: int = 0, **extra: object) -> float:
    """Two strangers link, through the two servers. Returns the seconds from the answer to its arrival."""
    with one.offer(f"{name}-offer", **extra) as held:
        held_by(other, others + 1)
        told = other.post(TYPE="CONNECT", SIGNAL="mine", FINGERPRINT=f"{name}-2", **extra)
        assert told.type == "DEMOTE", told
        assert told["SIGNAL"] == f"{name}-offer"
        began = time.monotonic()
        with answer(other, told, f"{name}-answer", f"{name}-2", **extra) as answering:
            delivered = answering.reply()
            assert delivered.type == "DELIVERED", delivered
            answered = held.reply()
            assert (answered.type, answered["SIGNAL"]) == ("ANSWER", f"{name}-answer")
            took = time.monotonic() - began
    return took


def answer(server: Server, told: Reply, text: str, who: str, **extra: object) -> Call:
    return server.call(TYPE="CONNECT", SIGNAL=text, NONCE=told["NONCE"], FINGERPRINT=who, **extra)


def held_by(server: Server, count: int) -> None:
    deadline = time.monotonic() + 10
    while server.statistics()["waiting"] != count:
        assert time.monotonic() < deadline, "nobody waits"


# --- without faults ----------------------------------------------------------------------------------------


def test_strangers_link_through_any_workers_of_any_servers(pair: list[Server]) -> None:
    took = sorted(link(pair[number % 2], pair[number // 2 % 2], f"n{number}") for number in range(40))
    assert took[len(took) // 2] < 0.2, "most waited for more than a notice"


def test_a_storm_links_everybody_with_one_other(pair: list[Server]) -> None:
    """Half of them offer and half of them answer, whoever comes first; nobody gets what is not for him."""

    def peer(number: int) -> tuple[str, str]:
        server, name = pair[number % 2], f"p{number}"
        for _ in range(20):
            told = server.post(TYPE="CONNECT", SIGNAL=f"offer {name}", FINGERPRINT=name, NAMESPACE="storm")
            if told.type == "ANSWER":
                assert told["SIGNAL"].startswith(f"answer to offer {name} by ")
                return name, told["SIGNAL"].rpartition(" ")[2]
            while told.type == "DEMOTE":
                text = f"answer to {told['SIGNAL']} by {name}"
                other = told["SIGNAL"].rpartition(" ")[2]
                with answer(server, told, text, name, NAMESPACE="storm") as call:
                    told = call.reply()
                if told.type == "DELIVERED":
                    return name, other
        raise AssertionError(f"{name} found nobody: {told}")

    with ThreadPoolExecutor(40) as threads:
        met = dict(threads.map(peer, range(40)))
    assert all(met[other] == name for name, other in met.items())


def test_a_hang_up_on_one_server_is_known_to_the_other(pair: list[Server]) -> None:
    with pair[0].offer("leaves"):
        held_by(pair[1], 1)
    held_by(pair[1], 0)
    with pair[1].offer("stays") as call:
        held_by(pair[0], 1)
        assert call.is_held()


def test_an_initiator_that_left_sends_the_responder_on(pair: list[Server]) -> None:
    with pair[0].offer("leaves"):
        held_by(pair[1], 1)
        told = pair[1].post(TYPE="CONNECT", SIGNAL="mine", FINGERPRINT="b")
    with answer(pair[1], told, "answer", "b") as call:
        assert call.reply().type == "NO_PEER"


def test_a_bounce_is_remembered_everywhere(pair: list[Server]) -> None:
    with pair[0].offer("a") as held:
        held_by(pair[1], 1)
        told = pair[1].post(TYPE="CONNECT", SIGNAL="b", FINGERPRINT="b")
        with pair[1].call(TYPE="BOUNCE", SIGNAL="b", NONCE=told["NONCE"], FINGERPRINT="b") as bounced:
            held_by(pair[0], 2)
            assert held.is_held()
            assert bounced.is_held()
            other = pair[0].post(TYPE="CONNECT", SIGNAL="c", FINGERPRINT="c")
            assert other["SIGNAL"] == "a"


def test_waiting_ends_in_time_on_every_worker(redis: RedisServer) -> None:
    with Server(REDIS_URL=redis.url, REQUEST_TIMEOUT=1, **TWO) as server, ExitStack() as stack:
        began = time.monotonic()
        calls = [
            stack.enter_context(server.offer("same", NAMESPACE=f"n{number % 3}")) for number in range(24)
        ]
        for call in calls:
            assert call.reply().type == "NO_NAMESPACE_PEER"
        assert 0.95 < time.monotonic() - began < 5


def test_limits_hold_over_all_workers(redis: RedisServer) -> None:
    rates = {"REQUEST_LIMIT": "3 per minute", "PAIR_LIMIT": "", "ADDRESS_LIMIT": "", "REQUEST_TIMEOUT": 0.2}
    with Server(REDIS_URL=redis.url, limits=True, **rates, **TWO) as server:
        told = [server.post(TYPE="CONNECT", SIGNAL="x", FINGERPRINT="f") for _ in range(8)]
        assert [each.status for each in told] == [299] * 3 + [297] * 5
        assert 50 <= told[-1]["RETRY_AFTER"] <= 60


def test_so_many_of_an_address_may_wait_over_all_workers(redis: RedisServer) -> None:
    with Server(REDIS_URL=redis.url, HELD_PER_ADDRESS=5, **TWO) as server, ExitStack() as stack:
        calls = [stack.enter_context(server.offer("same")) for _ in range(12)]
        deadline = time.monotonic() + 5
        while sum(call.is_held() for call in calls) != 5:
            assert time.monotonic() < deadline
        assert {call.reply().status for call in calls if not call.is_held()} == {297}
        held_by(server, 5)
        next(call for call in calls if call.is_held()).close()
        held_by(server, 4)
        deadline = time.monotonic() + 5
        while server.statistics()["waiting"] != 5:
            stack.enter_context(server.offer("same"))
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_bounce_that_may_not_wait_changes_nothing_over_all_workers(redis: RedisServer) -> None:
    with Server(REDIS_URL=redis.url, HELD_PER_ADDRESS=2, **TWO) as server:
        for number in range(6):  # on whatever workers
            room = {"NAMESPACE": f"room {number}"}
            with server.offer("a", **room) as held, server.offer("c", NAMESPACE="elsewhere"):
                held_by(server, 2)
                told = server.post(TYPE="CONNECT", SIGNAL="b", FINGERPRINT="b", **room)
                own = {"SIGNAL": "b", "NONCE": told["NONCE"], "FINGERPRINT": "b", **room}
                assert server.post(TYPE="BOUNCE", **own).status == 297
                assert server.post(TYPE="CONNECT", **own).type == "DELIVERED"
                assert held.reply().type == "ANSWER"
            held_by(server, 0)


def test_a_worker_has_two_connections_at_most_whoever_waits() -> None:
    with RedisServer() as redis, Server(REDIS_URL=redis.url, **TWO) as server, ExitStack() as stack:
        for number in range(40):
            stack.enter_context(server.offer("same", NAMESPACE=f"room {number}"))
        held_by(server, 40)
        until_ready(server)
        clients = redis.call("CLIENT", "LIST").splitlines()
        # One that was asked for nothing but its health listens to no notices yet.
        assert 3 <= len([each for each in clients if "cmd=client" not in each]) <= 2 * len(server.workers)


def test_signed_peers_meet_and_replays_are_refused_over_all_workers(redis: RedisServer) -> None:
    with Server(REDIS_URL=redis.url, SIGNATURES="required", **TWO) as server, ExitStack() as stack:
        alice, bob = SignedPeer("chess"), SignedPeer("chess")
        offer = alice.request("offer")
        held = stack.enter_context(server.call(offer))
        held_by(server, 1)
        assert {server.post(offer).status for _ in range(8)} == {403}  # whoever is asked
        told = server.post(bob.request("mine"))
        assert (told.type, told["SIGNED_SIGNAL"]) == ("DEMOTE", offer["SIGNED_SIGNAL"])
        answered = bob.request("answer", nonce=told["NONCE"])
        assert server.post(answered).type == "DELIVERED"
        assert held.reply()["SIGNED_SIGNAL"] == answered["SIGNED_SIGNAL"]


def test_a_shutdown_answers_everybody(redis: RedisServer, pair: list[Server]) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(Server(REDIS_URL=redis.url, **TWO))
        calls = [stack.enter_context(server.offer("same")) for _ in range(30)]
        held_by(pair[0], 30)
        server.process.send_signal(signal.SIGTERM)
        assert {call.reply(5).status for call in calls} == {503}
        held_by(pair[0], 0)


# --- workers die -------------------------------------------------------------------------------------------


def test_the_peers_of_a_killed_worker_leave_the_pool(pair: list[Server], redis: RedisServer) -> None:
    with Server(REDIS_URL=redis.url, **ALONE) as server, server.offer("ghost"):
        held_by(pair[0], 1)
        began = time.monotonic()
        os.kill(server.workers[0], signal.SIGKILL)
        with pair[0].offer("ghost") as call:  # the same peer, so that it is not matched with its ghost
            deadline = began + 3.5
            while pair[1].statistics()["waiting"] != 1:
                assert time.monotonic() < deadline, "a ghost waits still"
                time.sleep(0.02)
            assert call.is_held()


def test_who_answers_a_killed_worker_s_peer_is_sent_on(pair: list[Server], redis: RedisServer) -> None:
    with Server(REDIS_URL=redis.url, **ALONE) as server, server.offer("a"):
        held_by(pair[0], 1)
        told = pair[0].post(TYPE="CONNECT", SIGNAL="b", FINGERPRINT="b")
        os.kill(server.workers[0], signal.SIGKILL)
        began = time.monotonic()
        with answer(pair[0], told, "answer", "b") as call:
            assert call.reply().type == "NO_PEER"
        assert time.monotonic() - began < 8


def test_a_stopped_worker_does_nothing_with_what_it_had(pair: list[Server], redis: RedisServer) -> None:
    """It had an offer out and one waiting. By the time it goes on, both are somebody else's past."""
    with ExitStack() as stack:
        server = stack.enter_context(Server(REDIS_URL=redis.url, **ALONE))
        calls = [stack.enter_context(server.offer("a")) for _ in range(2)]
        held_by(pair[0], 2)
        told = pair[0].post(TYPE="CONNECT", SIGNAL="b", FINGERPRINT="b")
        (worker,) = server.workers
        os.kill(worker, signal.SIGSTOP)
        try:
            with answer(pair[0], told, "answer", "b") as answering:
                assert answering.reply().type in ("NO_PEER", "DEMOTE")
            time.sleep(0.5)  # now its lease is over, too
        finally:
            os.kill(worker, signal.SIGCONT)
        assert {call.reply(3).type for call in calls} <= {"UNAVAILABLE", "NO_PEER"}
        held_by(pair[0], 0)
        link(server, pair[0], "after")


# --- Redis goes away ---------------------------------------------------------------------------------------


def ask_all(server: Server, times: int = 12) -> list[tuple[Reply, float]]:
    """Ask often enough to reach every worker. Returns each reply, and the seconds it took."""
    asked = []
    for number in range(times):
        began = time.monotonic()
        asked.append(
            (server.post(TYPE="CONNECT", SIGNAL="x", FINGERPRINT=f"{number}"), time.monotonic() - began)
        )
    return asked


def test_a_stopped_redis_is_503_at_once_and_back_by_itself(pair: list[Server], redis: RedisServer) -> None:
    with pair[0].offer("early") as call:
        held_by(pair[1], 1)
        redis.stop()
        began = time.monotonic()
        asked = ask_all(pair[0])
        assert {each.status for each, _ in asked} == {503}
        assert all(1 <= each["RETRY_AFTER"] <= 3 for each, _ in asked)
        assert max(took for _, took in asked) < 3
        assert pair[0].get("/health")[0] == 200
        assert pair[0].get("/ready")[0] == 503
        assert call.reply(5).type == "UNAVAILABLE"
        assert time.monotonic() - began < 9
        redis.go_on()
    until_ready(pair[0])
    until_ready(pair[1])
    held_by(pair[0], 0)
    link(pair[0], pair[1], "after")


def test_what_a_call_that_was_given_up_did_is_taken_back(redis: RedisServer) -> None:
    """It is carried out when Redis goes on, by when nobody waits for it."""
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(Server(REDIS_URL=redis.url, ANSWER_TIMEOUT=60, **ALONE)) for _ in range(2)
        )
        held = stack.enter_context(one.offer("a"))
        held_by(other, 1)
        for room in ("", "empty"):  # it gets the offer, and it waits with its own
            redis.stop()
            assert other.post(TYPE="CONNECT", SIGNAL="b", FINGERPRINT="b", NAMESPACE=room).status == 503
            redis.go_on()
            until_ready(other)
            held_by(other, 1)
            assert other.statistics()["offered"] == 0
        told = other.post(TYPE="CONNECT", SIGNAL="c", FINGERPRINT="c")
        assert told["SIGNAL"] == "a"
        assert held.is_held()


def test_no_place_of_an_address_stays_taken_by_who_ended_while_redis_was_away() -> None:
    with RedisServer() as redis, Server(REDIS_URL=redis.url, HELD_PER_ADDRESS=2, **ALONE) as server:
        with server.offer("a"):
            held_by(server, 1)
            redis.stop()
            given_up = server.post(TYPE="CONNECT", SIGNAL="b", FINGERPRINT="b", NAMESPACE="empty")
            assert given_up.status == 503  # and it takes a place when Redis goes on
        time.sleep(0.1)
        redis.go_on()
        until_ready(server)
        held_by(server, 0)
        with server.offer("c"), server.offer("d", NAMESPACE="other"):
            held_by(server, 2)


def test_a_short_stop_of_redis_costs_nobody_his_place(pair: list[Server], redis: RedisServer) -> None:
    with pair[0].offer("patient") as call:
        held_by(pair[1], 1)
        redis.stop()
        time.sleep(1.5)
        redis.go_on()
        until_ready(pair[1])
        assert call.is_held()
        told = pair[1].post(TYPE="CONNECT", SIGNAL="b", FINGERPRINT="b")
        assert told["SIGNAL"] == "patient"
        with answer(pair[1], told, "answer", "b") as answering:
            assert call.reply(3).type == "ANSWER"
            assert answering.reply(3).type == "DELIVERED"


def test_a_redis_that_was_started_anew_and_empty_delivers_nothing_wrong(
    pair: list[Server], redis: RedisServer
) -> None:
    with pair[0].offer("a") as offered, pair[1].offer("a") as waiting:
        held_by(pair[1], 2)
        told = pair[1].post(TYPE="CONNECT", SIGNAL="b", FINGERPRINT="b")
        redis.kill()
        asked = ask_all(pair[1])
        assert {each.status for each, _ in asked} == {503}
        assert max(took for _, took in asked) < 3
        redis.start()
        for server in pair:
            until_ready(server)
        assert waiting.reply(5).type == "UNAVAILABLE"
        assert offered.reply(5).type == "UNAVAILABLE"
        with answer(pair[1], told, "late", "b") as late:
            assert late.reply().type == "NO_PEER"
    link(pair[0], pair[1], "after")


def test_limits_fall_back_to_the_process(redis: RedisServer) -> None:
    rates = {"REQUEST_LIMIT": "1 per minute", "PAIR_LIMIT": "", "ADDRESS_LIMIT": "5 per minute"}
    with RedisServer() as own, Server(REDIS_URL=own.url, SECRET_KEY="s", limits=True, **rates) as server:
        own.kill()
        told = [server.post(TYPE="CONNECT", SIGNAL="x", FINGERPRINT="f") for _ in range(7)]
        assert [each.status for each in told] == [503] + [297] * 6


def test_what_an_address_asks_past_its_limit_does_not_go_to_redis() -> None:
    with (
        RedisServer() as redis,
        Server(REDIS_URL=redis.url, limits=True, ADDRESS_LIMIT="2 per minute", **ALONE) as server,
    ):
        server.offer("held")
        held_by(server, 1)
        server.post(TYPE="CONNECT", SIGNAL="x", NAMESPACE="empty", NONCE="0-none")
        before = redis.call("INFO", "stats")["total_net_input_bytes"]
        told = [server.post(TYPE="CONNECT", SIGNAL="x" * 60_000, REQUEST="n" * 22) for _ in range(5)]
        assert {each.status for each in told} == {297}
        after = redis.call("INFO", "stats")["total_net_input_bytes"]
        assert after - before < 2 * 60_000, "more than the first, which tells the worker that it is full"


SEALED = "SIGNED_NAMESPACE", "SIGNED_SIGNAL", "PUBLIC_KEY"

KINDS: dict[str, dict[str, Any]] = {
    "to be answered": {"parameters": {"TYPE": "CONNECT", "SIGNAL": "x"}},
    "named": {"parameters": {"TYPE": "CONNECT", "SIGNAL": "x", "REQUEST": "n" * 22}},
    "whose LEAVE came first": {"parameters": {"TYPE": "CONNECT", "SIGNAL": "x", "REQUEST": "l" * 22}},
    "LEAVE": {"parameters": {"TYPE": "LEAVE", "REQUEST": "r" * 22}},
    "an answer to nothing": {"parameters": {"TYPE": "CONNECT", "SIGNAL": "x", "NONCE": "0-none"}},
    "a bounce of nothing": {"parameters": {"TYPE": "BOUNCE", "SIGNAL": "x", "NONCE": "0-none"}},
    "signed": {"parameters": {"TYPE": "CONNECT"} | dict.fromkeys(SEALED, "x")},
    "no TYPE": {"parameters": {}},
    "no JSON": {"body": b"{"},
    "of another kind": {"body": b"x", "headers": {"Content-Type": "image/png"}},
    "of another origin": {"body": b"{}", "headers": {"Origin": "https://b.example"}},
}


@pytest.mark.parametrize("is_away", [False, True], ids=["there", "away"])
def test_the_address_limit_counts_every_request_once(is_away: bool) -> None:
    """It is counted with an event, if there is one; whatever becomes of a request, it is counted."""
    rates = {"ADDRESS_LIMIT": "2 per minute", "REQUEST_LIMIT": "", "PAIR_LIMIT": "", "REQUEST_TIMEOUT": 0.1}
    rates |= {"TRUSTED_PROXIES": 1, "SIGNATURES": "optional", "CORS_ORIGINS": "https://a.example"}
    with RedisServer() as redis, Server(REDIS_URL=redis.url, limits=True, **rates, **ALONE) as server:
        if is_away:
            redis.kill()
        for number, (kind, request) in enumerate(KINDS.items()):
            hop = {"X-Forwarded-For": f"192.0.2.{number}"} | request.get("headers", {})
            told = []
            for _ in range(3):
                if kind == "whose LEAVE came first":
                    leave = {"TYPE": "LEAVE", "REQUEST": "l" * 22}
                    server.call(leave, headers={"X-Forwarded-For": "192.0.2.99"}).close()
                with server.call(**request | {"headers": hop}) as call:
                    told.append(call.reply())
            assert 297 not in {each.status for each in told[:2]}, kind
            assert (told[2].status, told[2].type) == (297, "RATE_LIMIT"), kind


class Relay:
    """Stands before Redis. Once told to, it cuts a connection in place of passing a reply on."""

    def __init__(self, redis: RedisServer) -> None:
        self._to = "127.0.0.1", redis.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.cuts = False

    def close(self) -> None:
        """Once nobody is connected any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for each in self._threads:
            each.join(10)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                thread = threading.Thread(target=self._carry, args=(self._listener.accept()[0],))
                self._threads.append(thread)
                thread.start()

    def _carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._to) as server, suppress(OSError):
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data or (self.cuts and source is server):
                        self.cuts = False
                        return
                    (client if source is server else server).sendall(data)


def test_what_a_call_counted_whose_reply_was_lost_is_not_counted_again() -> None:
    rates = {"REQUEST_LIMIT": "1 per minute", "PAIR_LIMIT": "", "ADDRESS_LIMIT": "1000 per minute"}
    with RedisServer() as redis, closing(Relay(redis)) as relay:
        with Server(REDIS_URL=relay.url, limits=True, REQUEST_TIMEOUT=0.1, **rates, **ALONE) as server:
            told = []
            for number in range(5):
                until_ready(server)
                relay.cuts = number > 0  # the reply that is lost may be another's, as of a poll
                told.append(server.post(TYPE="CONNECT", SIGNAL="x", FINGERPRINT=str(number)).status)
        assert 503 in told
        assert 297 not in told
        (address,) = (key for key in redis.lifetimes() if key.endswith(":address"))
        assert int(redis.call("GET", address)) <= len(told)


def test_lost_notices_cost_half_a_second_and_no_more(pair: list[Server], redis: RedisServer) -> None:
    """Every connection is cut again and again while they link; all they need lies in the state."""
    took = []
    for number in range(12):
        with pair[0].offer(f"offer{number}") as held:
            held_by(pair[1], 1)
            told = pair[1].post(TYPE="CONNECT", SIGNAL="b", FINGERPRINT=f"b{number}")
            redis.call("CLIENT", "KILL", "TYPE", "pubsub")
            began = time.monotonic()
            with answer(pair[1], told, "answer", f"b{number}") as answering:
                assert held.reply(3).type == "ANSWER"
                took.append(time.monotonic() - began)
                assert answering.reply(3).type == "DELIVERED"
    assert max(took) < 3


def test_cut_connections_end_no_request_that_waits(pair: list[Server], redis: RedisServer) -> None:
    with pair[0].offer("a") as held:
        held_by(pair[1], 1)
        redis.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        for server in pair:
            until_ready(server)
        assert held.is_held()
        told = pair[1].post(TYPE="CONNECT", SIGNAL="b", FINGERPRINT="b")
        with answer(pair[1], told, "answer", "b") as answering:
            assert held.reply(3).type == "ANSWER"
            assert answering.reply(3).type == "DELIVERED"


def test_a_fail_over_to_a_replica_delivers_nothing_old(redis: RedisServer) -> None:
    """The replica has lost the last writes: an answered offer looks as if it were out still."""
    with ExitStack() as stack:
        first, replica = (stack.enter_context(RedisServer(repl_diskless_sync_delay="0")) for _ in range(2))
        replica.call("REPLICAOF", "127.0.0.1", first.port)
        servers = [stack.enter_context(Server(REDIS_URL=first.url, **ALONE)) for _ in range(2)]
        held = stack.enter_context(servers[0].offer("a"))
        held_by(servers[1], 1)
        ghost = stack.enter_context(servers[0].offer("a"))
        held_by(servers[1], 2)
        told = servers[1].post(TYPE="CONNECT", SIGNAL="b", FINGERPRINT="b")
        deadline = time.monotonic() + 5
        while replica.call("INFO", "replication")["master_link_status"] != "up":
            assert time.monotonic() < deadline
        assert first.call("WAIT", 1, 2000) == 1
        replica.stop()  # from here on it hears nothing
        with answer(servers[1], told, "answer", "b") as answering:
            assert held.reply(3).type == "ANSWER"
            assert answering.reply(3).type == "DELIVERED"
        first.kill()
        replica.go_on()
        replica.call("REPLICAOF", "NO", "ONE")
        replica.call("CONFIG", "SET", "port", str(first.port))
        for server in servers:
            until_ready(server)
        with answer(servers[1], told, "answer", "b") as late:
            assert late.reply().type == "NO_PEER", "a nonce of the life before"
        with servers[1].offer("c") as newcomer:
            held_by(servers[0], 1)
            assert newcomer.is_held(), "an offer of the life before"
        held_by(servers[0], 0)
        assert ghost.reply(5).type == "UNAVAILABLE"
        link(servers[0], servers[1], "after")


# --- other ways to have a Redis ----------------------------------------------------------------------------


def test_a_cluster_of_three_nodes(redis: RedisServer) -> None:
    with cluster() as nodes:
        url = nodes[0].url.replace("redis://", "redis+cluster://")
        with Server(REDIS_URL=url, **ALONE) as one, Server(REDIS_URL=url, **ALONE) as other:
            took = [link(one, other, f"n{number}", NAMESPACE=f"room {number}") for number in range(20)]
            assert max(took) < 3
            assert all(node.lifetimes() for node in nodes), "a node has nothing to do"
            assert one.get("/ready")[0] == 200
            nodes[1].kill()
            deadline = time.monotonic() + 5
            while one.get("/ready")[0] == 200:
                assert time.monotonic() < deadline


def test_a_certificate_that_nobody_signed(redis: RedisServer, tmp_path: Path) -> None:
    with redis_over_tls(tmp_path) as port:
        url = f"rediss://127.0.0.1:{port}/0"
        with Server(REDIS_URL=url, REDIS_TLS_VERIFY="off", **ALONE) as server:
            link(server, server, "secret")
        with Server(REDIS_URL=url, SECRET_KEY="s") as server:
            assert server.get("/ready")[0] == 503
            assert server.post(TYPE="CONNECT", SIGNAL="x").status == 503


def test_a_unix_socket_and_threads(tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    with RedisServer(unixsocket=str(socket)):
        arguments = ("--worker-class", "gthread", "--threads", "8")
        with Server(*arguments, REDIS_URL=f"unix://{socket}", **ALONE) as server:
            took = [link(server, server, f"n{number}") for number in range(10)]
            assert max(took) < 3


@pytest.mark.parametrize(
    "url", ["http://localhost", "localhost:6379", "redis://localhost:port/0", "redis+sentinel://x"]
)
def test_a_bad_address_is_one_line(url: str) -> None:
    with pytest.raises(RuntimeError, match="REDIS_URL must be"), Server(REDIS_URL=url, SECRET_KEY="s"):
        pass


def test_nothing_is_left_behind(pair: list[Server], redis: RedisServer) -> None:
    link(pair[0], pair[1], "n", NAMESPACE="elsewhere")
    with pair[0].offer("gone"):
        held_by(pair[1], 1)
    deadline = time.monotonic() + 10
    while [key for key in redis.lifetimes() if key.rpartition(":")[2] in ("index", "handovers", "mail")]:
        assert time.monotonic() < deadline, redis.lifetimes()
        time.sleep(0.1)
    assert all(0 < left <= 3_601_000 for left in redis.lifetimes().values())


KEYS = ("life", "offers", "handovers", "due", "index", "pairs", "mail")
BRIEF = {"REQUEST_TIMEOUT": 2, "ANSWER_TIMEOUT": 1}
LONGEST_SECONDS = 2 + 1 + 3 + 1
"""However much Redis has lost: the two, the time to write an answer, and a second."""


def test_every_key_may_vanish_and_nobody_waits_longer() -> None:
    """One of each shard, while one waits, and an offer is out."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        one, other = (stack.enter_context(Server(REDIS_URL=redis.url, **BRIEF, **SHARED)) for _ in range(2))
        assert {each.rpartition(":")[2] for each in KEYS} == {*redis_scripts.KEYS, "pairs", "life"}
        rooms = {name: f"room of {name}" for name in KEYS}
        offered = {name: one.offer(f"ann {name}", NAMESPACE=room) for name, room in rooms.items()}
        held_by(one, len(KEYS))
        nonces = {
            name: other.post(TYPE="CONNECT", SIGNAL="x", FINGERPRINT="ben", NAMESPACE=room)
            for name, room in rooms.items()
        }
        waiting = {name: one.offer(f"cid {name}", NAMESPACE=room) for name, room in rooms.items()}
        held_by(one, len(KEYS))
        started = time.monotonic()
        for name, told in nonces.items():
            shard = told["NONCE"].partition("-")[0]
            for key in redis.lifetimes():
                if f"{{{shard}}}" in key and key.endswith(f":{name}"):
                    redis.call("DEL", key)
        for name, told in nonces.items():
            late = answer(other, told, f"to ann {name}", "ben", NAMESPACE=rooms[name]).reply(LONGEST_SECONDS)
            assert late.type in ("DELIVERED", "NO_NAMESPACE_PEER", "DEMOTE", "UNAVAILABLE"), late
            got = offered[name].reply(LONGEST_SECONDS)
            assert got.type in ("ANSWER", "NO_NAMESPACE_PEER", "DEMOTE", "UNAVAILABLE"), (name, got)
            assert (got.type == "ANSWER") >= (late.type == "DELIVERED"), name
            assert got.type != "ANSWER" or got["SIGNAL"] == f"to ann {name}"
            last = waiting[name].reply(LONGEST_SECONDS)
            assert last.type in ("NO_NAMESPACE_PEER", "DEMOTE", "UNAVAILABLE"), (name, last)
        assert time.monotonic() - started < LONGEST_SECONDS + 2
        for alone in [one.offer(f"dan {name}", NAMESPACE=room) for name, room in rooms.items()]:
            assert alone.reply(LONGEST_SECONDS).type in ("NO_NAMESPACE_PEER", "UNAVAILABLE")
        for name, room in rooms.items():
            # What has lost a part of it may be counted until its key expires, but is handed to nobody.
            left = one.statistics()["waiting"]
            link(one, other, f"after {name}", left, NAMESPACE=room)
        assert "Traceback" not in one.log + other.log


def test_a_redis_that_may_forget_is_told() -> None:
    with (
        RedisServer(maxmemory="50mb", maxmemory_policy="allkeys-lru") as redis,
        Server(REDIS_URL=redis.url, **ALONE) as server,
    ):
        assert eventually(lambda: "maxmemory-policy is allkeys-lru" in server.log)


def test_a_redis_that_refuses_is_told_once_a_second() -> None:
    with RedisServer() as redis, Server(REDIS_URL=redis.url, **ALONE) as server:
        redis.call("CONFIG", "SET", "min-replicas-to-write", "1")
        started = time.monotonic()
        told = [server.post(TYPE="CONNECT", SIGNAL="x", FINGERPRINT=str(n)).status for n in range(50)]
        assert set(told) == {503}
        lines = server.log.count("Redis refuses")
        assert 1 <= lines <= time.monotonic() - started + 2


def test_a_cluster_of_one_server_is_one_server_by_its_plain_address() -> None:
    """As platforms have it. It refuses calls whose keys are of several slots."""
    with RedisServer(cluster_enabled="yes", cluster_port=str(free_port())) as redis:
        redis.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        assert eventually(lambda: "cluster_state:ok" in redis.call("CLUSTER", "INFO"))
        rates = {"ADDRESS_LIMIT": "5 per minute", "REQUEST_LIMIT": "", "REQUEST_TIMEOUT": 0.1}
        with Server(REDIS_URL=redis.url, limits=True, **rates, **ALONE) as server:
            told = [server.post(TYPE="CONNECT", SIGNAL="x", FINGERPRINT="f").status for _ in range(7)]
        assert told == [503, *[299] * 5, 297]  # the first finds it out
