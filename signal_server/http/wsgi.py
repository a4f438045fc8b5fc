"""The endpoint as WSGI: the driver whose thread, or greenlet, sleeps while a request waits.

It runs in other people's applications, on gunicorn's gevent and gthread workers, under `flask run`, and for
all that our own worker hands over to gunicorn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..errors import HungUp, SignalError, Unavailable, bare
from ..matching.timers import Timers
from ..messages import ANSWER
from .connection import WRITE_SECONDS, Connection, Environ, HangupWatch
from .endpoint import HEADERS, Endpoint, Response, Transaction, refused
from .head import NAMES, Header
from .hosting import Hosting

Served = tuple[str, list[Header], Iterable[bytes]]
"""A response: status line, headers, body."""

_KEYS = tuple(
    name.upper().replace("-", "_") if name == "Content-Type" else "HTTP_" + name.upper().replace("-", "_")
    for name in NAMES
)


class WsgiDriver:
    """Serves `POST /` from a WSGI environ."""

    def __init__(self, endpoint: Endpoint, timers: Timers, hosting: Hosting, *, max_body: int | None) -> None:
        self._hosting = hosting
        self._endpoint = endpoint
        self._timers = timers
        self._hangups = HangupWatch()
        self._max_body = max_body

    def serve(self, environ: Environ) -> Served:
        """One request of the protocol."""
        self._hosting.look(environ)
        endpoint, get = self._endpoint, environ.get
        head = endpoint.heads.read(tuple(get(key, "") for key in _KEYS))
        transaction = endpoint.open(
            head,
            get("REMOTE_ADDR", ""),
            get("HTTP_X_FORWARDED_FOR", ""),
            get("HTTP_X_REQUEST_ID", ""),
        )
        connection = Connection(environ, self._timers, self._hangups)
        if connection.is_ending and transaction.result is None:
            transaction.result = Unavailable("the connection ends")
        if transaction.result is None:
            self._start(transaction, connection)
        self._wait(transaction, connection)
        try:
            response = endpoint.take(transaction, is_open=connection.is_open)
        except HungUp:
            response = refused(Unavailable("nobody is there"))
        if endpoint.exchange.is_shut:
            connection.stop_reading()  # it looks as a hang-up does, so not before we asked
        return self._served(transaction, response, connection)

    def _start(self, transaction: Transaction, connection: Connection) -> None:
        try:
            body = connection.body(self._max_body)
        except SignalError as refusal:
            # At the end it is we who cut the body short.
            transaction.result = self._endpoint.exchange.refusal_at_the_end() or bare(refusal)
            return
        self._hangups.look()  # who left before this request came in is not matched with it
        self._endpoint.start(transaction, body)

    def _wait(self, transaction: Transaction, connection: Connection) -> None:
        if transaction.result is not None:
            return
        unwatch = connection.watch(
            # The notice may be for an older connection with the same descriptor.
            lambda: None if connection.is_open() else self._endpoint.exchange.hang_up(transaction)
        )
        try:
            transaction.wait()
        finally:
            unwatch()

    def _served(self, transaction: Transaction, response: Response, connection: Connection) -> Served:
        headers = [
            *HEADERS,
            ("X-Request-Id", transaction.id),
            *transaction.head.cors,
            *response.headers,
            ("Content-Length", str(len(response.payload))),
        ]
        if response.reply is None:
            if connection.has_unread_body:
                return response.status, headers, Watched(response.payload, lambda _: connection.drain())
            return response.status, headers, [response.payload]
        timer = self._timers.after(WRITE_SECONDS, connection.cut)

        # An answer counts as delivered only if its connection is known to have been open.
        is_sure = connection.is_known or response.reply.type != ANSWER

        def finish(written: bool) -> None:
            timer.cancel()
            self._endpoint.finish(transaction, response, written=written and is_sure and not timer.fired)

        return response.status, headers, Watched(response.payload, finish)


class Watched:
    """A body of one piece that tells whether it was written.

    A WSGI server asks for the next piece once it has written the last one, and closes the body in any case.
    A response that the application dropped, by an error of its own, was not written either.
    """

    __slots__ = ("_finish", "_pieces")

    def __init__(self, payload: bytes, finish: Callable[[bool], None]) -> None:
        self._pieces = [payload]
        self._finish: Callable[[bool], None] | None = finish

    def __iter__(self) -> Watched:
        return self

    def __next__(self) -> bytes:
        if self._pieces:
            return self._pieces.pop()
        self._end(written=True)
        raise StopIteration

    def close(self) -> None:
        self._end(written=False)

    __del__ = close

    def _end(self, *, written: bool) -> None:
        finish, self._finish = self._finish, None
        if finish is not None:
            finish(written)
