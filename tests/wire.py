"""A lean client: connections by gevent, so that one process has thousands of them on a part of a core."""

from __future__ import annotations

import json
from typing import Any

from gevent import socket

NO_PORT_YET = 24
"""IP_BIND_ADDRESS_NO_PORT: only at `connect` is a port taken, which servers at other ports may share."""


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join((line, "Host: t", *headers, "", "")).encode()


def opened(port: int, own: str, *, received: int = 0) -> Any:
    """A connection to the server from this address of ours.

    Args:
        received: bytes that may wait to be read; 0 for what is usual.
    """
    client = socket.socket()
    try:
        if received:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received)
        client.setsockopt(socket.IPPROTO_IP, NO_PORT_YET, 1)
        client.bind((own, 0))
        client.connect(("127.0.0.1", port))
    except BaseException:
        client.close()
        raise
    return client


class Wire:
    """A kept connection, for one request at a time; as a context manager, it is closed at the end.

    Args:
        own: the address that it comes from, of 127.0.0.0/8.
        received: see `opened`.

    Attributes:
        forwarded: the address that a proxy would have added.
    """

    def __init__(self, port: int, own: str = "127.0.0.1", *, forwarded: str = "", received: int = 0) -> None:
        self._port, self._own, self._most = port, own, received
        self.forwarded = forwarded
        self._socket: Any = None
        self._received = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, **parameters: object) -> tuple[int, dict[str, Any]]:
        """Returns status and reply.

        Raises:
            OSError: the connection could not be had, or ended before the reply was whole.
        """
        self.send(**parameters)
        return self.reply()

    def send(self, **parameters: object) -> None:
        body = json.dumps(parameters)
        added = f"X-Forwarded-For: {self.forwarded}\r\n" if self.forwarded else ""
        self.put(f"{HEAD}{added}Content-Length: {len(body)}\r\n\r\n{body}".encode())

    def put(self, raw: bytes) -> None:
        if self._socket is None:
            self._socket = opened(self._port, self._own, received=self._most)
        self._socket.sendall(raw)

    def reply(self) -> tuple[int, dict[str, Any]]:
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            self._read_on()
        start = self._received.index(b"Content-Length: ") + 16
        whole = end + 4 + int(self._received[start : self._received.index(b"\r", start)])
        while len(self._received) < whole:
            self._read_on()
        raw, self._received = self._received[:whole], self._received[whole:]
        return int(raw[9:12]), json.loads(raw[end + 4 :])

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket, self._received = None, b""

    def _read_on(self) -> None:
        piece = self._socket.recv(65536)
        if not piece:
            raise ConnectionError("closed without a whole reply")
        self._received += piece


HEAD = "POST / HTTP/1.1\r\nHost: t\r\nUser-Agent: wire\r\nContent-Type: application/json\r\n"
