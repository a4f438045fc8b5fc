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
        self.taken_over: list[bytes] = []
        self.gone: list[Connection] = []

    def take_over(self, connection: Connection, data: bytes) -> None:
        self.taken_over.append(data)
        connection.socket.close()

    def closed(self, connection: Connection) -> None:
        self.gone.append(connection)

    def retire(self) -> None:
        self.alive = False


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

    def __init__(self) -> None:
        off = dict.fromkeys(("ADDRESS_LIMIT", "REQUEST_LIMIT", "PAIR_LIMIT"), "") | {"LOG": "off"}
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


def test_a_write_that_fails_is_no_delivery(desk: Desk) -> None:
    alice, bob = desk.client(Failing), desk.client()
    answer = desk.demoted(alice, bob)
    alice.connection.socket.fails = True  # type: ignore[attr-defined]
    bob.says(**answer)
    desk.turn()
    assert bob.hears() == ["NO_PEER"]
    assert alice.is_over


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
    desk.serving.tick(time.monotonic() + REPLY_SECONDS + 1)
    assert not alice.is_over, "it was written in time"


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
    client, whole = desk.client(), request()
    client.own.sendall(whole[:-1])
    desk.turn()
    deadline = client.connection.deadline
    assert BODY_GRACE_SECONDS - 1 < deadline - time.monotonic() <= BODY_GRACE_SECONDS
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
    desk.serving.tick(time.monotonic() + BODY_GRACE_SECONDS + 1)
    assert desk.host.taken_over == []


def test_who_has_left_is_forgotten(desk: Desk, unread: tuple[Client, Client]) -> None:
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


def test_idle_connections_are_closed_the_oldest_first(desk: Desk) -> None:
    first, second, busy = (desk.client() for _ in range(3))
    busy.says(TYPE="CONNECT", SIGNAL="x")
    second.asks()
    desk.turn()
    desk.serving.drop_idle(second.connection.since - 0.000_001)
    assert [each.is_over for each in (first, second, busy)] == [True, False, False]
    desk.serving.drop_idle(time.monotonic())
    assert [each.is_over for each in (second, busy)] == [True, False]


def test_an_error_of_ours_costs_one_request(
    desk: Desk, pair: tuple[Client, Client], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(desk.endpoint, "start", error)
    first, second = pair
    first.says()
    desk.turn()
    assert first.own.recv(1000).startswith(b"HTTP/1.1 500 ")
    assert first.is_over
    monkeypatch.undo()
    assert second.asks()["TYPE"] == "MISSING_PARAMETER"
    assert [each.levelno for each in caplog.records] == [logging.ERROR]


def error(*_: object) -> None:
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
    assert b"\r\nConnection: close\r\n" in client.own.recv(1000)
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
