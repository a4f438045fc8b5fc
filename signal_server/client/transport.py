"""HTTP for the client, blocking and for asyncio: one request at a time over a connection that is kept.

A responder's second request then costs one round trip and no handshake. A server may close a kept connection
at any time, so a request on which it closes without a byte is sent once more on a new one, as browsers do.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import inspect
import io
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from .errors import Cancelled, SpaceriftError

CONNECT_SECONDS: Final = 10.0

MAX_REPLY: Final = 1 << 20
"""Bytes."""

HEADERS: Final = {
    "User-Agent": "spacerift-python",
    "Accept": "application/json",
    "Content-Type": "application/x-www-form-urlencoded",
}


class Transport(Protocol):
    """What an exchange waits for."""

    async def post(self, form: bytes, seconds: float) -> tuple[int, bytes]:
        """The status and body of the reply. Raises SpaceriftError of the type NETWORK or TLS."""

    async def pause(self, seconds: float) -> None: ...

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call one of the caller's own functions."""

    async def work(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call a function that takes its time, such as gpg."""


class Target:
    """Where a URL points to."""

    def __init__(self, url: str, tls: ssl.SSLContext | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("the URL must begin with http:// or https:// and name a host")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("the URL must be plain ASCII: write anything else as %-escapes and punycode")
        self.host = parts.hostname
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self.authority = parts.netloc.rpartition("@")[2]
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


class Cancel:
    """Ends a blocking `connect` from another thread, at once and for good."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._socket: socket.socket | None = None

    def cancel(self) -> None:
        self._event.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # The plain socket's, also under TLS: it wakes the thread that reads, and sends a FIN.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def guard(self, connected: socket.socket | None) -> None:
        """Let `cancel` end this one. Raises Cancelled if it was called already."""
        self._socket = connected
        self.check()

    def check(self) -> None:
        if self._event.is_set():
            raise Cancelled

    def wait(self, seconds: float) -> None:
        self._event.wait(seconds)
        self.check()


class Blocking:
    """By http.client. Its coroutines never suspend."""

    def __init__(
        self, url: str, *, tls: ssl.SSLContext | None, timeout: float | None, cancel: Cancel | None
    ) -> None:
        target = Target(url, tls)
        self._path = target.path
        self._connection = (
            http.client.HTTPSConnection(target.host, target.port, context=target.tls)
            if target.tls
            else http.client.HTTPConnection(target.host, target.port)
        )
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._cancel = cancel or Cancel()

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    async def post(self, form: bytes, seconds: float) -> tuple[int, bytes]:
        try:
            return self._post(form, seconds)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            self._cancel.check()
            self._within(seconds)
            raise _unreachable(error) from error

    async def pause(self, seconds: float) -> None:
        self._cancel.wait(self._within(seconds))

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    async def work(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    def _post(self, form: bytes, seconds: float) -> tuple[int, bytes]:
        kept = self._connection.sock is not None
        try:
            return self._ask(form, seconds)
        except ConnectionError:
            self._cancel.check()
            if not kept:
                raise
        self._connection.close()
        return self._ask(form, seconds)

    def _ask(self, form: bytes, seconds: float) -> tuple[int, bytes]:
        if self._connection.sock is None:
            self._cancel.check()
            self._connection.timeout = self._within(CONNECT_SECONDS)
            self._connection.connect()
        self._cancel.guard(self._connection.sock)
        self._connection.sock.settimeout(self._within(seconds))
        self._connection.request("POST", self._path, form, HEADERS)
        with self._connection.getresponse() as response:
            _refuse_longer(response.length or 0)
            body = response.read() if response.length else response.read(MAX_REPLY + 1)
            _refuse_longer(len(body))
            return response.status, body

    def _within(self, seconds: float) -> float:
        """So long, or as long as there is left."""
        if self._deadline is None:
            return seconds
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no peer in time")
        return min(seconds, left)


class Asyncio:
    """By asyncio's streams."""

    def __init__(self, url: str, *, tls: ssl.SSLContext | None) -> None:
        self._target = Target(url, tls)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def __enter__(self) -> Asyncio:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    async def post(self, form: bytes, seconds: float) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(seconds):
                return await self._post(form)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError, http.client.HTTPException) as error:
            self._close()
            raise _unreachable(error) from error

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        given = function(*arguments)
        return await given if inspect.isawaitable(given) else given

    async def work(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return await asyncio.to_thread(function, *arguments, **named)

    async def _post(self, form: bytes) -> tuple[int, bytes]:
        if self._streams is not None:
            try:
                return await self._ask(*self._streams, form)
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                if getattr(error, "partial", b""):
                    raise
            self._close()
        async with asyncio.timeout(CONNECT_SECONDS):
            self._streams = await asyncio.open_connection(
                self._target.host, self._target.port, ssl=self._target.tls, happy_eyeballs_delay=0.25
            )
        return await self._ask(*self._streams, form)

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, form: bytes
    ) -> tuple[int, bytes]:
        lines = [f"POST {self._target.path} HTTP/1.1", f"Host: {self._target.authority}"]
        lines += [f"{name}: {value}" for name, value in HEADERS.items()]
        lines += [f"Content-Length: {len(form)}", "", ""]
        writer.write("\r\n".join(lines).encode("ascii") + form)
        await writer.drain()
        head = io.BytesIO(await reader.readuntil(b"\r\n\r\n"))
        version, status = _status(head.readline())
        headers = http.client.parse_headers(head)
        body = await _body(reader, headers)
        if reader.at_eof() or version != b"HTTP/1.1" or "close" in headers.get("Connection", "").lower():
            self._close()
        return status, body

    def _close(self) -> None:
        """At once: a request that is held ends with it."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def _body(reader: asyncio.StreamReader, headers: http.client.HTTPMessage) -> bytes:
    length = headers.get("Content-Length")
    if "chunked" in headers.get("Transfer-Encoding", "").lower():
        pieces = _chunks(reader)
    elif length is None:
        pieces = _until_close(reader)
    else:
        _refuse_longer(int(length))
        return await reader.readexactly(int(length))
    body = b""
    async for piece in pieces:
        body += piece
        _refuse_longer(len(body))
    return body


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        _refuse_longer(size)
        yield (await reader.readexactly(size + 2))[:-2]
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # a trailer


async def _until_close(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while piece := await reader.read(65536):
        yield piece


def _status(line: bytes) -> tuple[bytes, int]:
    version, _, rest = line.partition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise http.client.BadStatusLine(repr(line[:80]))
    return version, int(rest[:3])


def _refuse_longer(length: int) -> None:
    if length > MAX_REPLY:
        raise http.client.HTTPException("the reply is too long")


def _unreachable(error: Exception) -> SpaceriftError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return SpaceriftError("TLS", f"the server's certificate does not hold: {error.verify_message}")
    return SpaceriftError("NETWORK", f"the server cannot be reached: {error or type(error).__name__}")
