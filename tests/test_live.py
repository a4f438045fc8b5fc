"""The protocol against gunicorn, by raw sockets: every row of its tables, as a client sees it."""

from __future__ import annotations

import gzip
import json
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import pytest

from live import Call, Reply, Server
from signal_server.http.connection import DRAIN_BYTES


def connect(name: str, **extra: object) -> dict[str, object]:
    return {"TYPE": "CONNECT", "SIGNAL": f"offer of {name}", "FINGERPRINT": name, **extra}


def answer(name: str, nonce: str, **extra: object) -> dict[str, object]:
    return {"TYPE": "CONNECT", "SIGNAL": f"answer of {name}", "NONCE": nonce, "FINGERPRINT": name, **extra}


def demoted(server: Server, room: str) -> tuple[Call, Reply]:
    """Alice waits in a room of her own, and Bob was told to answer her."""
    before = server.statistics()["waiting"]
    alice = server.call(connect("alice", NAMESPACE=room))
    server.until(waiting=before + 1)
    return alice, server.post(connect("bob", NAMESPACE=room))


# --- linking -----------------------------------------------------------------------------------------------


def test_two_strangers_link(server: Server) -> None:
    alice, bob = demoted(server, "link")
    assert (bob.status_line, bob.type, bob["SIGNAL"]) == ("200 OK", "DEMOTE", "offer of alice")
    assert re.fullmatch(r"[A-Za-z0-9_-]{22,}", bob["NONCE"])
    assert alice.is_held()
    delivered = server.post(answer("bob", bob["NONCE"], NAMESPACE="link"))
    assert (delivered.status_line, delivered.json) == ("200 OK", {"TYPE": "DELIVERED"})
    assert alice.reply().json == {"TYPE": "ANSWER", "SIGNAL": "answer of bob"}


def test_the_whole_exchange_on_kept_connections(server: Server) -> None:
    alice = server.call(connect("alice", NAMESPACE="kept"))
    server.until(waiting=1)
    bob = server.call(connect("bob", NAMESPACE="kept"))
    bob.send(answer("bob", bob.reply()["NONCE"], NAMESPACE="kept"))
    assert bob.reply().type == "DELIVERED"
    assert alice.reply().headers["connection"] == "keep-alive"
    alice.send(connect("alice", NAMESPACE="kept"))
    server.until(waiting=1)
    alice.close()
    server.until(waiting=0)


@pytest.mark.parametrize(
    ("content_type", "encode"),
    [
        ("application/json", json.dumps),
        ("text/plain;charset=UTF-8", json.dumps),
        ("application/x-www-form-urlencoded", urlencode),
    ],
)
def test_a_signal_travels_unchanged_in_every_form(server: Server, content_type: str, encode: Any) -> None:
    text = 'v=0\r\n"quotes" \\ / é ☕ 😀 \t\x00 </script> \u2028 %41+'
    headers = {"Content-Type": content_type}
    body = encode({"TYPE": "CONNECT", "SIGNAL": text, "NAMESPACE": content_type}).encode()
    alice = server.call(body=body, headers=headers)
    server.until(waiting=1)
    bob = server.post(connect("bob", NAMESPACE=content_type))
    assert bob["SIGNAL"] == text
    alice.close()
    server.until(waiting=0)


def test_signed_up_rooms_do_not_mix(server: Server) -> None:
    with server.call(connect("a", NAMESPACE="one")), server.call(connect("b", NAMESPACE="two")):
        server.until(waiting=2)
        with server.call(connect("c")):
            server.until(waiting=3)
    server.until(waiting=0)


def test_a_peer_is_fingerprint_and_headers_and_never_meets_itself(server: Server) -> None:
    room = {"NAMESPACE": "self"}
    with server.call(connect("a", **room)), server.call(connect("a", **room)):
        server.until(waiting=2)
        other = server.call(connect("a", **room), headers={"User-Agent": "another"})
        assert other.reply().type == "DEMOTE"
        other.close()
    server.until(waiting=0)


def test_no_peer(quick: Server) -> None:
    alone = quick.post(connect("a"))
    assert (alone.status_line, alone.json) == ("299 No Peer", {"TYPE": "NO_PEER", "RETRY_AFTER": 0})
    alone = quick.post(connect("a", NAMESPACE="chess"))
    expected = {"TYPE": "NO_NAMESPACE_PEER", "RETRY_AFTER": 0}
    assert (alone.status_line, alone.json) == ("298 No Namespace Peer", expected)


def test_a_bounce_returns_the_offer_and_brings_ones_own(server: Server) -> None:
    alice, bob = demoted(server, "bounce")
    own = {"TYPE": "BOUNCE", "SIGNAL": "another offer of bob", "FINGERPRINT": "bob", "NAMESPACE": "bounce"}
    bounced = server.call(own | {"NONCE": bob["NONCE"]})
    server.until(waiting=2)
    carl = server.post(connect("carl", NAMESPACE="bounce"))
    assert carl["SIGNAL"] == "offer of alice"
    dora = server.post(connect("dora", NAMESPACE="bounce"))
    assert dora["SIGNAL"] == "another offer of bob"
    assert server.post(answer("dora", dora["NONCE"], NAMESPACE="bounce")).type == "DELIVERED"
    assert bounced.reply()["SIGNAL"] == "answer of dora"
    alice.close()


def test_a_bounce_without_a_good_nonce_is_a_connect(quick: Server) -> None:
    bounced = quick.post({"TYPE": "BOUNCE", "SIGNAL": "s", "NONCE": "x" * 22, "NAMESPACE": "b"})
    assert bounced.status == 298


def test_a_demote_may_end_a_held_request(server: Server) -> None:
    """Bob never answers; Carl came later and waits; the returned offer is Alice's, and Carl is demoted."""
    with Server(ANSWER_TIMEOUT=0.3) as short:
        alice, _ = demoted(short, "late")
        carl = short.call(connect("carl", NAMESPACE="late"))
        told = carl.reply()
        assert (told.type, told["SIGNAL"]) == ("DEMOTE", "offer of alice")
        assert short.post(answer("carl", told["NONCE"], NAMESPACE="late")).type == "DELIVERED"
        assert alice.reply()["SIGNAL"] == "answer of carl"


def test_an_offer_that_was_not_answered_in_time_comes_after_the_others() -> None:
    """Bob bounced Alice, so their two offers wait side by side. Slow is given hers, and does not answer."""
    with Server(ANSWER_TIMEOUT=0.3) as short:
        alice, bob = demoted(short, "slow")
        own = {"TYPE": "BOUNCE", "SIGNAL": "offer of bob", "FINGERPRINT": "bob", "NAMESPACE": "slow"}
        bounced = short.call(own | {"NONCE": bob["NONCE"]})
        short.until(waiting=2)
        told = [short.post(connect("slow", NAMESPACE="slow"))]
        short.until(waiting=2)
        told += [short.post(connect("slow", NAMESPACE="slow")) for _ in range(2)]
        assert [each["SIGNAL"] for each in told] == [f"offer of {name}" for name in ("alice", "bob", "alice")]
        assert short.post(answer("slow", told[-1]["NONCE"], NAMESPACE="slow")).type == "DELIVERED"
        assert alice.reply()["SIGNAL"] == "answer of slow"
        bounced.close()


def test_a_late_offer_extends_the_hold_and_a_return_ends_it(quick: Server) -> None:
    alice = quick.call(connect("alice", NAMESPACE="extend"))
    started = time.monotonic()
    quick.until(waiting=1)
    while time.monotonic() - started < 0.8:
        assert alice.is_held()
        time.sleep(0.05)
    quick.post(connect("bob", NAMESPACE="extend"))
    assert alice.reply().status == 298
    assert time.monotonic() - started > 1.15


# --- nonces ------------------------------------------------------------------------------------------------


def test_what_is_no_good_nonce_gets_the_same_answer(quick: Server) -> None:
    alice, bob = demoted(quick, "n")
    for name, nonce, room in (
        ("bob", "x" * 22, "n"),
        ("bob", bob["NONCE"][:-1], "n"),
        ("bob", "\u0000", "n"),
        ("eve", bob["NONCE"], "n"),
        ("bob", bob["NONCE"], "elsewhere"),
    ):
        assert quick.post(answer(name, nonce, NAMESPACE=room)).status == 298
    assert quick.post(answer("bob", bob["NONCE"], NAMESPACE="n")).type == "DELIVERED"
    assert alice.reply()["SIGNAL"] == "answer of bob"
    assert quick.post(answer("bob", bob["NONCE"], NAMESPACE="n", SIGNAL="other")).status == 298


def test_a_bad_nonce_gets_the_next_offer(server: Server) -> None:
    with server.call(connect("alice", NAMESPACE="next")):
        server.until(waiting=1)
        told = server.post(answer("bob", "x" * 22, NAMESPACE="next"))
        assert (told.type, told["SIGNAL"]) == ("DEMOTE", "offer of alice")


def test_a_repeat_of_a_delivered_answer_is_delivered_again(server: Server) -> None:
    with Server(limits=True, PAIR_LIMIT="1 per 50 seconds") as strict:
        alice, bob = demoted(strict, "again")
        for _ in range(5):
            assert strict.post(answer("bob", bob["NONCE"], NAMESPACE="again")).type == "DELIVERED"
        assert alice.reply().type == "ANSWER"
        assert alice.is_quiet()  # and nothing more is sent
        assert strict.post(answer("bob", bob["NONCE"], NAMESPACE="again", SIGNAL="new")).status == 297


def test_the_others_departure_gives_the_next_offer(server: Server) -> None:
    alice, bob = demoted(server, "gone")
    carl = server.call(connect("carl", NAMESPACE="gone"))
    server.until(waiting=1)
    alice.close()
    server.until(offered=0)
    told = server.post(answer("bob", bob["NONCE"], NAMESPACE="gone"))
    assert (told.type, told["SIGNAL"]) == ("DEMOTE", "offer of carl")
    assert server.post(answer("bob", told["NONCE"], NAMESPACE="gone")).type == "DELIVERED"
    carl.close()


# --- hang-ups ----------------------------------------------------------------------------------------------


def leave_by_fin(call: Call) -> None:
    call.close()


def leave_by_reset(call: Call) -> None:
    call.reset()


def leave_by_half_close(call: Call) -> None:
    call.socket.shutdown(socket.SHUT_WR)


def leave_behind_pipelined_bytes(call: Call) -> None:
    call.send(connect("pipelined", NAMESPACE="never"))
    call.close()


LEAVINGS = [leave_by_fin, leave_by_reset, leave_by_half_close, leave_behind_pipelined_bytes]


@pytest.mark.parametrize("leave", LEAVINGS)
def test_a_closed_tab_leaves_the_pool_at_once(server: Server, leave: Any) -> None:
    alice = server.call(connect("alice", NAMESPACE=leave.__name__))
    server.until(waiting=1)
    leave(alice)
    server.until(waiting=0)


@pytest.mark.parametrize("leave", LEAVINGS[:3])
def test_a_newcomer_never_meets_a_ghost(server: Server, leave: Any) -> None:
    """The hang-up and the newcomer arrive together: the one that was first must win."""
    for number in range(30):
        room = f"{leave.__name__} {number}"
        alice = server.call(connect("alice", NAMESPACE=room))
        server.until(waiting=1)
        leave(alice)
        bob = server.call(connect("bob", NAMESPACE=room))
        server.until(waiting=1)
        assert bob.is_held()
        bob.close()
        server.until(waiting=0)


@pytest.mark.parametrize("leave", LEAVINGS[:3])
def test_delivered_is_never_said_of_an_answer_that_was_not_written(quick: Server, leave: Any) -> None:
    for number in range(20):
        room = f"true {leave.__name__} {number}"
        alice, bob = demoted(quick, room)
        leave(alice)
        assert quick.post(answer("bob", bob["NONCE"], NAMESPACE=room)).status == 298


def test_a_client_that_does_not_read_is_gone_after_three_seconds() -> None:
    """Its buffers are full, so the answer's bytes cannot leave; nobody is told that they did."""
    with Server(MAX_BODY="", REQUEST_TIMEOUT=20) as server:
        alice = server.call(connect("alice"))
        alice.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.until(waiting=1)
        bob = server.post(connect("bob"))
        started = time.monotonic()
        told = server.post(answer("bob", bob["NONCE"], SIGNAL="x" * 20_000_000))
        assert told.status == 299
        assert 2.5 < time.monotonic() - started < 10
        server.until(pairs=0, handovers=0)


def test_a_demote_that_cannot_be_written_gives_the_offer_back(server: Server) -> None:
    alice = server.call(connect("alice", NAMESPACE="back"))
    server.until(waiting=1)
    for number in range(20):
        bob = server.call(connect(f"bob {number}", NAMESPACE="back"))
        bob.reset()
    carl = server.call(connect("carl", NAMESPACE="back"))
    deadline = time.monotonic() + 10
    while carl.is_held():  # bobs that were quick enough hold nonces until their time is over
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert carl.reply()["SIGNAL"] == "offer of alice"
    alice.close()


# --- many at once ------------------------------------------------------------------------------------------


def test_two_hundred_strangers_all_link(server: Server) -> None:
    def play(number: int) -> str:
        name = f"peer {number}"
        room = {"NAMESPACE": "crowd"}
        told = server.post(connect(name, **room))
        while told.type == "DEMOTE":
            offer = told["SIGNAL"]
            told = server.post(answer(name, told["NONCE"], **room))
            if told.type == "DELIVERED":
                return f"{name} answered {offer.removeprefix('offer of ')}"
        assert told.type == "ANSWER", told
        return f"{told['SIGNAL'].removeprefix('answer of ')} answered {name}"

    with ThreadPoolExecutor(200) as pool:
        links = list(pool.map(play, range(200)))
    assert len(set(links)) == 100, "each link is told alike by its two ends"
    assert all(links.count(each) == 2 for each in links)


def test_races_at_the_time_out() -> None:
    """Answers fired around the end of ANSWER_TIMEOUT: DELIVERED and ANSWER come together or not at all."""
    with Server(REQUEST_TIMEOUT=0.3, ANSWER_TIMEOUT=0.3) as server:

        def race(number: int) -> tuple[str, str]:
            room = f"race {number}"
            alice = server.call(connect("alice", NAMESPACE=room))
            bob = server.post(connect("bob", NAMESPACE=room))
            if bob.type != "DEMOTE":
                alice.close()
                return "", ""
            time.sleep(0.27 + 0.06 * (number % 10) / 10)
            told = server.post(answer("bob", bob["NONCE"], NAMESPACE=room)).type
            got = alice.reply().type
            alice.close()
            return told, got

        with ThreadPoolExecutor(16) as pool:
            seen = set(pool.map(race, range(160))) - {("", "")}
        assert seen <= {("DELIVERED", "ANSWER"), ("NO_NAMESPACE_PEER", "NO_NAMESPACE_PEER")}
        assert len(seen) == 2, "the race was never close"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_answers_everyone(number: int) -> None:
    with Server() as server:
        held = [server.call(connect(f"p {i}", NAMESPACE=str(i))) for i in range(100)]
        server.until(held=100)
        started = time.monotonic()
        server.process.send_signal(number)
        for each in held:
            told = each.reply()
            assert told.status_line == "503 Service Unavailable"
            assert told.type == "UNAVAILABLE"
            assert told["RETRY_AFTER"] >= 0
            assert "retry-after" in told.headers
        assert time.monotonic() - started < 5
        assert server.process.wait(10) == 0
        for each in held:
            each.close()


@pytest.mark.parametrize(
    "arguments",
    [["--worker-class", "gthread", "--threads", "20"]],
)
def test_the_same_code_runs_on_threads(arguments: list[str]) -> None:
    with Server(*arguments, REQUEST_TIMEOUT=1) as server:
        alice, bob = demoted(server, "threads")
        assert server.post(answer("bob", bob["NONCE"], NAMESPACE="threads")).type == "DELIVERED"
        assert alice.reply().type == "ANSWER"
        alice.close()
        gone = server.call(connect("gone"))
        server.until(waiting=1)
        gone.close()
        server.until(waiting=0)
        assert server.post(connect("alone")).status == 299
        held = server.call(connect("held"))
        server.until(waiting=1)
        server.process.send_signal(signal.SIGTERM)
        assert held.reply().status == 503
        held.close()


# --- requests that are refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content_type", "status", "fields"),
    [
        (
            b"{}",
            "application/json",
            "499 Missing Parameter",
            {"TYPE": "MISSING_PARAMETER", "PARAMETER": "TYPE"},
        ),
        (
            b"TYPE=BOUNCE&SIGNAL=s",
            "application/x-www-form-urlencoded",
            "499 Missing Parameter",
            {"PARAMETER": "NONCE"},
        ),
        (b'{"TYPE":"X"}', "application/json", "400 Bad Request", {"TYPE": "BAD_REQUEST"}),
        (b"[" * 60_000, "application/json", "400 Bad Request", {"TYPE": "BAD_REQUEST"}),
        (b"", "application/json", "400 Bad Request", {"TYPE": "BAD_REQUEST"}),
        (b"x", "text/html", "415 Unsupported Media Type", {"TYPE": "UNSUPPORTED_MEDIA_TYPE"}),
        (b"x" * 65537, "application/json", "413 Content Too Large", {"TYPE": "TOO_LARGE"}),
        (b"x" * 1_000_000, "application/json", "413 Content Too Large", {"TYPE": "TOO_LARGE"}),
    ],
)
def test_refusals(
    server: Server, body: bytes, content_type: str, status: str, fields: dict[str, Any]
) -> None:
    with server.call(body=body, headers={"Content-Type": content_type}) as call:
        told = call.reply()
    assert told.status_line == status
    assert fields.items() <= told.json.items()
    assert told.headers["content-type"] == "application/json"
    assert told.headers["cache-control"] == "no-store"


def test_a_body_of_just_the_bound_is_taken(server: Server) -> None:
    frame = len(json.dumps(connect("a", SIGNAL="", NAMESPACE="big")))
    with server.call(connect("a", SIGNAL="x" * (65536 - frame), NAMESPACE="big")) as call:
        server.until(waiting=1)
        assert call.is_held()
    server.until(waiting=0)


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in pieces) + b"0\r\n\r\n"


def test_chunked_bodies_within_the_same_bound(server: Server) -> None:
    headers = {"Content-Length": "", "Transfer-Encoding": "chunked"}
    with server.call(body=chunked(b'{"TYPE"', b': "BOUNCE"}'), headers=headers) as call:
        assert call.reply()["PARAMETER"] == "SIGNAL"
    with server.call(body=chunked(*[b"x" * 4096] * 100), headers=headers) as call:
        assert call.reply().status == 413


def test_the_connection_ends_with_the_refusal_of_what_is_not_read_to_its_end(server: Server) -> None:
    with server.call(
        body=b"x" * (DRAIN_BYTES // 2), headers={"Content-Length": str(2 * DRAIN_BYTES)}
    ) as call:
        assert call.reply().status == 413
        assert not call.reply(1).status  # at once; its other half is awaited for longer


def test_a_request_behind_a_body_that_is_not_read_to_its_end_may_come_again(server: Server) -> None:
    """A proxy sends it on the connection of a client whose body was far too large."""
    next_body = json.dumps(connect("bob", NAMESPACE="behind")).encode()
    head = f"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: {len(next_body)}\r\n"
    behind = f"{head}Content-Type: application/json\r\n\r\n".encode() + next_body
    large = chunked(b"x" * (DRAIN_BYTES + 70_000))  # nobody says how long it is
    with server.offer("alice", NAMESPACE="behind"):
        server.until(waiting=1)
        for _ in range(20):
            headers = {"Content-Length": "", "Transfer-Encoding": "chunked"}
            with server.call(body=large + behind, headers=headers) as call:
                assert call.reply().status == 413
                told = call.reply()
            if told.status:  # else the connection was closed before it came
                break
        assert (told.status, told["RETRY_AFTER"]) == (503, 1)
        assert server.post(connect("bob", NAMESPACE="behind")).type == "DEMOTE"
    server.until(waiting=0)


@pytest.mark.parametrize(
    ("body", "coding", "status"),
    [
        (gzip.compress(b'{"TYPE": "BOUNCE"}'), "gzip", 499),
        (gzip.compress(b'{"TYPE": "BOUNCE"}'), "GZIP", 499),
        (gzip.compress(b'{"TYPE"') + gzip.compress(b': "BOUNCE"}'), "gzip", 499),
        (b'{"TYPE": "BOUNCE"}', "identity", 499),
        (gzip.compress(b'{"TYPE": "BOUNCE"}')[:-9], "gzip", 400),
        (gzip.compress(b'{"TYPE": "BOUNCE"}') + b"x", "gzip", 400),
        (b'{"TYPE": "BOUNCE"}', "gzip", 400),
        (b"", "gzip", 400),
        (gzip.compress(b" " * 100_000_000), "gzip", 413),
        (b"x", "br", 415),
        (b"x", "gzip, gzip", 415),
        (b"x", "deflate", 415),
    ],
    ids=lambda value: str(value) if len(str(value)) < 9 else "body",
)
def test_compressed_requests(server: Server, body: bytes, coding: str, status: int) -> None:
    with server.call(body=body, headers={"Content-Encoding": coding}) as call:
        assert call.reply().status == status


def test_a_dribbling_body_is_cut_off_and_others_do_not_notice(server: Server) -> None:
    started = time.monotonic()
    with server.call(body=b"{", headers={"Content-Length": "100"}) as slow:
        stop = threading.Event()

        def dribble() -> None:
            while not stop.wait(0.5):
                try:
                    slow.socket.send(b" ")
                except OSError:
                    return

        thread = threading.Thread(target=dribble)
        thread.start()
        try:
            assert server.get("/health")[0] == 200
            told = slow.reply()
        finally:
            stop.set()
            thread.join()
    assert (told.status_line, told.type) == ("408 Request Timeout", "REQUEST_TIMEOUT")
    assert 4.5 < time.monotonic() - started < 8


def test_a_body_cut_short_leaves_nothing(server: Server) -> None:
    for _ in range(5):
        with server.call(body=b'{"TYPE":', headers={"Content-Length": "100"}):
            pass
    server.until(waiting=0, held=0)


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("PUT", "/", "405 Method Not Allowed", "METHOD_NOT_ALLOWED"),
        ("DELETE", "/", "405 Method Not Allowed", "METHOD_NOT_ALLOWED"),
        ("POST", "/health", "405 Method Not Allowed", "METHOD_NOT_ALLOWED"),
        ("GET", "/nowhere", "404 Not Found", "NOT_FOUND"),
        ("GET", "/ice/", "404 Not Found", "NOT_FOUND"),
        ("POST", "/nowhere", "404 Not Found", "NOT_FOUND"),
        ("GET", "/../app.py", "404 Not Found", "NOT_FOUND"),
    ],
)
def test_other_methods_and_paths(server: Server, method: str, path: str, status: str, kind: str) -> None:
    with server.call({}, method=method, path=path) as call:
        told = call.reply()
    assert (told.status_line, told.type) == (status, kind)
    assert "DETAIL" in told.json
    assert ("allow" in told.headers) == (told.status == 405)


def test_what_is_no_http_is_refused_in_the_same_form_and_not_logged(server: Server) -> None:
    for head in (
        b"zq\r\n\r\n",
        b"GET / HTTP/1.1\r\nzq zq: 1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nHost: zq\r\n\r\n",
    ):
        with server.call({}, method="GET", path="/health") as call:
            call.reply()
            call.socket.sendall(head)
            told = call.reply()
        assert told.status == 400
        assert told.type == "BAD_REQUEST"
        assert told.headers["cache-control"] == "no-store"
    assert "zq" not in server.log
    assert "127.0.0.1" not in server.log


def test_a_body_that_is_still_coming_at_the_end_is_answered_too() -> None:
    with Server() as server:
        call = server.call(body=b"{", headers={"Content-Length": "100"})
        assert server.get("/health")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        assert call.reply(timeout=8).status == 503
        call.close()


# --- headers -----------------------------------------------------------------------------------------------


def test_any_page_may_read_the_reply(server: Server) -> None:
    with server.call({}, headers={"Origin": "https://elsewhere.example"}) as call:
        headers = call.reply().headers
    assert headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in headers
    assert "Retry-After" in headers["access-control-expose-headers"]


def test_a_preflight_is_answered_and_remembered(server: Server) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST", "Content-Type": ""}
    with server.call(body=b"", method="OPTIONS", headers=asked) as call:
        told = call.reply()
    assert told.status == 204
    assert told.headers["access-control-allow-origin"] == "*"
    assert "POST" in told.headers["access-control-allow-methods"]
    assert "content-type" in told.headers["access-control-allow-headers"].lower()
    assert int(told.headers["access-control-max-age"]) >= 600


def test_only_listed_origins_where_there_is_a_list() -> None:
    with Server(CORS_ORIGINS="https://a.example,https://b.example") as server:

        def ask(origin: str | None, method: str = "POST") -> Reply:
            headers = {"Origin": origin or ""}
            with server.call({}, headers=headers, method=method) as call:
                return call.reply()

        for origin in ("https://a.example", "https://b.example"):
            assert ask(origin).headers["access-control-allow-origin"] == origin
            assert ask(origin).headers["vary"] == "Origin"
            assert ask(origin, "OPTIONS").status == 204
        for origin in ("https://c.example", "https://a.example.evil", "null", "http://a.example", "*"):
            told = ask(origin)
            assert (told.status_line, told.json) == ("403 Forbidden", {"TYPE": "UNTRUSTED"})
            assert "access-control-allow-origin" not in told.headers
            assert ask(origin, "OPTIONS").status == 403
        assert ask(None).status == 499


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True),
        ("br, gzip;q=0.5", True),
        ("*", True),
        ("*;q=0, gzip", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("*, gzip;q=0", False),
    ],
)
def test_a_long_reply_is_compressed_for_who_accepts_it(
    server: Server, accepted: str, compressed: bool
) -> None:
    room = f"zip {accepted}"
    with server.call(connect("alice", NAMESPACE=room, SIGNAL="candidate " * 500)):
        server.until(waiting=1)
        with server.call(connect("bob", NAMESPACE=room), headers={"Accept-Encoding": accepted}) as bob:
            told = bob.reply()
    assert told.headers["vary"] == "Accept-Encoding"
    assert ("content-encoding" in told.headers) == compressed
    body = gzip.decompress(told.body) if compressed else told.body
    assert json.loads(body)["SIGNAL"] == "candidate " * 500
    server.until(waiting=0)


def test_a_short_reply_is_not_compressed(server: Server) -> None:
    with server.call({}, headers={"Accept-Encoding": "gzip"}) as call:
        assert "content-encoding" not in call.reply().headers


def test_no_header_holds_text_of_the_client(server: Server) -> None:
    with server.call(
        connect("zqzq", NAMESPACE="zqzq", TYPE="zqzq"), headers={"Origin": "https://zqzq.example"}
    ) as call:
        told = call.reply()
    assert "zqzq" not in str(told.headers)
    assert "zqzq" not in told.body.decode()


# --- limits ------------------------------------------------------------------------------------------------


def test_the_request_limit_counts_new_connects_of_a_peer() -> None:
    with Server(limits=True, REQUEST_LIMIT="2 per 2 seconds", REQUEST_TIMEOUT=0.1) as server:
        assert [server.post(connect("a")).status for _ in range(2)] == [299, 299]
        told = server.post(connect("a"))
        assert (told.status_line, told.type) == ("297 Rate Limit", "RATE_LIMIT")
        assert told.headers["retry-after"] == str(told["RETRY_AFTER"])
        assert server.post(connect("b")).status == 299
        assert server.post(answer("a", "x" * 22)).status == 297, "a bad nonce counts as a new connect"
        assert server.post({}).status == 499, "bad input comes first"
        time.sleep(told["RETRY_AFTER"])
        assert server.post(connect("a")).status == 299, "and RETRY_AFTER is true"


def test_the_pair_limit_follows_a_pairing_and_not_a_bounce() -> None:
    with Server(limits=True, REQUEST_LIMIT="", PAIR_LIMIT="1 per 2 seconds", REQUEST_TIMEOUT=0.3) as server:
        alice, bob = demoted(server, "r")
        own = {"TYPE": "BOUNCE", "SIGNAL": "s", "FINGERPRINT": "bob", "NAMESPACE": "r", "NONCE": bob["NONCE"]}
        assert server.post(own).status == 298
        assert server.post(connect("bob", NAMESPACE="r")).status == 298, "a BOUNCE starts no PAIR_LIMIT"
        alice.close()
        alice, carl = demoted(server, "s")
        assert carl.type == "DEMOTE"
        assert server.post(answer("bob", carl["NONCE"], NAMESPACE="s")).type == "DELIVERED"
        assert alice.reply().type == "ANSWER"
        told = [server.post(connect(name, NAMESPACE="s")) for name in ("alice", "bob", "dora")]
        assert [each.status for each in told] == [297, 297, 298]
        time.sleep(told[0]["RETRY_AFTER"])
        assert server.post(connect("alice", NAMESPACE="s")).status == 298


def test_a_good_nonce_is_a_ticket_past_the_limits() -> None:
    with Server(limits=True, REQUEST_LIMIT="1 per 60 seconds", REQUEST_TIMEOUT=1) as server:
        alice, bob = demoted(server, "t")
        alice.close()
        server.until(offered=0)
        assert server.post(answer("bob", bob["NONCE"], NAMESPACE="t")).status == 298, "a ticket still"
        assert server.post(answer("bob", bob["NONCE"], NAMESPACE="t")).status == 297, "and spent"


def test_the_address_limit_comes_before_everything() -> None:
    with Server(
        limits=True, ADDRESS_LIMIT="3 per 2 seconds", REQUEST_LIMIT="", REQUEST_TIMEOUT=0.1
    ) as server:
        assert [server.post({}).status for _ in range(3)] == [499] * 3
        assert server.post({}).status == 297
        with server.call(body=b"x", headers={"Content-Length": "60000"}) as slow:
            assert slow.reply(timeout=3).status == 297, "at once, and not after its body"
        with server.call({}, headers={"Origin": "https://a.example"}) as page:
            assert page.reply().headers["access-control-allow-origin"] == "*", "the page may read it"
        assert server.get("/health")[0] == server.get("/")[0] == 200, "it counts POSTs only"


def test_the_requests_that_one_address_may_hold() -> None:
    with Server(HELD_PER_ADDRESS=3, MAX_WAITING=3, REQUEST_TIMEOUT=30) as server:
        held = [server.call(connect("a", NAMESPACE="h")) for _ in range(3)]
        server.until(held=3)
        told = server.post(connect("a", NAMESPACE="h"))
        assert (told.status, told.type) == (297, "RATE_LIMIT")
        assert server.post(connect("b", NAMESPACE="h")).type == "DEMOTE", "who need not wait is served"
        for each in held:
            each.close()


def test_a_full_server_says_so() -> None:
    with Server(MAX_WAITING=2, REQUEST_TIMEOUT=30) as server:
        held = [server.call(connect("a")) for _ in range(2)]
        server.until(held=2)
        told = server.post(connect("a"))
        assert (told.status, told.type) == (503, "UNAVAILABLE")
        assert told["RETRY_AFTER"] >= 0
        demote = server.post(connect("b"))
        assert server.post(answer("b", demote["NONCE"])).type == "DELIVERED"
        for each in held:
            each.close()


@pytest.mark.parametrize("limit", ["HELD_PER_ADDRESS", "MAX_WAITING"])
def test_who_found_no_place_may_ask_again_at_once(limit: str) -> None:
    with Server(limits=True, REQUEST_LIMIT="1 per minute", REQUEST_TIMEOUT=30, **{limit: 1}) as server:
        with server.call(connect("a", NAMESPACE="a")):
            server.until(held=1)
            for _ in range(3):
                told = server.post(connect("b", NAMESPACE="b"))
                assert told.status == (297 if limit == "HELD_PER_ADDRESS" else 503)
        server.until(held=0)
        with server.call(connect("b", NAMESPACE="b")) as call:
            server.until(held=1)
            assert call.is_held()
        server.until(held=0)
        assert server.post(connect("b", NAMESPACE="b")).type == "RATE_LIMIT"


def test_a_refusal_keeps_the_connection() -> None:
    """A proxy has others' requests on it."""
    limits = {"ADDRESS_LIMIT": "2 per second", "CORS_ORIGINS": "https://a.example"}
    with Server(limits=True, **limits) as server, server.call({}) as call:
        assert call.reply().status == 499
        call.send(body=b"x" * 70_000, parameters=None)
        assert call.reply().status == 413
        call.send({})
        told = call.reply()
        assert told.status == 297
        time.sleep(told["RETRY_AFTER"])
        call.send({}, headers={"Origin": "https://b.example"})
        assert call.reply().status == 403
        call.send({})
        assert call.reply().status == 499


def test_who_has_left_holds_no_place() -> None:
    with Server(HELD_PER_ADDRESS=3, MAX_WAITING=3) as server:
        for number in range(20):
            held = [server.call(connect("a", NAMESPACE=str(number))) for _ in range(3)]
            server.until(held=3)
            for each in held:
                each.close()
            with server.call(connect("b", NAMESPACE=str(number))):
                server.until(held=1, waiting=1)
            server.until(held=0)


def test_a_bounce_that_may_not_wait_is_refused_before_anything_is_done() -> None:
    with Server(HELD_PER_ADDRESS=2) as server:
        alice, bob = demoted(server, "full")
        with server.call(connect("carl", NAMESPACE="other")):
            server.until(held=2)
            own = {"TYPE": "BOUNCE", "SIGNAL": "s", "FINGERPRINT": "bob", "NAMESPACE": "full"}
            assert server.post(own | {"NONCE": bob["NONCE"]}).status == 297
            assert server.post(answer("bob", bob["NONCE"], NAMESPACE="full")).type == "DELIVERED"
            assert alice.reply().type == "ANSWER"


def test_a_full_server_says_so_in_the_fields_of_its_row() -> None:
    with Server(MAX_WAITING=1) as server, server.offer():
        server.until(waiting=1)
        told = server.post(connect("b", NAMESPACE="other"))
        assert (told.status_line, told.json) == (
            "503 Service Unavailable",
            {"TYPE": "UNAVAILABLE", "RETRY_AFTER": 1},
        )


def test_the_pair_limit_is_of_the_last_pairing() -> None:
    with Server(limits=True, REQUEST_LIMIT="", PAIR_LIMIT="1 per 2 seconds", REQUEST_TIMEOUT=9) as server:
        first, told = demoted(server, "one")
        second = server.call(connect("alice", NAMESPACE="two"))
        server.until(waiting=1)
        other = server.post(connect("bob", NAMESPACE="two"))
        assert server.post(answer("bob", told["NONCE"], NAMESPACE="one")).type == "DELIVERED"
        time.sleep(1.2)
        assert server.post(answer("bob", other["NONCE"], NAMESPACE="two")).type == "DELIVERED"
        time.sleep(1.2)
        assert server.post(connect("bob", NAMESPACE="three")).status == 297
        first.close(), second.close()


def test_addresses_behind_proxies_count_as_they_should() -> None:
    def ask(server: Server, forwarded: str) -> int:
        with server.call({}, headers={"X-Forwarded-For": forwarded}) as call:
            return call.reply().status

    with Server(limits=True, ADDRESS_LIMIT="1 per 60 seconds") as server:
        assert [ask(server, f"192.0.2.{n}") for n in range(3)] == [499, 297, 297], "nobody is trusted"
    with Server(limits=True, ADDRESS_LIMIT="1 per 60 seconds", TRUSTED_PROXIES=1) as server:
        assert ask(server, "192.0.2.1") == 499
        assert ask(server, "198.51.100.9, 192.0.2.1") == 297, "only the last hop is believed"
        assert ask(server, "::ffff:192.0.2.1") == 297
        assert ask(server, "192.0.2.1:4711") == 297
        assert ask(server, "2001:db8::1") == 499
        assert ask(server, "2001:db8::ffff:1") == 297, "the same /64"
        assert ask(server, "2001:db8:0:1::1") == 499
        assert ask(server, "<script>") == 499, "counts as the proxy itself"
        assert ask(server, "unknown") == 297


# --- the other routes --------------------------------------------------------------------------------------


def test_the_page_and_its_modules(server: Server) -> None:
    status, headers, page = server.get("/")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert "unsafe" not in headers["content-security-policy"]
    assert "default-src" in headers["content-security-policy"]
    assert b"{{" not in page
    for name in ("spacerift.js", "signers.js", "fingerprints.js"):
        status, headers, _ = server.get(f"/{name}")
        assert (status, headers["access-control-allow-origin"]) == (200, "*")
        assert headers["content-type"].startswith("text/javascript")
    for name in ("health", "ready"):
        assert server.get(f"/{name}")[0] == 200


def test_a_prefix_moves_everything() -> None:
    with Server(URL_PREFIX="/rift", REQUEST_TIMEOUT=0.1) as server:
        assert server.get("/rift/")[0] == server.get("/rift/spacerift.js")[0] == 200
        for path in ("/rift/", "/rift"):
            with server.call(connect("a"), path=path) as call:
                assert call.reply().status == 299
        assert server.get("/")[0] == 404


def test_nothing_secret_is_logged() -> None:
    with Server(REQUEST_TIMEOUT=0.3) as server:
        alice, bob = demoted(server, "zqroom")
        server.post(answer("zqbob", bob["NONCE"], NAMESPACE="zqroom", SIGNAL="zqsignal"))
        server.post(answer("bob", bob["NONCE"], NAMESPACE="zqroom", SIGNAL="zqsignal"))
        server.call(body=b"zqbroken").reply()
        server.call({}, path="/zqpath", headers={"User-Agent": "zqagent"}).reply()
        alice.close()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(10)
        assert "zq" not in server.log
        assert bob["NONCE"] not in server.log
        assert "Traceback" not in server.log
