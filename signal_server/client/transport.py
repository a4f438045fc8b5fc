"""HTTP for the client, blocking and for asyncio: one request at a time over a connection that is kept.

A responder's second request then costs one round trip and no handshake. A server may close a kept connection
at any time, so a request on which it closes without a byte is sent once more on a new one, as browsers do.

Closing the connection ends a request that is held. Many proxies do not pass that on, so what ends without a
reply is told to the server, too, on a connection of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import http.client
import inspect
import io
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, NamedTuple, Protocol

from .errors import Cancelled, SpaceriftError
from .target import Target

CONNECT_SECONDS: Final = 10.0

LEAVE_SECONDS: Final = 1.0
"""At most, for each step of telling the server that we leave: whoever leaves does not want to wait."""

MAX_REPLY: Final = 1 << 20
"""Bytes."""

HEADERS: Final = {
    "User-Agent": "spacerift-python",
    "Accept": "application/json",
    "Content-Type": "application/x-www-form-urlencoded",
}


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

UNREADABLE: Final = (OSError, EOFError, ValueError, asyncio.LimitOverrunError, http.client.HTTPException)
"""What asyncio's streams, and reading a reply from them, may raise."""


class Response(NamedTuple):
    """A reply of HTTP.

    Attributes:
        location: where a redirect points to, or "".
    """

    status: int
    body: bytes
    location: str


class Transport(Protocol):
    """What an exchange waits for."""

    async def post(self, form: bytes, seconds: float, *, leave: bytes | None = None) -> Response:
        """Post a form, and wait so long for the reply. A redirect is not followed.

        Args:
            leave: the form that withdraws the request. It is posted if the request was sent and no reply
                comes, whatever the reason.

        Raises:
            SpaceriftError: of the type NETWORK or TLS.
        """

    async def pause(self, seconds: float) -> None: ...

    async def call(
        self, function: Callable[..., Any], *arguments: Any, cut: float | None = None, **named: Any
    ) -> Any:
        """Call one of the caller's own functions.

        Args:
            cut: seconds. A coroutine that takes longer is cancelled, and TimeoutError raised.
        """

    async def work(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call a function that takes its time, such as gpg."""


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
        self._target = Target(url, tls)
        self._headers = {**HEADERS, **self._target.headers}
        self._connection = connection_to(self._target)
        self._sent = False
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._cancel = cancel or Cancel()

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    async def post(self, form: bytes, seconds: float, *, leave: bytes | None = None) -> Response:
        self._sent = False
        if leave is not None:
            atexit.register(self._leave, leave)  # for a daemon thread, which ends in the middle of it
        try:
            return self._post(form, seconds)
        except BaseException as error:
            self._connection.close()
            if leave is not None and self._sent:
                self._leave(leave)
            if not isinstance(error, OSError | http.client.HTTPException):
                raise
            self._cancel.check()
            self._within(seconds)
            raise unreachable(error, self._target) from error
        finally:
            atexit.unregister(self._leave)

    async def pause(self, seconds: float) -> None:
        self._cancel.wait(self._within(seconds))

    async def call(
        self, function: Callable[..., Any], *arguments: Any, cut: float | None = None, **named: Any
    ) -> Any:
        return function(*arguments, **named)

    async def work(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    def _post(self, form: bytes, seconds: float) -> Response:
        kept = self._connection.sock is not None
        try:
            return self._ask(form, seconds)
        except ConnectionError:
            self._cancel.check()
            if not kept:
                raise
        self._connection.close()
        return self._ask(form, seconds)

    def _ask(self, form: bytes, seconds: float) -> Response:
        if self._connection.sock is None:
            self._cancel.check()
            self._connection.timeout = self._within(CONNECT_SECONDS)
            self._connection.connect()
        self._cancel.guard(self._connection.sock)
        self._connection.sock.settimeout(self._within(seconds))
        self._sent = True
        self._connection.request("POST", self._target.request_target, form, self._headers)
        with self._connection.getresponse() as response:
            _refuse_longer(response.length or 0)
            body = response.read() if response.length else response.read(MAX_REPLY + 1)
            _refuse_longer(len(body))
            return Response(response.status, body, response.headers.get("Location", ""))

    def _leave(self, form: bytes) -> None:
        """On a connection of its own, which no `Cancel` and no `timeout` ends: they may be why we leave."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = connection_to(self._target, LEAVE_SECONDS)
            with contextlib.closing(connection):
                connection.request("POST", self._target.request_target, form, self._headers)
                connection.getresponse().read(MAX_REPLY)

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
        self._headers = {**HEADERS, **self._target.headers}
        self._streams: Streams | None = None
        self._sent = False

    def __enter__(self) -> Asyncio:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    async def post(self, form: bytes, seconds: float, *, leave: bytes | None = None) -> Response:
        self._sent = False
        try:
            async with asyncio.timeout(seconds):
                return await self._post(form)
        except GeneratorExit:  # nobody runs us any more
            self._close()
            raise
        except BaseException as error:
            self._close()
            if leave is not None and self._sent:
                await self._leave(leave)
            if not isinstance(error, UNREADABLE):
                raise
            raise unreachable(error, self._target) from error

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def call(
        self, function: Callable[..., Any], *arguments: Any, cut: float | None = None, **named: Any
    ) -> Any:
        given = function(*arguments, **named)
        if not inspect.isawaitable(given):
            return given
        async with asyncio.timeout(cut):
            return await given

    async def work(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return await asyncio.to_thread(function, *arguments, **named)

    async def _post(self, form: bytes) -> Response:
        if self._streams is not None:
            try:
                return await self._ask(self._streams, form)
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                if getattr(error, "partial", b""):
                    raise
            self._close()
        async with asyncio.timeout(CONNECT_SECONDS):
            self._streams = await self._connect()
        return await self._ask(self._streams, form)

    async def _connect(self) -> Streams:
        target, proxy = self._target, self._target.proxy
        if proxy is None:
            return await asyncio.open_connection(
                target.host, target.port, ssl=target.tls, happy_eyeballs_delay=0.25
            )
        streams = await asyncio.open_connection(proxy.host, proxy.port, happy_eyeballs_delay=0.25)
        if target.tls is None:
            return streams
        try:
            reader, writer = streams
            host = f"[{target.host}]" if ":" in target.host else target.host
            writer.write(
                _head(f"CONNECT {host}:{target.port}", {"Host": f"{host}:{target.port}", **proxy.headers})
            )
            _, status, _ = await _read_head(reader)
            if status != 200:
                raise OSError(f"it replies {status}")
            await writer.start_tls(target.tls, server_hostname=target.host)
        except BaseException:
            streams[1].transport.abort()
            raise
        return streams

    async def _ask(self, streams: Streams, form: bytes) -> Response:
        reader, writer = streams
        self._sent = True
        about = {"Host": self._target.authority, **self._headers, "Content-Length": str(len(form))}
        writer.write(_head(f"POST {self._target.request_target}", about) + form)
        await writer.drain()
        version, status, headers = await _read_head(reader)
        body = await _body(reader, headers)
        if reader.at_eof() or version != b"HTTP/1.1" or "close" in headers.get("Connection", "").lower():
            self._close()
        return Response(status, body, headers.get("Location", ""))

    async def _leave(self, form: bytes) -> None:
        """On a connection of its own. The task may have been cancelled, and waits this once."""
        with contextlib.suppress(*UNREADABLE):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._post(form)
        self._close()

    def _close(self) -> None:
        """At once: a request that is held ends with it."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


def connection_to(target: Target, seconds: float | None = None) -> http.client.HTTPConnection:
    """Not connected yet."""
    at = target.proxy or target
    if target.tls is None:
        return http.client.HTTPConnection(at.host, at.port, timeout=seconds)
    connection = http.client.HTTPSConnection(at.host, at.port, timeout=seconds, context=target.tls)
    if target.proxy is not None:
        connection.set_tunnel(target.host, target.port, target.proxy.headers)
    return connection


def _head(request: str, headers: dict[str, str]) -> bytes:
    lines = [f"{request} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("ascii")


async def _read_head(reader: asyncio.StreamReader) -> tuple[bytes, int, http.client.HTTPMessage]:
    head = io.BytesIO(await reader.readuntil(b"\r\n\r\n"))
    version, status = _status(head.readline())
    return version, status, http.client.parse_headers(head)


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


def unreachable(error: BaseException, target: Target) -> SpaceriftError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return SpaceriftError("TLS", f"the server's certificate does not hold: {error.verify_message}")
    way = f" through the proxy {target.proxy.host}:{target.proxy.port}" if target.proxy else ""
    return SpaceriftError("NETWORK", f"the server cannot be reached{way}: {error or type(error).__name__}")
