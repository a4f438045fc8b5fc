"""A router such as a platform has: it names the client, keeps its connections to us, and cuts at a time."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
import time
from types import TracebackType

CUT = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nX-Router: H12\r\n\r\n"


class Router:
    """Listens on a port of its own and hands each request to one of the backends in turn.

    Args:
        backends: ports.
        cut_seconds: after which a request that has no response gets the router's own 503.

    Attributes:
        cuts: requests that were cut.
    """

    def __init__(self, *backends: int, cut_seconds: float = 30) -> None:
        self.cuts = 0
        self._backends = itertools.cycle(backends)
        self._cut_seconds = cut_seconds
        self._kept: dict[int, list[socket.socket]] = {port: [] for port in backends}
        self._numbers = itertools.count(1)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()

    def __enter__(self) -> Router:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        for each in itertools.chain(*self._kept.values()):
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, (address, _) = self._listener.accept()
                threading.Thread(target=self._serve, args=(client, address), daemon=True).start()

    def _serve(self, client: socket.socket, address: str) -> None:
        with client, contextlib.suppress(OSError):
            while asked := _message(client):
                port = next(self._backends)
                reply = self._forward(port, _named(asked, address, next(self._numbers)), client)
                if reply is None:
                    return
                client.sendall(reply)

    def _forward(self, port: int, asked: bytes, client: socket.socket) -> bytes | None:
        """The response, or None if the client left: then the connection to the backend is closed."""
        backend = self._connection(port)
        backend.sendall(asked)
        ends = time.monotonic() + self._cut_seconds
        readable = select.select([backend, client], [], [], ends - time.monotonic())[0]
        if backend in readable:
            reply = _message(backend)
            if reply and b"connection: close" not in reply.partition(b"\r\n\r\n")[0].lower():
                with self._lock:
                    self._kept[port].append(backend)
            else:
                backend.close()
            return reply
        backend.close()
        if readable:
            return None
        self.cuts += 1
        return CUT

    def _connection(self, port: int) -> socket.socket:
        with self._lock:
            while self._kept[port]:
                kept = self._kept[port].pop()
                if not select.select([kept], [], [], 0)[0]:  # else the backend has closed it
                    return kept
        return socket.create_connection(("127.0.0.1", port))


def _named(asked: bytes, address: str, number: int) -> bytes:
    """Say who asks: after what the client itself claims, as routers do."""
    line, _, rest = asked.partition(b"\r\n")
    head, blank, body = rest.partition(b"\r\n\r\n")
    kept, claimed = [], []
    for header in head.split(b"\r\n"):
        name, _, value = header.partition(b":")
        if name.lower() == b"x-forwarded-for":
            claimed.append(value.strip())
        elif name.lower() not in (b"x-request-id", b"x-forwarded-proto"):
            kept.append(header)
    kept.append(b"X-Forwarded-For: " + b", ".join([*claimed, address.encode()]))
    kept += [b"X-Forwarded-Proto: https", b"X-Request-Id: router-%d" % number]
    return line + b"\r\n" + b"\r\n".join(kept) + blank + body


def _message(connection: socket.socket) -> bytes | None:
    """A whole request or response with a Content-Length; None if the other side left before."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return None
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = 0
    for header in head.split(b"\r\n")[1:]:
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        piece = connection.recv(65536)
        if not piece:
            return None
        body += piece
    return head + b"\r\n\r\n" + body
