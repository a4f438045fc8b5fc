"""As much of HTTP/2 (RFC 9113) as it takes to ask a server something and to leave before it has answered.

Browsers speak it to every proxy with TLS, and some proxies pass a hang-up on by one version and not by the
other. Header fields are sent as literals; those of a response are not read, since its JSON says enough.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0
HEADERS: Final = 1
RST_STREAM: Final = 3
SETTINGS: Final = 4
PING: Final = 6
GOAWAY: Final = 7

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8

CANCEL: Final = 0x8
"""What a browser says of a request that its page gave up."""


class Http2:
    """One connection with one request at a time.

    Args:
        connection: a TLS connection that agreed on `h2`.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self._stream = -1
        connection.sendall(PREFACE + _frame(SETTINGS, 0, 0, b""))

    def post(self, authority: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        """Send a request, and do not wait for its reply.

        Args:
            headers: with names in lower case.
            body: at most the 16 KiB of a frame.
        """
        self._stream += 2
        fields = {":method": "POST", ":scheme": "https", ":authority": authority, ":path": path, **headers}
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())
        asked = _frame(HEADERS, END_HEADERS, self._stream, block)
        self._connection.sendall(asked + _frame(DATA, END_STREAM, self._stream, body))

    def body(self, seconds: float) -> bytes:
        """The body of the reply.

        Args:
            seconds: how long each piece of it may take.

        Raises:
            OSError: it did not come in time, or the connection or the request was ended instead.
        """
        self._connection.settimeout(seconds)
        body = b""
        while True:
            kind, flags, stream, payload = self._next_frame()
            if kind == GOAWAY or (kind == RST_STREAM and stream == self._stream):
                raise ConnectionResetError("the request was cut off")
            if kind in (SETTINGS, PING) and not flags & ACK:
                self._connection.sendall(_frame(kind, ACK, 0, payload if kind == PING else b""))
            if stream == self._stream and kind == DATA:
                body += payload[1 : len(payload) - payload[0]] if flags & PADDED else payload
            if stream == self._stream and kind in (DATA, HEADERS) and flags & END_STREAM:
                return body

    def cancel(self) -> None:
        """Give the request up, and keep the connection."""
        self._connection.sendall(_frame(RST_STREAM, 0, self._stream, struct.pack(">I", CANCEL)))

    def _next_frame(self) -> tuple[int, int, int, bytes]:
        head = self._take(9)
        length, kind, flags, stream = int.from_bytes(head[:3], "big"), head[3], head[4], head[5:]
        return kind, flags, int.from_bytes(stream, "big") & 0x7FFFFFFF, self._take(length)

    def _take(self, length: int) -> bytes:
        while len(self._received) < length:
            piece = self._connection.recv(65536)
            if not piece:
                raise ConnectionResetError("the connection was closed")
            self._received += piece
        taken, self._received = self._received[:length], self._received[length:]
        return taken


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _text(text: str) -> bytes:
    """A string literal of HPACK (RFC 7541, 5.2), not compressed."""
    octets = text.encode("ascii")
    if len(octets) < 127:
        return bytes((len(octets),)) + octets
    length, rest = len(octets) - 127, b""
    while length >= 128:
        rest += bytes((length & 127 | 128,))
        length >>= 7
    return bytes((127,)) + rest + bytes((length,)) + octets
