"""The client's connection, as a WSGI server lends it to us: read it, ask whether it is open, hear it close.

gunicorn's gevent and gthread workers and Werkzeug's development server put the socket into the environ.
Where there is none, the connection counts as open. If a real server lends none, that is not known.
"""

from __future__ import annotations

import _socket
import os
import select
import socket
import threading
import time
import weakref
import zlib
from collections.abc import Callable
from typing import Any, Final

from gevent.monkey import get_original, is_module_patched

from ..errors import BadRequest, RequestTimeout, TooLarge
from ..matching.timers import Timers
from .hosting import SOCKETS, is_real

Environ = dict[str, Any]

BODY_SECONDS: Final = 5.0
"""How long a body may take to come in."""

WIRE: Final = 4
"""A chunked body may be so many times as long on the wire as it may be at all."""

WRITE_SECONDS: Final = 3.0
"""How long an answer may take to go out; see PROTOCOL: what is not known to be written by then is gone."""

DRAIN_BYTES: Final = 1 << 20
"""So much of a refused body is read away, that the client may see why before it is cut off."""

READ_BYTES: Final = 64 << 10
CHUNKED_READ_BYTES: Final = 1 << 10

# A client that vanishes without a word is noticed after 5 + 3 * 2 seconds.
KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (
            ("TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE", 5),  # macOS' name for it
            ("TCP_KEEPINTVL", 2),
            ("TCP_KEEPCNT", 3),
        )
        if hasattr(socket, name)
    ),
)

# gevent replaces `poll` and hides `epoll`; ours never block, so they need no replacing.
_poll: Any = get_original("select", "poll")
try:
    _epoll: Any = get_original("select", "epoll")
except AttributeError:  # macOS, BSD
    _epoll = None

_no_longer_read: weakref.WeakSet[Any] = weakref.WeakSet()
"""Sockets that `stop_reading` has shut, on which another request may be yet."""

_GONE: Final = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR

PEEK_SECONDS: Final = 0.1
"""The pause between two looks for clients that have left, on systems without epoll."""


class HangupWatch:
    """Calls back once when a watched client closes its side.

    One edge-triggered epoll for the process, which wakes for a hang-up and for nothing else: not for bytes
    that a client pipelines behind its request, so it sees the close behind them too, and also under TLS.
    On a system without epoll it looks at each connection ten times a second, which will do to try things out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started = False
        self._epoll: Any = None
        self._calls: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        """A client that has left already is noticed too."""
        if not self._started:
            self._start()
        self._calls[fd] = call
        if self._epoll is not None:
            self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLET)

    def unwatch(self, fd: int) -> None:
        if self._calls.pop(fd, None) is not None and self._epoll is not None:
            self._epoll.unregister(fd)

    def look(self) -> None:
        """Call back now for those that have left by now."""
        if self._calls:
            self._notice(0)

    def _start(self) -> None:
        # At the first use and not before, for an epoll must not be shared across a fork.
        with self._lock:
            if not self._started:
                self._epoll = None if _epoll is None else _epoll()
                self._started = True
                threading.Thread(target=self._run, name="spacerift-hangups", daemon=True).start()

    def _run(self) -> None:
        cooperative = is_module_patched("select")
        while True:
            if self._epoll is None:
                time.sleep(PEEK_SECONDS)
            elif cooperative:
                select.select([self._epoll], [], [])
            self._notice(0 if cooperative else None)

    def _notice(self, timeout: float | None) -> None:
        for fd in self._gone(timeout):
            call = self._calls.get(fd)
            if call is not None:
                call()

    def _gone(self, timeout: float | None) -> list[int]:
        if self._epoll is not None:
            return [fd for fd, _ in self._epoll.poll(timeout)]
        return [fd for fd in list(self._calls) if has_left(fd)]


class Connection:
    """The connection of one request, until its response is written."""

    __slots__ = ("_environ", "_hangups", "_pending", "_socket", "_timers")

    def __init__(self, environ: Environ, timers: Timers, hangups: HangupWatch) -> None:
        self._environ = environ
        self._timers = timers
        self._hangups = hangups
        self._socket: Any = next((environ[name] for name in SOCKETS if name in environ), None)
        self._pending = bool(environ.get("CONTENT_LENGTH") or environ.get("HTTP_TRANSFER_ENCODING"))

    # --- the request's body --------------------------------------------------------------------------------

    def body(self, limit: int | None) -> bytes:
        """The request's body, as it came.

        Args:
            limit: bytes; None for any number.

        Raises:
            RequestTimeout, TooLarge, BadRequest
        """
        if not self._pending:
            return b""
        length = int(self._environ.get("CONTENT_LENGTH") or -1)
        if limit is not None and length > limit:
            raise TooLarge(f"a body has at most {limit} bytes")
        timer = self._timers.after(BODY_SECONDS, self.stop_reading)
        intake = self._intake()
        if intake is not None:
            intake.allow(None if limit is None else WIRE * limit, BODY_SECONDS)
        try:
            body = self._read(length, limit)
        except Exception as exc:
            self._pending = False
            if timer.fired:
                raise RequestTimeout("the body took too long") from None
            if intake is not None and intake.ran_out:
                raise TooLarge("a body is cut into too many pieces") from None
            raise BadRequest("the body is cut short or badly framed") from exc
        finally:
            timer.cancel()
        if limit is not None and len(body) > limit:
            raise TooLarge(f"a body has at most {limit} bytes")
        self._pending = False
        if timer.fired:
            raise RequestTimeout("the body took too long")
        if len(body) < length:
            raise BadRequest("the body is cut short")
        return body

    @property
    def has_unread_body(self) -> bool:
        return self._pending

    def drain(self) -> None:
        """After a refusal: read away what the client still sends, within bounds.

        Else it may never see the refusal: closing a socket with unread bytes resets the connection.
        """
        if not self._pending:
            return
        self._pending = False
        if self._socket is not None and int(self._environ.get("CONTENT_LENGTH") or 0) > DRAIN_BYTES:
            # A proxy must see with the refusal that this connection ends, or has another's request on it.
            _shutdown(self._socket, socket.SHUT_WR)
        timer = self._timers.after(BODY_SECONDS, self.stop_reading)
        intake = self._intake()
        if intake is not None:
            intake.allow(DRAIN_BYTES, BODY_SECONDS)
        try:
            ended = len(self._read(-1, DRAIN_BYTES)) <= DRAIN_BYTES
        except Exception:  # noqa: BLE001  it is refused already; see body
            ended = False
        finally:
            timer.cancel()
        if not ended or timer.fired:
            self.stop_reading()

    def _intake(self) -> Any:
        """The `Intake` that gunicorn reads a chunked body through; None under any other server."""
        request = getattr(getattr(self._environ["wsgi.input"], "reader", None), "req", None)
        reader = getattr(request, "unreader", None)
        return reader if hasattr(reader, "allow") else None

    def _read(self, length: int, limit: int | None) -> bytes:
        """Read up to `length` bytes, or to the end; one more than `limit` at the most.

        In pieces, and others have their turn after each: a client that sends faster than we read would keep
        a thread of gevent's from ever waiting. A chunk may be one byte, and each takes as long as a packet.
        """
        most = length if length >= 0 else float("inf") if limit is None else limit + 1
        at_once = READ_BYTES if length >= 0 else CHUNKED_READ_BYTES
        body = bytearray()
        while len(body) < most:
            piece = self._environ["wsgi.input"].read(int(min(most - len(body), at_once)))
            if not piece:
                break
            body += piece
            if len(body) < most:
                time.sleep(0)
        return bytes(body)

    # --- the socket ----------------------------------------------------------------------------------------

    @property
    def is_known(self) -> bool:
        """Can it be told whether the connection is open? A test client's always is."""
        return self._socket is not None or not is_real(self._environ)

    @property
    def is_ending(self) -> bool:
        """Was it we who shut it? Then it looks as if the client had left, whoever has sent this request.

        A proxy sends another client's request on a connection that it was not told to give up.
        """
        return self._socket is not None and self._socket in _no_longer_read

    def is_open(self) -> bool:
        """Is the client still there? A client that closed only its sending half has left."""
        if self._socket is None:
            return True
        try:
            poll = _poll()
            poll.register(self._socket.fileno(), _GONE)
            return not poll.poll(0) and (hasattr(select, "POLLRDHUP") or not has_left(self._socket.fileno()))
        except (OSError, ValueError):
            return False

    def watch(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call back once if the client hangs up. Returns what ends the watch."""
        if self._socket is None:
            return _nothing
        fd: int = self._socket.fileno()
        if fd < 0:
            call()
            return _nothing
        self._keep_alive()
        self._hangups.watch(fd, call)
        return lambda: self._hangups.unwatch(fd)

    def hear_others(self) -> None:
        """Notice every client that has hung up by now, and not only when its turn comes."""
        self._hangups.look()

    def stop_reading(self) -> None:
        """Nothing more is read from the client: a read under way ends, and so does the keep-alive.

        gunicorn ignores an application's `Connection: close`; this is what it does heed.
        """
        if self._socket is not None:
            stop_reading(self._socket)

    def cut(self) -> None:
        """End the connection, with a write that is under way."""
        if self._socket is not None:
            _shutdown(self._socket, socket.SHUT_RDWR)

    def _keep_alive(self) -> None:
        if self._socket.family in (socket.AF_INET, socket.AF_INET6):
            for level, option, value in KEEPALIVE:
                self._socket.setsockopt(level, option, value)


def stop_reading(connection: Any) -> None:
    """Read nothing more from this socket: an idle connection is closed, a request under way is answered."""
    _no_longer_read.add(connection)
    _shutdown(connection, socket.SHUT_RD)


def has_left(fd: int) -> bool:
    """Has the other side closed? Where bytes stand before the close, that is not seen."""
    try:
        copy = _socket.socket(fileno=os.dup(fd))  # gevent's would wait
        try:
            return not copy.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        finally:
            copy.close()
    except BlockingIOError:
        return False
    except OSError:
        return True


def _shutdown(connection: Any, how: int) -> None:
    try:
        # On a copy of the descriptor: the method of an SSL socket would drop its encryption and write on.
        with socket.socket(fileno=os.dup(connection.fileno())) as copy:
            copy.shutdown(how)
    except (OSError, ValueError):
        pass  # it is closed already


def gunzip(body: bytes, limit: int | None) -> bytes:
    """A gzip body, decompressed.

    Raises:
        BadRequest: it is none.
        TooLarge: it is longer than `limit`.
    """
    text = b""
    while True:  # it may have several members
        inflate = zlib.decompressobj(wbits=31)
        try:
            text += inflate.decompress(body, 0 if limit is None else limit + 1 - len(text))
        except zlib.error:
            raise BadRequest("the body is not gzip") from None
        if limit is not None and len(text) > limit:
            raise TooLarge(f"a body has at most {limit} bytes")
        if not inflate.eof:
            raise BadRequest("the gzip body is cut short")
        body = inflate.unused_data
        if not body:
            return text


def _nothing() -> None:
    pass
