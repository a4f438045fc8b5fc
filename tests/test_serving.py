"""What the worker's driver does with a connection, one event after the other, by real sockets of 127.0.0.1.

The loop does not run but where a test lets it, so each thing happens exactly when the test wants it to.
"""

from __future__ import annotations

import _socket
import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import gevent
import pytest
from gunicorn.config import Config

from signal_server.app import create_app
from signal_server.http.connection import WRITE_SECONDS
from signal_server.http.ordinary import Ordinary
from signal_server.http.serving import BODY_GRACE_SECONDS, READ_BYTES, REPLY_SECONDS, Connection, Serving
from signal_server.settings import Settings

LONG = "x" * 60_000
"""A text that no small buffer takes."""


class Host:
    """What a worker is to its connections."""

    def __init__(self) -> None:
        self.alive, self.nr, self.max_requests = True, 0, 1_000_000
        self.retired = 0
        self.taken_over: list[bytes] = []
        self.gone: list[Connection] = []

    def take_over(self, connection: Connection, data: bytes) -> None:
        self.taken_over.append(data)
        connection.socket.close()

    def closed(self, connection: Connection) -> None:
        self.gone.append(connection)

    def retire(self) -> None:
        self.alive = False
        self.retired += 1


class Client:
    """A client, and the server's end of its connection."""

    def __init__(self, desk: Desk, own: socket.socket, connection: Connection) -> None:
        self._desk, self.own, self.connection = desk, own, connection

    def says(self, **parameters: str) -> Client:
        """Send a request; it is not read yet."""
        self.own.sendall(request(**parameters))
        return self

    def hears(self) -> list[str]:
        """The types of the replies that are there."""
        heard = b""
        with suppress(BlockingIOError):
            while piece := self.own.recv(1 << 20, socket.MSG_DONTWAIT):
                heard += piece
        return [json.loads(each.split(b"\r\n\r\n", 1)[1])["TYPE"] for each in heard.split(b"HTTP/1.1 ")[1:]]

    def asks(self, **parameters: str) -> Any:
        """Send a request that is answered at once."""
        self.says(**parameters)
        self._desk.turn()
        return json.loads(self.own.recv(1 << 20).split(b"\r\n\r\n", 1)[1])

    @property
    def is_over(self) -> bool:
        return self.connection in self._desk.host.gone


def request(**parameters: str) -> bytes:
    body = json.dumps(parameters).encode()
    head = (
        f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Desk:
    """A driver with its endpoint, and clients."""

    def __init__(self, **chosen: str) -> None:
        off = dict.fromkeys(("ADDRESS_LIMIT", "REQUEST_LIMIT", "PAIR_LIMIT"), "") | {"LOG": "off"} | chosen
        app = create_app(Settings.from_env({f"SPACERIFT_{name}": value for name, value in off.items()}))
        self._server = app.extensions["spacerift"]
        self._server.timers.drive()
        self.endpoint = self._server.endpoint
        self.host = Host()
        ordinary = Ordinary(["/"], self.endpoint.heads, max_body=None, config=Config())
        self.serving = Serving(self.host, self.endpoint, ordinary, blocks=False)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._clients: list[Client] = []

    def client(self, kind: type[_socket.socket] = _socket.socket, *, buffers: int = 0) -> Client:
        """Connect. With `buffers`, the kernel keeps no more than some such KiB of what is not read."""
        own = socket.socket()
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is sent is there at once
        if buffers:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers << 10)
        own.connect(self._listener.getsockname())
        fd, _ = self._listener._accept()  # type: ignore[attr-defined]
        ours = kind(socket.AF_INET, socket.SOCK_STREAM, 0, fd)
        if buffers:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers << 10)
        self.serving.add(ours, fd, "127.0.0.1", time.monotonic())
        self._clients.append(Client(self, own, self.serving._connections[fd]))
        return self._clients[-1]

    def turn(self) -> None:
        """Serve what is ready by now."""
        self.serving.serve_ready()

    def demoted(self, alice: Client, bob: Client) -> dict[str, str]:
        """She waits, and he has her offer. Returns his answer, which he has not sent."""
        alice.says(TYPE="CONNECT", SIGNAL="an offer", FINGERPRINT="alice")
        self.turn()
        told = bob.asks(TYPE="CONNECT", SIGNAL="another", FINGERPRINT="bob")
        assert told["TYPE"] == "DEMOTE"
        return {"TYPE": "CONNECT", "SIGNAL": "an answer", "FINGERPRINT": "bob", "NONCE": told["NONCE"]}

    def close(self) -> None:
        for _ in range(3):
            gevent.sleep(0)  # what it has asked of the loop is over then
        for each in self._clients:
            each.own.close()
            self.serving._drop(each.connection)
        self._listener.close()
        self.serving._watcher.stop()
        self.serving._watcher.close()
        self.serving._epoll.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.close()


@pytest.fixture
def pair(desk: Desk) -> tuple[Client, Client]:
    return desk.client(), desk.client()


class Failing(_socket.socket):
    """A connection that breaks when something is sent, and not before."""

    fails = False

    def send(self, *words: Any) -> int:
        if self.fails:
            raise ConnectionResetError
        return super().send(*words)


def test_two_are_linked(desk: Desk, pair: tuple[Client, Client]) -> None:
    alice, bob = pair
    bob.says(**desk.demoted(alice, bob))
    desk.turn()
    assert (alice.hears(), bob.hears()) == (["ANSWER"], ["DELIVERED"])


def test_who_hangs_up_between_the_decision_and_the_write_has_heard_nothing(
    desk: Desk, pair: tuple[Client, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, bob = pair
    answer = desk.demoted(alice, bob)
    start = desk.endpoint.start

    def start_and_hang_up(*words: Any) -> None:
        start(*words)
        alice.own.close()  # the kernel would take what is sent to her now

    monkeypatch.setattr(desk.endpoint, "start", start_and_hang_up)
    bob.says(**answer)
    desk.turn()
    assert bob.hears() == ["NO_PEER"]


def test_a_write_that_fails_is_no_delivery(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    alice, bob = desk.client(Failing), desk.client()
    answer = desk.demoted(alice, bob)
    alice.connection.socket.fails = True  # type: ignore[attr-defined]
    bob.says(**answer)
    desk.turn()
    assert bob.hears() == ["NO_PEER"]
    assert (alice.is_over, alice.connection.is_open(), caplog.records) == (True, False, [])


class Full(_socket.socket):
    """A connection whose buffer takes nothing, for a while."""

    is_full = True

    def send(self, *words: Any) -> int:
        if self.is_full:
            raise BlockingIOError
        return super().send(*words)


def test_of_a_reply_that_could_not_be_written_at_once_no_byte_is_lost(desk: Desk) -> None:
    client = desk.client(Full)
    client.says()
    desk.turn()
    desk.turn()
    assert (client.hears(), bool(client.connection.unwritten)) == ([], True)
    client.connection.socket.is_full = False  # type: ignore[attr-defined]
    desk.serving._write_more(client.connection)
    assert client.own.recv(1000).startswith(b"HTTP/1.1 499 ")
    assert client.connection.unwritten == b""
    assert client.asks()["TYPE"] == "MISSING_PARAMETER"


@pytest.fixture
def unread(desk: Desk) -> tuple[Client, Client]:
    """A reply that is too long to be written before it is read, and who waits to hear of it."""
    alice, bob = desk.client(buffers=4), desk.client()
    answer = desk.demoted(alice, bob)
    bob.says(**answer | {"SIGNAL": LONG})
    desk.turn()
    assert alice.connection.unwritten
    assert bob.hears() == []
    return alice, bob


def test_a_reply_is_delivered_when_its_last_byte_is_written(
    desk: Desk, unread: tuple[Client, Client]
) -> None:
    alice, bob = unread
    heard = b""
    while alice.connection.unwritten:
        assert bob.hears() == []
        with suppress(BlockingIOError):
            heard += alice.own.recv(1 << 16, socket.MSG_DONTWAIT)
        desk.turn()
    desk.turn()
    assert bob.hears() == ["DELIVERED"]
    heard += alice.own.recv(1 << 20)
    assert json.loads(heard.split(b"\r\n\r\n", 1)[1])["SIGNAL"] == LONG
    desk.serving.tick(time.monotonic() + REPLY_SECONDS + 1)
    assert not alice.is_over, "it was written in time"
    assert (alice.connection.deadline, alice.connection.response) == (0, None)
    assert alice.asks()["TYPE"] == "MISSING_PARAMETER"


@pytest.mark.parametrize("how", ["the server ends", "the worker has had enough"])
def test_a_reply_that_was_begun_before_the_end_is_the_last(
    desk: Desk, unread: tuple[Client, Client], how: str
) -> None:
    alice, _ = unread
    if how == "the server ends":
        desk.serving.is_ending = True
    else:
        desk.host.alive = False
    while alice.connection.unwritten:
        with suppress(BlockingIOError):
            alice.own.recv(1 << 16, socket.MSG_DONTWAIT)
        desk.turn()
    assert alice.is_over


def test_a_reply_that_is_not_read_in_time_is_none(desk: Desk, unread: tuple[Client, Client]) -> None:
    alice, bob = unread
    deadline = alice.connection.deadline
    assert WRITE_SECONDS - 1 < deadline - time.monotonic() <= WRITE_SECONDS
    desk.serving.tick(deadline - 0.01)
    assert (alice.is_over, bob.hears()) == (False, [])
    desk.serving.tick(deadline)
    desk.turn()
    assert (alice.is_over, bob.hears()) == (True, ["NO_PEER"])


def test_who_hangs_up_in_the_middle_of_a_reply_has_not_heard_it(
    desk: Desk, unread: tuple[Client, Client]
) -> None:
    alice, bob = unread
    alice.own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    alice.own.close()
    desk.turn()
    desk.turn()
    assert (alice.is_over, bob.hears()) == (True, ["NO_PEER"])


def test_a_reply_that_hands_nothing_over_has_longer(desk: Desk) -> None:
    client = desk.client(buffers=4)
    client.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    for _ in range(1000):  # replies, of which none is read
        if client.connection.unwritten:
            break
        client.says()
        desk.turn()
    left = client.connection.deadline - time.monotonic()
    assert REPLY_SECONDS - 1 < left <= REPLY_SECONDS


@pytest.mark.parametrize("cut", ["at once", "later", "more than is read at once"])
def test_what_stands_behind_a_request_is_served_after_it(
    desk: Desk, pair: tuple[Client, Client], cut: str
) -> None:
    alice, bob = pair
    offer = request(TYPE="CONNECT", SIGNAL="an offer", FINGERPRINT="alice")
    behind = request()
    if cut == "more than is read at once":
        behind = request(SIGNAL="y" * (READ_BYTES - len(offer) - len(request(SIGNAL="")))) + request()
        assert len(offer + behind) > READ_BYTES
    if cut == "later":
        alice.own.sendall(offer)
        desk.turn()
        alice.own.sendall(behind)  # nothing tells of it a second time
    else:
        alice.own.sendall(offer + behind)
    desk.turn()
    told = bob.asks(TYPE="CONNECT", SIGNAL="another", FINGERPRINT="bob")
    bob.says(TYPE="CONNECT", SIGNAL="an answer", FINGERPRINT="bob", NONCE=told["NONCE"])
    desk.turn()
    heard: list[str] = []
    for _ in range(5):
        gevent.sleep(0)
        heard += alice.hears()
    assert heard == ["ANSWER"] + ["MISSING_PARAMETER"] * behind.count(b"POST")


def test_a_request_that_comes_in_pieces_is_one(desk: Desk) -> None:
    client, whole = desk.client(), request()
    for at in range(0, len(whole), 7):
        assert client.hears() == []
        client.own.sendall(whole[at : at + 7])
        desk.turn()
    assert client.hears() == ["MISSING_PARAMETER"]


def test_a_body_that_takes_too_long_is_gunicorns(desk: Desk) -> None:
    client, whole, begun = desk.client(), request(), time.monotonic()
    client.own.sendall(whole[:-2])
    desk.turn()
    deadline = client.connection.deadline
    assert begun + BODY_GRACE_SECONDS <= deadline <= time.monotonic() + BODY_GRACE_SECONDS
    client.own.sendall(whole[-2:-1])
    desk.turn()
    assert client.connection.deadline == deadline, "one more byte makes it no longer"
    desk.serving.tick(deadline - 0.01)
    assert desk.host.taken_over == []
    desk.serving.tick(deadline)
    assert desk.host.taken_over == [whole[:-1]]
    assert (len(desk.serving), desk.host.gone) == (0, [])


def test_a_body_that_comes_in_time_is_not(desk: Desk) -> None:
    client, whole = desk.client(), request()
    client.own.sendall(whole[:-1])
    desk.turn()
    client.own.sendall(whole[-1:])
    desk.turn()
    assert client.hears() == ["MISSING_PARAMETER"]
    assert client.connection.deadline == 0
    desk.serving.tick(time.monotonic() + BODY_GRACE_SECONDS + 1)
    assert desk.host.taken_over == []


def test_a_head_has_no_such_time(desk: Desk) -> None:
    client = desk.client()
    client.own.sendall(request()[:20])
    desk.turn()
    desk.serving.tick(time.monotonic() + BODY_GRACE_SECONDS + 1)
    assert (client.connection.deadline, desk.host.taken_over) == (0, [])
    client.own.sendall(request()[20:])
    desk.turn()
    assert client.hears() == ["MISSING_PARAMETER"]


def test_who_has_left_in_the_middle_of_a_request_is_not_waited_for(desk: Desk) -> None:
    for length in (20, len(request()) - 1):  # of the head, and of the body
        client = desk.client()
        client.own.sendall(request()[:length])
        client.own.shutdown(socket.SHUT_WR)
        desk.turn()
        assert client.is_over


def test_what_is_not_ordinary_is_gunicorns(desk: Desk) -> None:
    client, asked = desk.client(), b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    client.own.sendall(asked)
    desk.turn()
    assert desk.host.taken_over == [asked]
    assert (len(desk.serving), desk.host.gone) == (0, [])


def test_what_is_seen_before_a_write_is_read_in_the_next_turn(desk: Desk) -> None:
    """Nothing tells of it a second time."""
    client = desk.client().says()
    desk.serving.look()
    assert client.hears() == []
    gevent.sleep(0)
    assert client.hears() == ["MISSING_PARAMETER"]


def test_a_connection_that_has_nothing_to_read_stays(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    client = desk.client()
    desk.serving._readable(client.connection)
    assert client.asks()["TYPE"] == "MISSING_PARAMETER"
    assert caplog.records == []


def test_a_connection_that_breaks_is_over_without_a_word(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    client = desk.client()
    client.own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.own.close()
    desk.turn()
    assert (client.is_over, client.connection.is_open()) == (True, False)
    desk.serving._next_request(client.connection)  # which may have been on its way
    assert caplog.records == []
    desk.serving._fail(client.connection)  # as may this
    assert len(desk.host.gone) == len(caplog.records) == 1


@pytest.mark.parametrize("count", [1, 3])
def test_who_says_no_more_is_answered_and_left(desk: Desk, count: int) -> None:
    client = desk.client()
    client.own.sendall(request() * count)
    client.own.shutdown(socket.SHUT_WR)
    desk.turn()
    for _ in range(3 * count):
        gevent.sleep(0)
    assert (client.hears(), client.is_over) == (["MISSING_PARAMETER"] * count, True)


def test_what_stands_behind_a_request_that_waits_stays_there(desk: Desk) -> None:
    client = desk.client().says(TYPE="CONNECT", SIGNAL="an offer").says()
    desk.turn()
    desk.serving._next_request(client.connection)
    assert client.hears() == []
    assert client.connection.buffer == request()


def test_requests_are_counted_for_the_worker(desk: Desk) -> None:
    for client in (desk.client(), desk.client()):
        client.asks()
        client.asks()
    assert desk.host.nr == 4


def test_it_retires_once(desk: Desk) -> None:
    desk.host.max_requests = 2
    for client in [desk.client() for _ in range(4)]:
        client.asks()
    assert desk.host.retired == 1


def test_what_is_refused_by_its_head_is_not_begun() -> None:
    desk = Desk(ADDRESS_LIMIT="1 per minute")
    try:
        assert [desk.client().asks()["TYPE"] for _ in range(2)] == ["MISSING_PARAMETER", "RATE_LIMIT"]
        client = desk.client().says()
        desk.turn()
        assert b"\r\nRetry-After: 60\r\n" in client.own.recv(1000)
    finally:
        desk.close()


def test_who_leaves_with_the_last_byte_of_an_offer_waits_for_nobody(desk: Desk) -> None:
    alice, bob = desk.client(), desk.client()
    alice.says(TYPE="CONNECT", SIGNAL="an offer", FINGERPRINT="alice").own.close()
    desk.turn()
    bob.says(TYPE="CONNECT", SIGNAL="another", FINGERPRINT="bob")
    desk.turn()
    assert bob.hears() == []
    assert alice.is_over


def test_who_has_left_is_forgotten(
    desk: Desk, unread: tuple[Client, Client], caplog: pytest.LogCaptureFixture
) -> None:
    """One that is idle, one in the middle of a body, one that waits, and one that does not read its reply."""
    idle, dribbling, waiting = (desk.client() for _ in range(3))
    dribbling.own.sendall(request()[:-1])
    waiting.says(TYPE="CONNECT", SIGNAL="x", FINGERPRINT="waiting", NAMESPACE="room")
    desk.turn()
    everybody = [idle, dribbling, waiting, *unread]
    for each in everybody:
        each.own.close()
    desk.turn()
    desk.serving.tick(time.monotonic() + REPLY_SECONDS + 1)
    desk.serving.drop_idle(time.monotonic() + 1)
    gevent.sleep(0)
    assert all(each.is_over for each in everybody)
    assert len(desk.host.gone) == len(everybody), "each once"
    left = "_connections", "_idle", "_dribbling", "_writing"
    assert [len(getattr(desk.serving, each)) for each in left] == [0] * 4
    assert caplog.records == []


def test_idle_connections_are_closed_the_oldest_first(desk: Desk) -> None:
    first, second, busy = (desk.client() for _ in range(3))
    busy.says(TYPE="CONNECT", SIGNAL="x")
    begun = time.monotonic()
    second.asks()
    desk.turn()
    assert first.connection.since < begun < second.connection.since
    desk.serving.drop_idle(second.connection.since - 0.000_001)
    assert [each.is_over for each in (first, second, busy)] == [True, False, False]
    desk.serving.drop_idle(time.monotonic())
    assert [each.is_over for each in (second, busy)] == [True, False]


@pytest.mark.parametrize("step", ["start", "take"])
def test_an_error_of_ours_costs_one_request(
    desk: Desk,
    pair: tuple[Client, Client],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
) -> None:
    monkeypatch.setattr(desk.endpoint, step, error)
    first, second = pair
    first.says()
    desk.turn()
    assert first.own.recv(1000).startswith(b"HTTP/1.1 500 ")
    assert first.is_over
    monkeypatch.undo()
    assert second.asks()["TYPE"] == "MISSING_PARAMETER"
    assert [each.levelno for each in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("behind", [False, True])
def test_an_error_of_ours_while_it_is_read_costs_one_connection(
    desk: Desk,
    pair: tuple[Client, Client],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    behind: bool,
) -> None:
    first, second = pair
    if behind:
        first.asks()
        first.connection.buffer = request()
    else:
        first.says()
    with monkeypatch.context() as broken:
        broken.setattr(desk.serving._ordinary, "find", error)
        if behind:
            desk.serving._next_request(first.connection)
        else:
            desk.turn()
    assert first.own.recv(1000).startswith(b"HTTP/1.1 500 ")
    assert (first.is_over, second.asks()["TYPE"]) == (True, "MISSING_PARAMETER")
    assert [each.levelno for each in caplog.records] == [logging.ERROR]


def error(*_: object, **__: object) -> None:
    raise ValueError("on purpose")


@pytest.mark.parametrize("how", ["the server ends", "the worker has had enough"])
def test_each_reply_is_the_last_of_its_connection_at_the_end(desk: Desk, how: str) -> None:
    client = desk.client()
    if how == "the server ends":
        desk.serving.is_ending = True
    else:
        desk.host.max_requests = 1
    client.says()
    desk.turn()
    head = client.own.recv(1000)
    assert head.startswith(b"HTTP/1.1 499 ")
    assert b"\r\nConnection: close\r\n" in head
    assert client.is_over


def test_a_reply_bears_the_time_and_leaves_the_connection_open(desk: Desk) -> None:
    client = desk.client()
    for moment, date in ((0.5, "Thu, 01 Jan 1970 00:00:00 GMT"), (1.5, "Thu, 01 Jan 1970 00:00:01 GMT")):
        desk.serving._renew_head(moment)
        client.says()
        desk.turn()
        head = client.own.recv(1000).split(b"\r\n\r\n")[0].decode().split("\r\n")
        assert {f"Date: {date}", "Connection: keep-alive"} < set(head)


def test_a_client_that_wants_no_more_is_told_so_and_left(desk: Desk) -> None:
    client = desk.client()
    client.own.sendall(request().replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n"))
    desk.turn()
    head = client.own.recv(1000)
    assert head.startswith(b"HTTP/1.1 499 ")
    assert b"\r\nConnection: close\r\n" in head
    assert client.is_over


def test_a_turn_is_bounded_and_goes_on_by_itself(desk: Desk) -> None:
    clients = [desk.client() for _ in range(300)]
    for each in clients:
        each.says()
    desk.turn()
    heard = sum(len(each.hears()) for each in clients)
    assert 0 < heard < 300
    for _ in range(3):
        gevent.sleep(0)
    assert heard + sum(len(each.hears()) for each in clients) == 300
