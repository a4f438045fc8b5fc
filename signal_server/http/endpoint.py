"""`POST /` in the terms of WSGI: a request in, a response out. What to answer is decided elsewhere."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterable
from typing import Final

from .. import messages
from ..errors import BadRequest, Full, HungUp, RateLimited, SignalError, Unavailable, Untrusted
from ..matching.identity import Caller, Identity, is_address
from ..matching.limits import Limits
from ..matching.matcher import Matcher
from ..matching.timers import Timers
from ..messages import NO_PEER, Reply, Request
from ..openpgp.signatures import Signatures
from ..settings import Settings
from ..telemetry.request_log import Entry, RequestLog
from .connection import WRITE_SECONDS, Connection, Environ, HangupWatch

WORTH_COMPRESSING: Final = 1024
"""Bytes. What fits into one packet anyway arrives no sooner for being smaller."""

EXPOSED: Final = ("Access-Control-Expose-Headers", "Retry-After")

HEADERS: Final = [
    ("Content-Type", "application/json"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
]

Header = tuple[str, str]
Served = tuple[str, list[Header], Iterable[bytes]]
"""A response: status line, headers, body."""

Finish = Callable[[bool], None]


class Endpoint:
    """Takes a request from its bytes to its response."""

    def __init__(
        self,
        *,
        settings: Settings,
        identity: Identity,
        limits: Limits,
        matcher: Matcher,
        timers: Timers,
        hangups: HangupWatch,
        request_log: RequestLog,
        signatures: Signatures | None,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._limits = limits
        self._matcher = matcher
        self._timers = timers
        self._hangups = hangups
        self._request_log = request_log
        self._signatures = signatures

    def serve(self, environ: Environ) -> Served:
        """`POST /`: one request of the protocol."""
        entry = self._request_log.open(environ.get("HTTP_X_REQUEST_ID"))
        headers = [*HEADERS, ("X-Request-Id", entry.id), *self.cors(environ)]
        connection = Connection(environ, self._timers, self._hangups)
        refusal: SignalError
        try:
            address = self.address(environ)
            self._limits.count_address(address)
            self.check_origin(environ)
            asked = entry.asked = self._parse(environ, connection)
            if self._signatures is not None:
                asked = entry.asked = self._signatures.admit(asked)
            caller = self._caller(asked, address, environ)
            waited = time.monotonic() - entry.received
            try:
                reply = self._matcher.exchange(asked, caller, connection, waited=waited)
            except (Full, RateLimited):
                if self._signatures is not None:
                    self._signatures.refused(asked)
                raise
            signed = self._sign(asked, reply)
            reply = self._matcher.begin(reply, caller, connection)
        except SignalError as error:
            refusal = error
            entry.refused(error)
        except HungUp:
            refusal = Unavailable("nobody is there")
            entry.hung_up()
        else:
            status, fields = messages.render(reply, asked.pool, signed)
            payload = _compressed(encode(fields), headers, environ)
            if reply.type in (messages.DELIVERED, NO_PEER):
                entry.replied(str(fields["TYPE"]), status)
                return status, headers, [payload]
            return status, headers, self._watched(payload, reply, status, connection, entry)
        payload = refused(refusal, headers)
        return refusal.status, headers, Watched(payload, lambda _: connection.drain())

    def _watched(
        self, payload: bytes, reply: Reply, status: str, connection: Connection, entry: Entry
    ) -> Watched:
        """The body of a reply that was begun, and that is finished when it is written, or is not."""
        timer = self._timers.after(WRITE_SECONDS, connection.cut)

        def finish(written: bool) -> None:
            timer.cancel()
            written = written and not timer.rang
            self._matcher.finish(reply, written=written)
            entry.replied(reply.type, status, written=written)

        return Watched(payload, finish)

    def _parse(self, environ: Environ, connection: Connection) -> Request:
        try:
            body = connection.body(self._settings.max_body)
        except BadRequest:
            self._matcher.check_open()  # else it is we who cut the body short
            raise
        parameters = messages.decode(environ.get("CONTENT_TYPE", ""), body)
        return messages.parse(parameters, signatures=self._settings.signatures)

    def _sign(self, asked: Request, reply: Reply) -> str | None:
        """The SIGNED_REPLY, where there is one. A reply that should have one and has none is not sent."""
        if self._signatures is None:
            return None
        try:
            return self._signatures.reply(asked, reply)
        except SignalError:
            self._matcher.finish(reply, written=False)
            raise

    def address(self, environ: Environ) -> str:
        """The client's address, hashed. A proxy's header that holds no address is not believed.

        Read here and not by Werkzeug's `ProxyFix`, which would change what the rest of an application sees.
        """
        address: str = environ.get("REMOTE_ADDR", "")
        hops = self._settings.trusted_proxies
        if hops:
            named = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
            if len(named) >= hops and is_address(named[-hops].strip()):
                address = named[-hops].strip()
        return self._identity.address(address)

    def _caller(self, asked: Request, address: str, environ: Environ) -> Caller:
        seen = ("HTTP_USER_AGENT", "HTTP_ACCEPT", "HTTP_ACCEPT_LANGUAGE")
        return self._identity.caller(
            address=address,
            fingerprint=asked.fingerprint,
            headers=tuple(environ.get(name, "") for name in seen),
            signer=asked.signer,
        )

    def check_origin(self, environ: Environ) -> None:
        """Raise Untrusted if a page asks whose origin is not listed."""
        allowed = self._settings.cors_origins
        if "*" not in allowed and environ.get("HTTP_ORIGIN") not in (None, *allowed):
            raise Untrusted("origin")

    def cors(self, environ: Environ) -> list[Header]:
        """The headers that let a page of a listed origin read the reply."""
        allowed = self._settings.cors_origins
        if "*" in allowed:
            return [("Access-Control-Allow-Origin", "*"), EXPOSED]
        for each in allowed:  # ours is written, not the client's, though they are equal
            if each == environ.get("HTTP_ORIGIN"):
                return [("Access-Control-Allow-Origin", each), EXPOSED, ("Vary", "Origin")]
        return [("Vary", "Origin")]


def refused(refusal: SignalError, headers: list[Header]) -> bytes:
    """The body of a refusal; what belongs to it is added to the headers."""
    if refusal.retry_after is not None:
        headers.append(("Retry-After", str(refusal.retry_after)))
    payload = encode(refusal.fields())
    headers.append(("Content-Length", str(len(payload))))
    return payload


def _compressed(payload: bytes, headers: list[Header], environ: Environ) -> bytes:
    """The body as the client takes it; what belongs to it is added to the headers."""
    if len(payload) >= WORTH_COMPRESSING:
        headers.append(("Vary", "Accept-Encoding"))
        if _accepts_gzip(environ.get("HTTP_ACCEPT_ENCODING", "")):
            payload = gzip.compress(payload, 1, mtime=0)
            headers.append(("Content-Encoding", "gzip"))
    headers.append(("Content-Length", str(len(payload))))
    return payload


class Watched:
    """A body of one piece that tells whether it was written.

    A WSGI server asks for the next piece once it has written the last one, and closes the body in any case.
    A response that the application dropped, by an error of its own, was not written either.
    """

    __slots__ = ("_finish", "_pieces")

    def __init__(self, payload: bytes, finish: Finish) -> None:
        self._pieces = [payload]
        self._finish: Finish | None = finish

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


def encode(fields: dict[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def _accepts_gzip(accepted: str) -> bool:
    for each in accepted.lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() in ("gzip", "x-gzip", "*"):
            return weight.replace(" ", "").rstrip("0") not in ("q=", "q=0.")
    return False
