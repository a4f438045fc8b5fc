"""Connections that are served by callbacks, from the bytes that are there to the reply that is written.

    readable ─► ordinary? ─► endpoint.start ─► (it waits) ─► take ─► write ─► finish
                    └─ no ─► the worker, for good

What a callback must not do: wait, or let an exception out, with which the rest of its events would be lost.
"""

from __future__ import annotations

import _socket
import functools
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from typing import Final, Protocol

import gevent
from gevent.monkey import get_original

from ..errors import HungUp
from .connection import WRITE_SECONDS
from .endpoint import HEADERS, Endpoint, Response, Transaction
from .head import Header
from .ordinary import Missing, Ordinary, OrdinaryHead
from .steps import Steps

READ_BYTES: Final = 16 << 10

REPLY_SECONDS: Final = 15.0
"""How long any other reply may take to go out; see `WRITE_SECONDS` for those that hand something over."""

BODY_GRACE_SECONDS: Final = 0.15
"""A body that is not there by then dribbles, and is gunicorn's to wait for."""

REQUESTS_A_TURN: Final = 256
"""Then the rest of the loop has its turn."""

SEND_FLAGS: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)  # which macOS has not

_READS: Final = 1
_WRITES: Final = 4
_GONE: Final = 0x2000 | 0x10 | 0x8  # EPOLLRDHUP, EPOLLHUP, EPOLLERR
_EDGE: Final = 1 << 31
_LIFELONG: Final = _READS | 0x2000 | _EDGE

_INTERNAL_ERROR: Final = (
    b"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Type: application/json\r\n"
    b'Content-Length: 67\r\n\r\n{"TYPE":"INTERNAL_SERVER_ERROR","DETAIL":"internal server error"}\r\n'
)

log = logging.getLogger(__name__)


def guarded(call: Callable[..., object], *args: object) -> None:
    """Make a call whose exception would be printed by the hub, and gone."""
    try:
        call(*args)
    except Exception:
        log.exception("a callback failed")


def _at_once(step: Callable[..., object], *args: object) -> None:
    step(*args)


class Host(Protocol):
    """The worker.

    Attributes:
        alive: it goes on; else each reply is a connection's last.
        nr: requests so far.
    """

    alive: bool
    nr: int
    max_requests: int

    def take_over(self, connection: Connection, data: bytes) -> None:
        """Serve a connection in a greenlet, with the bytes that were read of it, for good."""

    def closed(self, connection: Connection) -> None:
        """A connection is over."""

    def retire(self) -> None:
        """It has served as many requests as it is to."""


class Connection:
    """A client's connection, until it is closed or gunicorn has it.

    Attributes:
        serving: what serves it.
        remote: the address that it comes from.
        buffer: bytes that were read, and are no whole request yet, or the next one.
        since: when it was last idle, by the monotonic clock.
        is_busy: a request is under way.
        transaction: that request, once it was opened.
        ordinary: its head.
        unread: there may be more to read, which was not done while a request was under way.
        is_gone: the client has closed its side.
        unwritten: what is left of the reply.
        response: what that is of.
        deadline: for writing it, or for the rest of a body.
    """

    __slots__ = (
        "buffer",
        "deadline",
        "fd",
        "is_busy",
        "is_gone",
        "ordinary",
        "remote",
        "response",
        "serving",
        "since",
        "socket",
        "transaction",
        "unread",
        "unwritten",
    )

    def __init__(self, serving: Serving, sock: _socket.socket, fd: int, remote: str, since: float) -> None:
        self.serving = serving
        self.socket = sock
        self.fd = fd
        self.remote = remote
        self.since = since
        self.buffer = b""
        self.transaction: Transaction | None = None
        self.ordinary: OrdinaryHead | None = None
        self.unread = False
        self.is_busy = False
        self.is_gone = False
        self.unwritten = b""
        self.response: Response | None = None
        self.deadline = 0.0

    def is_open(self) -> bool:
        """Is the client there, as of now?"""
        self.serving.look()
        return self.socket is not None and not self.is_gone

    def resolved(self) -> None:
        """The request has its result."""
        self.serving.will_reply(self)


class Serving:
    """The connections of a worker.

    Args:
        host: the worker.
        endpoint: what is served.
        ordinary: recognizes what is served here.
        blocks: a step may wait for another process, and is taken in a greenlet.
    """

    def __init__(self, host: Host, endpoint: Endpoint, ordinary: Ordinary, *, blocks: bool) -> None:
        self._host = host
        self._endpoint = endpoint
        self._ordinary = ordinary
        self._step = Steps().begin if blocks else _at_once
        self.is_ending = False
        self._connections: dict[int, Connection] = {}
        self._idle: dict[Connection, None] = {}  # in the order of `since`
        self._dribbling: dict[Connection, None] = {}
        self._writing: dict[Connection, None] = {}
        self._ready: deque[Connection] = deque()
        self._resolved: deque[Connection] = deque()
        self._will_reply = False
        self._will_read = False
        self._second = 0
        self._heads: dict[bool, bytes] = {}
        self._renew_head(time.time())
        self._loop = gevent.get_hub().loop
        self._epoll = get_original("select", "epoll")()
        self._watcher = self._loop.io(self._epoll.fileno(), 1)
        self._watcher.start(guarded, self.serve_ready)

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, sock: _socket.socket, fd: int, remote: str, now: float) -> None:
        """Serve a connection that has just been accepted."""
        connection = self._connections[fd] = Connection(self, sock, fd, remote, now)
        self._idle[connection] = None
        self._epoll.register(fd, _LIFELONG)

    def tick(self, now: float) -> None:
        """What is due: replies, writes and bodies that take too long."""
        self._renew_head(time.time())
        self._reply_all()
        for connection in [each for each in self._writing if each.deadline <= now]:
            self._finish_writing(connection, written=False)
        for connection in [each for each in self._dribbling if each.deadline <= now]:
            self._give_up(connection, connection.buffer)

    def drop_idle(self, before: float) -> None:
        """Close the connections on which nothing was asked since."""
        while self._idle:
            connection = next(iter(self._idle))
            if connection.since > before:
                break
            self._drop(connection)

    # --- events --------------------------------------------------------------------------------------------

    def serve_ready(self) -> None:
        """Serve what is ready.

        All of it is read before anything is written: a client that is woken by each reply apart costs the
        kernel more than all of its bytes.
        """
        self._will_read = self._will_reply = True  # both are done here
        ready = self._ready
        try:
            self._look()
            for _ in range(min(len(ready), REQUESTS_A_TURN)):
                connection = ready.popleft()
                try:
                    self._readable(connection)
                except Exception:  # noqa: BLE001  logged by it
                    self._fail(connection)
        finally:
            self._reply_all()
            self._will_read = False
            self._read_on()

    def _read_on(self) -> None:
        """See to it that what is ready is read. Its events are over, so nothing would call for it again."""
        if self._ready and not self._will_read:
            self._will_read = True
            self._loop.run_callback(guarded, self.serve_ready)

    def _look(self) -> None:
        """See what has happened by now: hang-ups first, and then what is to be read, in its turn.

        Once for each wake: who left before a newcomer's bytes came is seen no later than these, and has left
        the pool before the newcomer is matched. And once more before each write that hands something over
        (`look`), so that its connection was open just before.
        """
        for fd, mask in self._epoll.poll(0, 1024):
            connection = self._connections.get(fd)
            if connection is None:
                continue
            if mask != _READS:
                if mask & _GONE and not connection.is_gone:
                    connection.is_gone = True
                    self._hang_up(connection)
                if mask & _WRITES and connection.unwritten:
                    self._write_more(connection)
                if connection.socket is None or not mask & (_READS | _GONE):
                    continue
            self._ready.append(connection)

    def look(self) -> None:
        """See what has happened by now; what is to be read will be."""
        self._look()
        if not self._will_read:
            self._read_on()

    def _hang_up(self, connection: Connection) -> None:
        transaction = connection.transaction
        if transaction is None or not transaction.ticket or transaction.result is not None:
            return
        self._step(self._endpoint.exchange.hang_up, transaction)

    def _readable(self, connection: Connection) -> None:
        if connection.is_busy or connection.socket is None:
            connection.unread = True  # what is behind a request stays in the kernel until it is answered
            return
        try:
            data = connection.socket.recv(READ_BYTES, SEND_FLAGS)
        except BlockingIOError:
            connection.unread = False
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return
        connection.unread = len(data) == READ_BYTES
        self._received(connection, connection.buffer + data if connection.buffer else data)

    def _received(self, connection: Connection, data: bytes) -> None:
        found = self._ordinary.find(data)
        if found is None:
            self._give_up(connection, data)
        elif isinstance(found, Missing):
            self._wait_for_more(connection, data, found)
        else:
            self._serve(connection, data, *found)

    def _wait_for_more(self, connection: Connection, data: bytes, missing: Missing) -> None:
        connection.buffer = data
        if connection.unread:
            self._readable(connection)
        elif connection.is_gone:
            self._drop(connection)
        elif missing is Missing.BODY and not connection.deadline:
            connection.deadline = time.monotonic() + BODY_GRACE_SECONDS
            self._dribbling[connection] = None

    # --- one request ---------------------------------------------------------------------------------------

    def _serve(
        self, connection: Connection, data: bytes, ordinary: OrdinaryHead, begin: int, end: int
    ) -> None:
        connection.buffer = data[end:]
        connection.ordinary = ordinary
        connection.is_busy = True
        self._idle.pop(connection, None)
        if connection.deadline:
            connection.deadline = 0.0
            self._dribbling.pop(connection, None)
        host = self._host
        host.nr += 1
        if host.nr >= host.max_requests and host.alive:
            host.retire()
        self._step(self._open, connection, data[begin:end])

    def _open(self, connection: Connection, body: bytes) -> None:
        endpoint, ordinary = self._endpoint, connection.ordinary
        assert ordinary is not None
        try:
            transaction = connection.transaction = endpoint.open(
                ordinary.head, connection.remote, ordinary.forwarded, ordinary.given_id, is_whole=True
            )
            if transaction.result is None:
                endpoint.start(transaction, body)
            transaction.on_result(connection.resolved)
            if connection.is_gone:
                self._hang_up(connection)
        except Exception:  # noqa: BLE001  logged by it
            self._fail(connection)

    def will_reply(self, connection: Connection) -> None:
        """Its reply is decided. Not written here, in the middle of whatever decided it."""
        self._resolved.append(connection)
        if not self._will_reply:
            self._will_reply = True
            self._loop.run_callback(guarded, self._reply_all)

    def _reply_all(self) -> None:
        self._will_reply = True
        resolved, step, reply = self._resolved, self._step, self._reply
        while resolved:
            step(reply, resolved.popleft())
        self._will_reply = False

    def _reply(self, connection: Connection) -> None:
        try:
            transaction = connection.transaction
            assert transaction is not None
            try:
                response = self._endpoint.take(transaction, is_open=connection.is_open)
            except HungUp:
                self._drop(connection)
                return
            self._write(connection, response)
        except Exception:  # noqa: BLE001  logged by it
            self._fail(connection)

    def _write(self, connection: Connection, response: Response) -> None:
        transaction, ordinary = connection.transaction, connection.ordinary
        assert transaction is not None
        assert ordinary is not None
        status, headers, payload, reply = response
        closes = ordinary.closes or self.is_ending or not self._host.alive
        data = b"".join(
            (
                b"HTTP/1.1 ",
                status.encode("latin-1"),
                self._heads[closes],
                transaction.id.encode("latin-1"),
                b"\r\n",
                ordinary.cors,
                _header_lines(headers) if headers else b"",
                b"Content-Length: %d\r\n\r\n" % len(payload),
                payload,
            )
        )
        try:
            sent = connection.socket.send(data, SEND_FLAGS)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._endpoint.finish(transaction, response, written=False)
            self._drop(connection)
            return
        if sent == len(data):
            self._endpoint.finish(transaction, response, written=True)
            self._written(connection, closes=closes)
            return
        connection.unwritten, connection.response = data[sent:], response
        connection.deadline = time.monotonic() + (REPLY_SECONDS if reply is None else WRITE_SECONDS)
        self._writing[connection] = None
        self._epoll.modify(connection.fd, _LIFELONG | _WRITES)

    def _write_more(self, connection: Connection) -> None:
        try:
            sent = connection.socket.send(connection.unwritten, SEND_FLAGS)
        except BlockingIOError:
            return
        except OSError:
            self._finish_writing(connection, written=False)
            return
        connection.unwritten = connection.unwritten[sent:]
        if not connection.unwritten:
            self._finish_writing(connection, written=True)

    def _finish_writing(self, connection: Connection, *, written: bool) -> None:
        del self._writing[connection]
        transaction, response = connection.transaction, connection.response
        assert transaction is not None
        assert response is not None
        connection.unwritten, connection.response, connection.deadline = b"", None, 0.0
        if written:
            self._epoll.modify(connection.fd, _LIFELONG)
        self._step(partial(self._endpoint.finish, transaction, response, written=written))
        if written:
            assert connection.ordinary is not None
            self._written(connection, closes=connection.ordinary.closes)
        else:
            self._drop(connection)

    def _written(self, connection: Connection, *, closes: bool) -> None:
        """The reply is in the kernel; the next request may be there already."""
        connection.transaction = None
        connection.is_busy = False
        if connection.socket is None:
            return
        if closes or self.is_ending or not self._host.alive or (connection.is_gone and not connection.buffer):
            self._drop(connection)
            return
        connection.since = time.monotonic()
        self._idle[connection] = None
        if connection.buffer or connection.unread:
            self._loop.run_callback(guarded, self._next_request, connection)

    def _next_request(self, connection: Connection) -> None:
        """Go on with what came behind a request that is answered now."""
        if connection.is_busy or connection.socket is None:
            return
        try:
            if connection.buffer:
                self._received(connection, connection.buffer)
            else:
                self._readable(connection)
        except Exception:  # noqa: BLE001  logged by it
            self._fail(connection)

    def _drop(self, connection: Connection) -> None:
        """Close a connection."""
        if self._connections.get(connection.fd) is connection:
            self._forget(connection)
            connection.socket.close()
            connection.socket = None  # type: ignore[assignment]
            self._host.closed(connection)

    def _forget(self, connection: Connection) -> None:
        del self._connections[connection.fd]
        self._idle.pop(connection, None)
        self._dribbling.pop(connection, None)
        self._writing.pop(connection, None)
        connection.transaction = None

    def _fail(self, connection: Connection) -> None:
        """An error of ours: it costs the request that it happened to, and nobody else."""
        log.exception("a request failed")
        if connection.socket is not None:
            with suppress(OSError):
                connection.socket.send(_INTERNAL_ERROR, SEND_FLAGS)
            self._drop(connection)

    def _give_up(self, connection: Connection, data: bytes) -> None:
        """It is not ordinary."""
        self._forget(connection)
        self._epoll.unregister(connection.fd)
        self._host.take_over(connection, data)
        connection.socket = None  # type: ignore[assignment]

    def _renew_head(self, moment: float) -> None:
        """What all replies of one second have in common."""
        second = int(moment)
        if second == self._second:
            return
        self._second = second
        fixed = "".join(f"{name}: {value}\r\n" for name, value in HEADERS)
        for closes in (False, True):
            self._heads[closes] = (
                f"\r\nServer: gunicorn\r\nDate: {formatdate(second, usegmt=True)}\r\n"
                f"Connection: {'close' if closes else 'keep-alive'}\r\n{fixed}X-Request-Id: "
            ).encode()


@functools.lru_cache(256)
def _header_lines(headers: tuple[Header, ...]) -> bytes:
    """A few headers as they are written. There are not many kinds of them."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")
