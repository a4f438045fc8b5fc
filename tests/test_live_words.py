"""REMATCH, REQUEST and LEAVE, ANSWER_WITHIN and what proxies say, through a real server."""

from __future__ import annotations

import itertools
import json
import secrets
import signal
import time
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from live import Call, Reply, Server, eventually
from signed_peer import SignedPeer

_numbers = itertools.count(1)


@pytest.fixture
def room() -> str:
    """A pool of the test's own."""
    return f"room-{next(_numbers)}"


def new_name() -> str:
    return secrets.token_urlsafe(16)


def connect(name: str, room: str, **extra: object) -> dict[str, object]:
    return {
        "TYPE": "CONNECT",
        "SIGNAL": f"offer of {name}",
        "FINGERPRINT": name,
        "NAMESPACE": room,
        **extra,
    }


def answer(name: str, room: str, nonce: str, **extra: object) -> dict[str, object]:
    return connect(name, room, SIGNAL=f"answer of {name}", NONCE=nonce, **extra)


def hold(server: Server, name: str, room: str, **extra: object) -> Call:
    """A request that waits."""
    before = server.statistics()["waiting"]
    call = server.call(connect(name, room, **extra))
    server.until(waiting=before + 1)
    return call


def link(server: Server, initiator: str, responder: str, room: str) -> None:
    with hold(server, initiator, room) as held:
        nonce = server.post(connect(responder, room))["NONCE"]
        assert server.post(answer(responder, room, nonce)).type == "DELIVERED"
        assert held.reply().type == "ANSWER"


def leave(server: Server, name: str, fingerprint: str | None, **extra: object) -> Reply:
    words = {"TYPE": "LEAVE", "REQUEST": name, **extra}
    return server.post(words if fingerprint is None else words | {"FINGERPRINT": fingerprint})


# --- REMATCH -----------------------------------------------------------------------------------------------


def test_friends_who_both_say_so_meet_again_at_once(server: Server, room: str) -> None:
    link(server, "ann", "ben", room)
    with hold(server, "ann", room, REMATCH="1") as ann:
        told = server.post(connect("ben", room, REMATCH="1"))
        assert (told.type, told["SIGNAL"]) == ("DEMOTE", "offer of ann")
        assert server.post(answer("ben", room, told["NONCE"])).type == "DELIVERED"
        assert ann.reply()["SIGNAL"] == "answer of ben"


@pytest.mark.parametrize(("ann", "ben"), [("1", ""), ("", "1"), ("1", None)])
def test_one_who_does_not_say_so_does_not_meet_again(
    server: Server, room: str, ann: str, ben: str | None
) -> None:
    link(server, "ann", "ben", room)
    with (
        hold(server, "ann", room, REMATCH=ann) as first,
        hold(server, "ben", room, **({} if ben is None else {"REMATCH": ben})) as second,
    ):
        assert first.is_held()
        assert second.is_held()


def test_a_bounced_pair_stays_apart(server: Server, room: str) -> None:
    with hold(server, "ann", room, REMATCH="1") as ann:
        nonce = server.post(connect("ben", room, REMATCH="1"))["NONCE"]
        bounce = connect("ben", room, TYPE="BOUNCE", NONCE=nonce, REMATCH="1")
        with server.call(bounce) as ben:
            server.until(waiting=2)
            assert ann.is_held()
            assert ben.is_held()


def test_somebody_new_comes_before_a_friend_who_waits_longer(server: Server, room: str) -> None:
    link(server, "friend", "me", room)
    link(server, "friend", "new", room)
    with hold(server, "friend", room, REMATCH="1"), hold(server, "new", room):
        told = [server.post(connect("me", room, REMATCH="1"))["SIGNAL"] for _ in range(2)]
        assert told == ["offer of new", "offer of friend"]


# --- LEAVE -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["json", "text/plain", "form"])
def test_a_leave_ends_a_held_request_at_once(server: Server, room: str, how: str) -> None:
    name = new_name()
    words = {"TYPE": "LEAVE", "REQUEST": name, "FINGERPRINT": "ann"}
    kind, body = {
        "json": ("application/json", json.dumps(words)),
        "text/plain": ("text/plain;charset=UTF-8", json.dumps(words)),
        "form": ("application/x-www-form-urlencoded", urlencode(words)),
    }[how]
    with hold(server, "ann", room, REQUEST=name) as ann:
        left = server.post(body=body.encode(), headers={"Content-Type": kind})
        assert (left.status_line, left.json) == ("200 OK", {"TYPE": "LEFT"})
        assert left.headers["cache-control"] == "no-store"
        assert server.statistics()["waiting"] == 0
        assert ann.reply(2).type == "NO_NAMESPACE_PEER"
        with hold(server, "ben", room) as ben:
            assert ben.is_held()


def test_a_leave_ends_an_offer_that_is_out_and_its_nonce_stays_a_ticket(server: Server, room: str) -> None:
    name = new_name()
    with hold(server, "ann", room, REQUEST=name) as ann:
        nonce = server.post(connect("ben", room))["NONCE"]
        assert leave(server, name, "ann").type == "LEFT"
        assert ann.reply(2).type == "NO_NAMESPACE_PEER"
        with hold(server, "cat", room):
            told = server.post(answer("ben", room, nonce))
            assert (told.type, told["SIGNAL"]) == ("DEMOTE", "offer of cat")


def test_a_leave_of_another_client_or_name_changes_nothing(server: Server, room: str) -> None:
    name = new_name()
    with hold(server, "ann", room, REQUEST=name) as ann:
        for wrong in (
            leave(server, name, "eve"),
            leave(server, name, None),
            leave(server, name[::-1], "ann"),
            leave(server, new_name(), None),
        ):
            assert wrong.json == {"TYPE": "LEFT"}
        assert ann.is_held()
        assert server.statistics()["waiting"] == 1


def test_a_request_without_a_fingerprint_is_left_without_one(server: Server, room: str) -> None:
    name = new_name()
    asked = {"TYPE": "CONNECT", "SIGNAL": "offer", "NAMESPACE": room, "REQUEST": name}
    with server.call(asked) as call:
        server.until(waiting=1)
        leave(server, name, None)
        assert call.reply(2).type == "NO_NAMESPACE_PEER"


def test_a_client_may_leave_from_another_address_with_other_headers(room: str) -> None:
    with Server(TRUSTED_PROXIES=1) as server:
        name = new_name()
        with server.call(connect("ann", room, REQUEST=name), headers={"X-Forwarded-For": "192.0.2.1"}) as ann:
            server.until(waiting=1)
            words = {"TYPE": "LEAVE", "REQUEST": name, "FINGERPRINT": "ann"}
            server.post(words, headers={"X-Forwarded-For": "198.51.100.1", "User-Agent": "sendBeacon"})
            assert ann.reply(2).type == "NO_NAMESPACE_PEER"


def test_a_leave_may_overtake_its_request(server: Server, room: str) -> None:
    name = new_name()
    leave(server, name, "ann")
    assert server.post(connect("ann", room, REQUEST=name)).type == "NO_NAMESPACE_PEER"
    leave(server, name, "ben")
    with hold(server, "cat", room, REQUEST=name) as cat:
        assert cat.is_held(), "it is others who left"
    late = new_name()
    leave(server, late, "ann")
    time.sleep(2.1)
    with hold(server, "ann", room, REQUEST=late) as ann:
        assert ann.is_held()


def test_a_name_in_use_is_a_bad_request_whatever_the_limits_say(room: str) -> None:
    with Server(limits=True, REQUEST_LIMIT="1 per minute", PAIR_LIMIT="") as server:
        name = new_name()
        with hold(server, "ann", room, REQUEST=name) as ann:
            for who in ("ann", "ben", "ann"):
                refused = server.post(connect(who, room, REQUEST=name))
                assert (refused.status, refused.type) == (400, "BAD_REQUEST")
                assert "REQUEST" in refused["DETAIL"]
            assert ann.is_held()
            assert server.post(connect("ann", room, REQUEST=new_name())).type == "RATE_LIMIT"
            assert server.post(connect("cat", room)).type == "DEMOTE", "ben's refusal left nothing behind"


def test_a_name_is_free_after_the_end_of_its_request(room: str) -> None:
    with Server(REQUEST_TIMEOUT=0.3) as server:
        name = new_name()
        assert server.post(connect("ann", room, REQUEST=name)).type == "NO_NAMESPACE_PEER"
        with server.call(connect("ann", room, REQUEST=name)):
            server.until(waiting=1)
        server.until(waiting=0)  # it hung up
        assert server.post(connect("ben", room, REQUEST=name)).type == "NO_NAMESPACE_PEER"
        with server.call(connect("ann", room, REQUEST=name)) as ann:
            server.until(waiting=1)
            nonce = server.post(connect("ben", room))["NONCE"]
            assert server.post(answer("ben", room, nonce, REQUEST=new_name())).type == "DELIVERED"
            assert ann.reply().type == "ANSWER"
        assert server.post(connect("cat", room, REQUEST=name)).type == "NO_NAMESPACE_PEER"


def test_only_the_address_limit_counts_a_leave(room: str) -> None:
    limits = {"REQUEST_LIMIT": "1 per minute", "PAIR_LIMIT": "1 per minute", "ADDRESS_LIMIT": "5 per minute"}
    with Server(limits=True, REQUEST_TIMEOUT=0.1, **limits) as server:
        for _ in range(3):
            assert leave(server, new_name(), "ann").type == "LEFT"
        assert server.post(connect("ann", room)).type == "NO_NAMESPACE_PEER"
        assert leave(server, new_name(), "ann").type == "LEFT"
        refused = leave(server, new_name(), "ann")
        assert (refused.status, refused.type) == (297, "RATE_LIMIT")


@pytest.mark.parametrize("mode", ["optional", "required"])
def test_a_signed_request_is_left_without_a_signature(mode: str) -> None:
    peer = SignedPeer("chess")
    with Server(SIGNATURES=mode, OPENPGP="sequoia") as server:
        name = new_name()
        with server.call(peer.request(REQUEST=name, FINGERPRINT="tab")) as call:
            server.until(waiting=1)
            assert leave(server, name, "another tab").type == "LEFT"
            assert call.is_held()
            assert leave(server, name, "tab").type == "LEFT"
            assert call.reply(2).type == "NO_NAMESPACE_PEER"


def test_a_leave_needs_a_name(server: Server) -> None:
    missing = server.post(TYPE="LEAVE")
    assert (missing.status, missing["PARAMETER"]) == (499, "REQUEST")
    assert server.post(TYPE="LEAVE", REQUEST="too-short").status == 400
    assert server.post(TYPE="LEAVE", REQUEST=new_name(), REMATCH="yes").status == 400


def test_who_left_is_told_in_the_log_without_its_name(room: str) -> None:
    with Server() as server:
        name = new_name()
        leave(server, name, "ann")
        assert eventually(lambda: "asked=LEAVE reply=LEFT status=200" in server.log)
        assert name not in server.log


# --- what else is new --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "told"), [("5", 5), ("2.1234567", 2.1234567), ("0.25", 0.25), ("1e2", 100)]
)
def test_a_demote_says_within_what_time_to_answer(room: str, setting: str, told: float) -> None:
    with Server(ANSWER_TIMEOUT=setting) as server, hold(server, "ann", room):
        assert server.post(connect("ben", room))["ANSWER_WITHIN"] == told


@pytest.mark.parametrize(
    ("held", "seconds"), [(600, {1: 300, 2: 300}), (499, {1: 499}), (20, {1: 20})], ids=str
)
def test_those_who_are_turned_away_come_back_one_after_the_other(held: int, seconds: dict[int, int]) -> None:
    with Server() as server:
        calls = [server.offer(f"peer-{number}", NAMESPACE=f"{number}") for number in range(held)]
        server.until(waiting=held)
        server.process.send_signal(signal.SIGTERM)
        told = [each.reply() for each in calls]
        assert {each.type for each in told} == {"UNAVAILABLE"}
        assert Counter(each["RETRY_AFTER"] for each in told) == seconds
        assert all(each.headers["retry-after"] == str(each["RETRY_AFTER"]) for each in told)


@pytest.mark.parametrize(
    ("expected", "least", "most"),
    [
        ("2500", 1.4, 2.4),
        ("100", 0.9, 1.9),  # a second at the least
        ("1500", 0.9, 1.9),
        ("600000", 2.9, 4),  # REQUEST_TIMEOUT, if it is less
        ("0", 2.9, 4),
        ("soon", 2.9, 4),
        ("-5", 2.9, 4),
    ],
)
def test_a_proxy_may_say_how_long_it_waits(
    patience: Server, room: str, expected: str, least: float, most: float
) -> None:
    started = time.monotonic()
    headers = {"X-Envoy-Expected-Rq-Timeout-Ms": expected}
    assert patience.post(connect("ann", room), headers=headers).type == "NO_NAMESPACE_PEER"
    assert least < time.monotonic() - started < most


@pytest.fixture(scope="module")
def patience(driver: str) -> Iterator[Server]:
    with Server(REQUEST_TIMEOUT=3) as running:
        yield running


def test_one_byte_order_mark_before_a_json_text_is_skipped(quick: Server, room: str) -> None:
    body = json.dumps(connect("ann", room)).encode()
    mark = b"\xef\xbb\xbf"
    for kind in ("application/json", "text/plain"):
        told = [
            quick.post(body=each, headers={"Content-Type": kind}).status
            for each in (mark + body, mark + mark + body)
        ]
        assert told == [298, 400]


def test_a_signed_request_that_is_refused_is_told_the_servers_clock() -> None:
    peer = SignedPeer("chess")
    late = peer.sign(peer.statement(TIME=5))
    with Server(SIGNATURES="optional", OPENPGP="sequoia", CORS_ORIGINS="https://a.example") as server:
        for bad in (peer.request(SIGNED_SIGNAL=late), peer.request(SIGNED_SIGNAL=peer.signed_namespace)):
            refused = server.post(bad)
            assert (refused.status, set(refused.json)) == (403, {"TYPE", "TIME"})
            assert isinstance(refused["TIME"], int)
            assert abs(refused["TIME"] - time.time() * 1000) < 5_000


# --- origins -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listed(driver: str) -> Iterator[Server]:
    with Server(REQUEST_TIMEOUT=0.1, CORS_ORIGINS="https://*.example.com, null, http://a.example") as running:
        yield running


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://chess.example.com", True),
        ("https://a.b.example.com", True),
        ("null", True),
        ("http://a.example", True),
        ("https://example.com", False),
        ("https://.example.com", False),
        ("http://chess.example.com", False),
        ("https://chess.example.com:8443", False),
        ("https://example.com.evil.example", False),
        ("https://evilexample.com", False),
        ("https://chess.example.com.", False),
        ("https://a.example", False),
        ("http://a.example:80", False),
        ("NULL", False),
        ("*", False),
    ],
)
def test_origins_are_those_that_are_listed(listed: Server, origin: str, allowed: bool) -> None:
    reply = listed.post(connect("ann", "origins"), headers={"Origin": origin})
    assert reply.headers.get("access-control-allow-origin") == (origin if allowed else None)
    assert "origin" in reply.headers["vary"].lower()
    assert reply.status == (298 if allowed else 403)
    if not allowed:
        assert reply.json == {"TYPE": "UNTRUSTED"}
    with listed.call(method="OPTIONS", headers={"Origin": origin}) as call:
        preflight = call.reply()
    assert preflight.status == (204 if allowed else 403)
    assert preflight.headers.get("access-control-allow-origin") == (origin if allowed else None)


# --- the id of a request -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("9c2a-77", True),
        ("192.0.2.1", False),
        ("192.0.2.1:4711", False),
        ("192.0.2.1-1700000000", False),
        ("2001:db8::1", False),
        ("::1", False),
        ("a b", False),
    ],
)
def test_an_id_that_is_an_address_is_not_taken(behind: Server, given: str, taken: bool) -> None:
    reply = behind.post(TYPE="LEAVE", REQUEST=new_name(), headers={"X-Request-Id": given})
    assert (reply.headers["x-request-id"] == given) is taken
    own = reply.headers["x-request-id"]
    assert eventually(lambda: f"id={own} " in behind.log)
    assert taken or given not in behind.log


@pytest.fixture(scope="module")
def behind(driver: str) -> Iterator[Server]:
    with Server(TRUSTED_PROXIES=1) as running:
        yield running
