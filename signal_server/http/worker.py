"""gunicorn's gevent worker, but ordinary POSTs are served by callbacks, and who waits has no greenlet.

    listener ─► accept ─► readable ─► ordinary? ─► endpoint.start ─► (it waits) ─► take ─► write ─► finish
                                          └─ no ─► gunicorn's own code, in a greenlet, for good

The thread of control is gevent's hub. Its callbacks are the watchers of the listeners, one watcher of an
epoll of our own, on which each connection is registered once for its whole life, and a tick. A greenlet is
there only for a step that may wait for another process (OpenPGP, Redis), never for a request that waits.

Set it with `worker_class = "signal_server.http.worker.Worker"`. What a callback must not do: wait, or let an
exception out, with which the rest of its events would be lost.
"""

from __future__ import annotations

import _socket
import functools
import logging
import os
import select
import signal
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from typing import Any, Final

import gevent
import gevent.event
import gevent.socket
from gevent.monkey import get_original
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.workers.ggevent import GeventWorker

from ..errors import HungUp
from ..matching.exchange import DRAIN_SECONDS
from ..matching.timers import TICK_SECONDS
from .connection import KEEPALIVE, WRITE_SECONDS, stop_reading
from .crowd import REFUSAL, Crowd
from .endpoint import HEADERS, Endpoint, Response, Transaction
from .head import Header
from .ordinary import Missing, Ordinary, OrdinaryHead

READ_BYTES: Final = 16 << 10

REPLY_SECONDS: Final = 15.0
"""How long any other reply may take to go out; see `WRITE_SECONDS` for those that hand something over."""

BODY_GRACE_SECONDS: Final = 0.15
"""A body that is not there by then dribbles, and is gunicorn's to wait for."""

REQUESTS_A_TURN: Final = 256
"""Then the rest of the loop has its turn."""

ACCEPTS_A_TURN: Final = 64
ACCEPTS_A_TURN_OF_MANY: Final = 8
"""The same where there are other workers, who are to have some."""

EXHAUSTED_SECONDS: Final = 0.5
"""The pause after a connection could not be accepted, for want of a descriptor."""

LAST_REQUEST_SECONDS: Final = 1.0
"""At the end, a connection on which nothing is asked is kept so long: a request may be on its way."""

SWEEP_SECONDS: Final = 0.25
"""The pause between two looks for connections that are idle for too long."""

_FLAGS: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)  # which macOS has not
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


class Connection:
    """A client's connection, until it is closed or gunicorn has it.

    Attributes:
        worker: that serves it.
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
        "since",
        "socket",
        "transaction",
        "unread",
        "unwritten",
        "worker",
    )

    def __init__(self, worker: Worker, sock: _socket.socket, fd: int, remote: str, since: float) -> None:
        self.worker = worker
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
        self.worker.look()
        return self.socket is not None and not self.is_gone

    def resolved(self) -> None:
        """The request has its result."""
        self.worker.will_reply(self)


class Worker(GeventWorker):  # type: ignore[misc]
    """See the module. It is a plain `GeventWorker` where that is wanted; see `serves_by_callbacks`."""

    alive: bool
    _was_told = False
    _is_hurried = False

    def run(self) -> None:
        """gunicorn calls this once the application is loaded; it returns when the worker is to end."""
        if not self.serves_by_callbacks():
            super().run()
            return
        self._set_up()
        for listener in self.sockets:
            self._listen(listener)
        self._watcher.start(self._guarded, self._events)
        self._ticker.start(self._guarded, self._tick)
        while self.alive:
            self.notify()
            self._told.wait(1.0)
        self._end()

    def serves_by_callbacks(self) -> bool:
        """Is the application ours alone, and does the configuration want nothing that only gunicorn does?"""
        server = getattr(self.wsgi, "extensions", {}).get("spacerift")
        cfg = self.cfg
        hooks = [
            hook
            for hook in (cfg.pre_request, cfg.post_request)
            if not (hook.__module__ == "gunicorn.config" or hasattr(hook, "is_for_greenlets"))
        ]
        return (
            server is not None
            and server.is_alone
            and hasattr(select, "EPOLLRDHUP")
            and not (cfg.is_ssl or cfg.proxy_protocol != "off" or "h2" in cfg.http_protocols)
            and not (cfg.accesslog or cfg.statsd_host or hooks or os.environ.get("SCRIPT_NAME"))
        )

    # --- the beginning -------------------------------------------------------------------------------------

    def _set_up(self) -> None:
        server = self.wsgi.extensions["spacerift"]
        self._endpoint: Endpoint = server.endpoint
        self._crowd: Crowd = server.crowd
        self._timers = server.timers
        self._request_log = server.request_log
        self._blocks = server.store.blocks or server.signatures is not None
        self._ordinary = Ordinary(
            server.paths, self._endpoint.heads, max_body=server.settings.max_body, config=self.cfg
        )
        self._timers.drive()
        self._request_log.gather()
        self._connections: dict[int, Connection] = {}
        self._idle: dict[Connection, None] = {}  # in the order of `since`
        self._dribbling: dict[Connection, None] = {}
        self._writing: dict[Connection, None] = {}
        self._ready: deque[Connection] = deque()
        self._resolved: deque[Connection] = deque()
        self._will_reply = False
        self._will_read = False
        self._handed: weakref.WeakSet[Any] = weakref.WeakSet()
        self._pool = Pool()
        self._second = 0
        self._heads: dict[bool, bytes] = {}
        self._next_sweep = 0.0
        self._accepting: list[Any] = []
        self._servers: list[StreamServer] = []
        self._may_accept = True
        self._is_ending = False
        self._told = gevent.event.Event()
        self._loop = gevent.get_hub().loop
        self._epoll = get_original("select", "epoll")()
        self._watcher = self._loop.io(self._epoll.fileno(), 1)
        self._ticker = self._loop.timer(TICK_SECONDS, TICK_SECONDS)
        self._exhausted = self._loop.timer(EXHAUSTED_SECONDS)
        self._renew_head(time.time())

    def _listen(self, listener: Any) -> None:
        if listener.family not in (socket.AF_INET, socket.AF_INET6):
            server = StreamServer(listener, handle=partial(self.handle, listener), spawn=self._pool)
            server.start()
            self._servers.append(server)
            return
        listener.setblocking(False)
        for level, option, value in (*KEEPALIVE, (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)):
            listener.setsockopt(level, option, value)  # its connections have them from the start
        watcher = self._loop.io(listener.fileno(), 1)
        watcher.start(self._guarded, self._accept, listener, watcher)
        self._accepting.append(watcher)
        self._closed_listener = _ListenerName(listener.getsockname())

    def _accept(self, listener: Any, watcher: Any) -> None:
        now = time.monotonic()
        accept, family = listener._sock._accept, listener.family  # a quarter of what `accept` costs
        for _ in range(ACCEPTS_A_TURN if self.cfg.workers == 1 else ACCEPTS_A_TURN_OF_MANY):
            if len(self._connections) + len(self._pool) >= self.worker_connections:
                self._pause_accepting()
                return
            try:
                fd, address = accept()
            except BlockingIOError:
                return
            except OSError:
                # For want of a descriptor, most likely; the watcher would call again at once, and for ever.
                self._pause_accepting()
                self._exhausted.start(self._guarded, self._resume_accepting)
                return
            sock = _socket.socket(family, socket.SOCK_STREAM, 0, fd)
            if not self._crowd.enter(address[0]):
                with suppress(OSError):
                    sock.send(REFUSAL, _FLAGS)
                sock.close()
                continue
            connection = Connection(self, sock, fd, address[0], now)
            self._connections[fd] = connection
            self._idle[connection] = None
            self._epoll.register(fd, _LIFELONG)

    def _pause_accepting(self) -> None:
        """The kernel's queue keeps newcomers meanwhile."""
        self._may_accept = False
        for each in self._accepting:
            each.stop()

    def _resume_accepting(self) -> None:
        if self._is_ending or self._may_accept:
            return
        self._may_accept = True
        for each, listener in zip(self._accepting, self._tcp_listeners(), strict=True):
            each.start(self._guarded, self._accept, listener, each)

    def _tcp_listeners(self) -> list[Any]:
        return [each for each in self.sockets if each.family in (socket.AF_INET, socket.AF_INET6)]

    # --- events --------------------------------------------------------------------------------------------

    def _guarded(self, call: Callable[..., object], *args: object) -> None:
        """An exception in a callback would be printed by the hub, and gone."""
        try:
            call(*args)
        except Exception:
            log.exception("a callback failed")

    def _events(self) -> None:
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
            self._loop.run_callback(self._guarded, self._events)

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
        if self._blocks:
            gevent.spawn_raw(self._guarded, self._endpoint.exchange.hang_up, transaction)
        else:
            self._endpoint.exchange.hang_up(transaction)

    def _readable(self, connection: Connection) -> None:
        if connection.is_busy or connection.socket is None:
            connection.unread = True  # what is behind a request stays in the kernel until it is answered
            return
        try:
            data = connection.socket.recv(READ_BYTES, _FLAGS)
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
            self._to_gunicorn(connection, data)
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
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        if self._blocks:
            gevent.spawn_raw(self._open, connection, data[begin:end])
        else:
            self._open(connection, data[begin:end])

    def _open(self, connection: Connection, body: bytes) -> None:
        endpoint, ordinary = self._endpoint, connection.ordinary
        assert ordinary is not None
        try:
            transaction = connection.transaction = endpoint.open(
                ordinary.head, connection.remote, ordinary.forwarded, ordinary.given_id
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
            self._loop.run_callback(self._guarded, self._reply_all)

    def _reply_all(self) -> None:
        self._will_reply = True
        resolved, reply = self._resolved, self._reply
        while resolved:
            connection = resolved.popleft()
            if self._blocks:
                gevent.spawn_raw(reply, connection)
            else:
                reply(connection)
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
        closes = ordinary.closes or self._is_ending or not self.alive
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
            sent = connection.socket.send(data, _FLAGS)
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
            sent = connection.socket.send(connection.unwritten, _FLAGS)
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
        finish = partial(self._endpoint.finish, transaction, response, written=written)
        if self._blocks:
            gevent.spawn_raw(self._guarded, finish)
        else:
            finish()
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
        if closes or self._is_ending or not self.alive or (connection.is_gone and not connection.buffer):
            self._drop(connection)
            return
        connection.since = time.monotonic()
        self._idle[connection] = None
        if connection.buffer or connection.unread:
            self._loop.run_callback(self._guarded, self._next_request, connection)

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
            self._crowd.leave(connection.remote)
            connection.socket.close()
            connection.socket = None  # type: ignore[assignment]
            if not self._may_accept:
                self._resume_accepting()

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
                connection.socket.send(_INTERNAL_ERROR, _FLAGS)
            self._drop(connection)

    # --- gunicorn's part -----------------------------------------------------------------------------------

    def _to_gunicorn(self, connection: Connection, data: bytes) -> None:
        """Hand a connection over, with the bytes that were read of it, for good."""
        self._forget(connection)
        self._epoll.unregister(connection.fd)
        client = _Replayed(connection.socket.family, socket.SOCK_STREAM, 0, connection.socket.detach())
        connection.socket = None  # type: ignore[assignment]
        client.replay = data
        try:
            address = client.getpeername()
        except OSError:  # it has left
            address = (connection.remote, 0)
        self._pool.spawn(self._handle, client, address, connection.remote)

    def _handle(self, client: Any, address: tuple[str, int], remote: str) -> None:
        try:
            self.handle(self._closed_listener, client, address)
        finally:
            self._crowd.leave(remote)
            if not self._may_accept:
                self._resume_accepting()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """gunicorn's own: one connection, in a greenlet."""
        if hasattr(self, "_handed"):
            self._handed.add(client)
        super().handle(listener, client, addr)

    # --- time ----------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        self._renew_head(time.time())
        self._timers.tick()
        self._reply_all()
        for connection in [each for each in self._writing if each.deadline <= now]:
            self._finish_writing(connection, written=False)
        for connection in [each for each in self._dribbling if each.deadline <= now]:
            self._to_gunicorn(connection, connection.buffer)
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_SECONDS
            self._drop_idle(now - (self.cfg.keepalive or 2))
        self._request_log.flush()
        if not self.alive:
            self._told.set()

    def _drop_idle(self, before: float) -> None:
        while self._idle:
            connection = next(iter(self._idle))
            if connection.since > before:
                break
            self._drop(connection)

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

    # --- the end -------------------------------------------------------------------------------------------

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: the master wants it."""
        self._was_told = True
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """SIGQUIT and SIGINT: the same, and no offer that is out has more time for its answer."""
        if not hasattr(self, "_told"):
            super().handle_quit(sig, frame)
            return
        self._was_told = self._is_hurried = True
        self.alive = False

    def _end(self) -> None:
        """Answer every request, and close every connection; see `Exchange.shutdown`."""
        self._pause_accepting()
        self._is_ending = True
        for each in (*self._servers, *self.sockets):
            each.close()
        if not self._was_told and self.cfg.workers == 1:
            # It ends by itself (--max-requests, --reload): the next one must not wait until it is gone.
            os.kill(self.ppid, signal.SIGHUP)
        started = time.monotonic()
        drain_seconds, last_seconds = (0, 0) if self._is_hurried else (DRAIN_SECONDS, LAST_REQUEST_SECONDS)
        gevent.spawn(self._guarded, partial(self._endpoint.exchange.shutdown, drain_seconds=drain_seconds))
        while time.monotonic() < started + self.cfg.graceful_timeout:
            if not self._connections and not len(self._pool):
                break
            if time.monotonic() > started + last_seconds:
                for connection in list(self._idle):
                    self._drop(connection)
                for each in list(self._handed):
                    stop_reading(each)
            self.notify()
            gevent.sleep(TICK_SECONDS)
        else:
            self.log.warning("Worker graceful timeout (pid:%s)", self.pid)
        self._request_log.flush()


@functools.lru_cache(256)
def _header_lines(headers: tuple[Header, ...]) -> bytes:
    """A few headers as they are written. There are not many kinds of them."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")


class _ListenerName:
    """What gunicorn asks of a listener that may be closed already."""

    def __init__(self, name: Any) -> None:
        self._name = name

    def getsockname(self) -> Any:
        return self._name


class _Replayed(gevent.socket.socket):  # type: ignore[misc]
    """A socket that gives back the bytes that were read of it already."""

    replay = b""

    def recv(self, size: int, *args: int) -> bytes:
        if self.replay:
            piece, self.replay = self.replay[:size], self.replay[size:]
            return piece
        return bytes(super().recv(size, *args))
