"""Bounds on what gunicorn reads of a connection: how much, how long, and how much before others have a turn.

gunicorn reads as long as bytes are there, and gevent lets it: a client that sent faster than we read kept the
whole worker, until the master killed it, with a body that somebody wants or one that gunicorn only discards.
And a chunked body may have 8 KiB around each of its bytes. `install` puts `Intake` in the place of gunicorn's
own reader, for every worker class.
"""

from __future__ import annotations

import time
from typing import Any, Final

import gunicorn.http.parser
from gunicorn.http.parser import Parser
from gunicorn.http.unreader import SocketUnreader

PIECE_BYTES: Final = 2048
"""At once, if gunicorn does not say how much it wants: 0.5 ms of work, if each byte is a chunk."""

MOST_PIECE_BYTES: Final = 16 << 10
"""At once, if it says so. It discards that KiB by KiB, and copies the rest each time."""

TURN_BYTES: Final = 8 * PIECE_BYTES
"""Of one request; then others have a turn before each piece."""

TURN_SECONDS: Final = 0.001
"""Times the connections that wait for their turn, so all of them take a third of the time at most. With 0,
gevent would go on with the same greenlet before it looks for what has come for others."""

UNWANTED_BYTES: Final = 1 << 20
UNWANTED_SECONDS: Final = 5.0
"""Of a body that nobody reads. Then the connection ends, for nobody knows where its next request begins."""

REPLY_SECONDS: Final = 15.0
"""How long a reply of gunicorn's may take to go out."""

_finish_body: Any = Parser.finish_body
_next: Any = Parser.__next__


class Intake(SocketUnreader):  # type: ignore[misc]
    """Reads a connection for gunicorn's parser.

    Attributes:
        ran_out: of bytes or time; to the parser it looks as if the client had closed.
    """

    def __init__(self, sock: Any, max_chunk: int = PIECE_BYTES) -> None:
        super().__init__(sock, min(max_chunk, PIECE_BYTES))
        self.begin()

    def begin(self) -> None:
        """The next request: its head may be as long as gunicorn allows."""
        self.ran_out = False
        self._read_bytes = 0
        self._most_bytes: int | None = None
        self._until: float | None = None

    def allow(self, most_bytes: int | None, seconds: float) -> None:
        """Bound what is read from now on until the next request."""
        self._most_bytes = None if most_bytes is None else self._read_bytes + most_bytes
        self._until = time.monotonic() + seconds

    def chunk(self, size_hint: int | None = None) -> bytes:
        if self._read_bytes >= TURN_BYTES:
            _wait_for_a_turn()
        if self._most_bytes is not None and self._read_bytes >= self._most_bytes:
            self.ran_out = True
        if self._until is not None and time.monotonic() > self._until:
            self.ran_out = True
        if self.ran_out:
            return b""
        data: bytes = super().chunk(min(size_hint or 0, MOST_PIECE_BYTES))
        self._read_bytes += len(data)
        return data


def _wait_for_a_turn() -> None:
    global _waiting
    _waiting += 1
    try:
        time.sleep(TURN_SECONDS * _waiting)
    finally:
        _waiting -= 1


_waiting = 0


def install() -> None:
    """Let gunicorn's parsers read through `Intake`. Once more does nothing."""
    gunicorn.http.parser.SocketUnreader = Intake
    Parser.finish_body = _discard
    Parser.__next__ = Parser.next = _next_request


def _discard(parser: Any, deadline: float | None = None, max_bytes: int | None = None) -> bool:
    """`Parser.finish_body`: read what is left of a body. Returns False if that was too much of it."""
    intake = parser.unreader
    if not parser.mesg or not isinstance(intake, Intake):
        return bool(_finish_body(parser, deadline, max_bytes))
    intake.allow(UNWANTED_BYTES, UNWANTED_SECONDS)
    try:
        if deadline is None:
            deadline, max_bytes = time.monotonic() + UNWANTED_SECONDS, UNWANTED_BYTES
        return bool(_finish_body(parser, deadline, max_bytes))
    finally:
        intake.begin()


def _next_request(parser: Any) -> Any:
    """`Parser.__next__`. gunicorn bounds the wait for a request, and we the reads and writes after it."""
    sock = getattr(parser.unreader, "sock", None)
    if sock is None or not isinstance(parser.unreader, Intake):
        return _next(parser)
    sock.settimeout(None)
    request = _next(parser)
    sock.settimeout(REPLY_SECONDS)
    return request
