"""Is this an ordinary POST to our path? Only those are served by the worker's callbacks.

The grammar is a small part of HTTP, of which nobody can think differently: the headers of a browser or of a
library, each once, with one Content-Length. All that is outside of it goes, with its bytes, to gunicorn,
whose parser stays the only judge of what is bad HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final, NamedTuple

from .head import NAMES, Head, Heads

MOST_HEAD_BYTES: Final = 8192

MOST_BODY_BYTES: Final = 64 << 10
"""A longer body is gunicorn's to gather, piece by piece."""

MOST_KEPT: Final = 1024

_NAME = rb"[!#$%&'*+.^`|~0-9A-Za-z-]+"  # a token of RFC 9110, 5.6.2, but for the underscore
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*"

_BEGUN: Final = re.compile(
    rb"(?:" + _NAME + rb":" + _VALUE + rb"\r\n)*(?:" + _NAME + rb"(?::" + _VALUE + rb")?)?\r?"
)
"""The lines of a head, the last of which may be cut anywhere."""

_UNUSUAL: Final = frozenset(
    (
        b"transfer-encoding",
        b"te",
        b"trailer",
        b"expect",
        b"upgrade",
        b"http2-settings",
        b"keep-alive",
        b"proxy-connection",
    )
)
"""With any of these, gunicorn does more than we do."""

_LENGTHS: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")

_LINES: Final = {name.lower().encode(): name for name in NAMES}


class Missing(Enum):
    """What of a request is not there yet."""

    HEAD = 1
    BODY = 2


class OrdinaryHead(NamedTuple):
    """The head of an ordinary request.

    Attributes:
        head: what the protocol needs of it.
        cors: its CORS headers as they are written.
        closes: the client wants the connection to be closed after the reply.
        forwarded, given_id: `X-Forwarded-For` and `X-Request-Id`.
    """

    head: Head
    cors: bytes
    closes: bool
    forwarded: str
    given_id: str


class Ordinary:
    """Recognizes ordinary requests.

    Args:
        paths: of the endpoint.
        heads: reads what the protocol needs.
        max_body: bytes; None for any number.
        config: gunicorn's, whose bounds hold here too.
    """

    def __init__(self, paths: Iterable[str], heads: Heads, *, max_body: int | None, config: Any) -> None:
        self._first_lines = [b"POST %b HTTP/1.1" % each.encode("ascii") for each in paths]
        most_fields = config.limit_request_fields if config.limit_request_fields > 0 else 64
        fields = rb"((?:" + _NAME + rb":" + _VALUE + rb"\r\n){1,%d})\r\n" % most_fields
        self._grammar = re.compile(
            rb"(?:" + b"|".join(map(re.escape, self._first_lines)) + rb")\r\n" + fields
        )
        self._heads = heads
        self._max_body = MOST_BODY_BYTES if max_body is None else min(max_body, MOST_BODY_BYTES)
        bound = config.limit_request_field_size
        self._most_head_bytes = min(MOST_HEAD_BYTES, bound) if bound > 0 else MOST_HEAD_BYTES
        self._scheme_headers = {name.lower().encode() for name in config.secure_scheme_headers}
        self._kept: dict[bytes, tuple[bytes, OrdinaryHead]] = {}
        self._seen_once: set[int] = set()

    def find(self, data: bytes) -> tuple[OrdinaryHead, int, int] | Missing | None:
        """Find the request that these bytes begin with.

        Returns:
            Its head, where its body begins, and where it ends; or what of it is not there yet; or None: it is
            not ordinary.
        """
        end = data.find(b"\r\n\r\n", 0, self._most_head_bytes)
        if end < 0:
            return Missing.HEAD if self._may_become(data) else None
        end += 4
        at = data.find(_LENGTHS[0], 0, end)
        if at < 0:
            at = data.find(_LENGTHS[1], 0, end)
            if at < 0:
                return None
        at += len(_LENGTHS[0])
        past = data.find(b"\r", at, at + 10)
        digits = data[at:past]
        if past < 0 or not digits.isdigit():
            return None
        length = int(digits)
        if length > self._max_body:
            return None
        # All but the length, which differs from request to request.
        before, behind = data[:at], data[past:end]
        kept = self._kept.get(before)
        if kept is not None and kept[0] == behind:
            found = kept[1]
        else:
            read = self._read(data, end)
            if read is None:
                return None
            self._keep(before, behind, read)
            found = read
        if len(data) < end + length:
            return Missing.BODY
        return found, end, end + length

    def _may_become(self, data: bytes) -> bool:
        """Could these bytes be the beginning of an ordinary head? Else gunicorn may refuse them at once."""
        if len(data) >= self._most_head_bytes:
            return False
        first, found, rest = data.partition(b"\r\n")
        if not found:
            return any(line.startswith(data.removesuffix(b"\r")) for line in self._first_lines)
        return first in self._first_lines and _BEGUN.fullmatch(rest) is not None

    def _keep(self, before: bytes, behind: bytes, found: OrdinaryHead) -> None:
        # Not before it comes a second time: heads with an id of a proxy's never do, and would fill it.
        name = hash((before, behind))
        if name in self._seen_once:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            self._kept[before] = behind, found
            return
        if len(self._seen_once) >= 4 * MOST_KEPT:
            self._seen_once.clear()
        self._seen_once.add(name)

    def _read(self, data: bytes, end: int) -> OrdinaryHead | None:
        match = self._grammar.match(data, 0, end)
        if match is None or match.end() != end:
            return None
        lines = match[1].split(b"\r\n")
        del lines[-1]
        fields: dict[bytes, bytes] = {}
        for line in lines:
            name, _, value = line.partition(b":")
            fields[name.lower()] = value.strip(b" \t")
        if len(fields) != len(lines) or not _UNUSUAL.isdisjoint(fields) or b"host" not in fields:
            return None
        if len(self._scheme_headers.intersection(fields)) > 1:
            return None  # they might contradict each other
        wants = fields.get(b"connection", b"keep-alive").lower()
        if wants not in (b"keep-alive", b"close"):
            return None
        get = fields.get
        head = self._heads.read(tuple(get(name, b"").decode("latin-1") for name in _LINES))
        return OrdinaryHead(
            head,
            b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in head.cors),
            wants == b"close",
            get(b"x-forwarded-for", b"").decode("latin-1"),
            get(b"x-request-id", b"").decode("latin-1"),
        )
